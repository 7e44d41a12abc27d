"""Glasses, hats and what covers a face. (being written)"""


def draw(image, scene, face, depth, rng) -> None:
    pass
