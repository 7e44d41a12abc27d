"""What is behind the head: a busy background and the shoulders."""

import cv2
import numpy as np

from lmkd.data_builders.synthetic_faces.camera import View
from lmkd.data_builders.synthetic_faces.paint import mask_of, mix, polygon, stroke
from lmkd.data_builders.synthetic_faces.parameters import FaceParams
from lmkd.data_builders.synthetic_faces.shading import TILE, flat_lit, grain_tile

NECKLINE = slice(6, 13)  # of the points of `body_outline`
_SIDE = 96  # backgrounds are drawn small: they are out of focus anyway


def background(side_px: int, rng: np.random.Generator) -> np.ndarray:
    """Returns a random background uint8 [side, side, 3]: shapes, stripes and grain, more or less in focus."""
    corners = rng.uniform(20, 235, (2, 2, 3)).astype(np.float32)
    mean = corners.mean(axis=(0, 1))
    corners = _greyed(mean + (corners - mean) * np.float32(rng.uniform(0.2, 1.0)), rng.uniform(0.3, 0.9))
    image = np.asarray(cv2.resize(corners, (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR)).astype(np.uint8)
    for _ in range(int(rng.integers(0, 13))):
        _draw_shape(image, _greyed(np.clip(mean + rng.normal(0, 70, 3), 0, 255), 0.55), rng)
    image = np.asarray(cv2.GaussianBlur(image, (0, 0), float(rng.choice((0.5, 1.2, 3.0)))))
    y, x = rng.integers(0, TILE - _SIDE, 2)
    grain = grain_tile()[y : y + _SIDE, x : x + _SIDE, None] * np.float32(rng.uniform(0, 7))
    image = np.clip(image + grain, 0, 255).astype(np.uint8)
    return np.asarray(cv2.resize(image, (side_px, side_px), interpolation=cv2.INTER_LINEAR))


def _draw_shape(image: np.ndarray, colour: np.ndarray, rng: np.random.Generator) -> None:
    centre = rng.uniform(-10, _SIDE + 10, 2)
    kind = rng.integers(4)
    if kind == 0:
        corners = (centre + rng.normal(0, 20, (int(rng.integers(3, 7)), 2))).astype(np.float32)
        polygon(image, np.asarray(cv2.convexHull(corners))[:, 0], colour)
    elif kind == 1:
        around, turn = np.linspace(0, 2 * np.pi, 30, endpoint=False), rng.uniform(0, np.pi)
        axes = rng.uniform(3, 26, (2, 1)) * [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]
        polygon(image, centre + np.stack([np.cos(around), np.sin(around)], axis=-1) @ axes, colour)
    elif kind == 2:
        stroke(image, np.stack([centre, centre + rng.normal(0, 70, 2)]), rng.uniform(1, 8), colour)
    else:  # a crate, or a barred window
        half = rng.uniform(3, 21, 2)
        polygon(image, centre + half * [[-1, -1], [1, -1], [1, 1], [-1, 1]], colour)
        bars = np.stack(np.meshgrid(np.linspace(-half[0], half[0], 5), [-half[1], half[1]], indexing="ij"), axis=-1)
        stroke(image, centre + bars, 1, 0.7 * colour)


def _greyed(colour: np.ndarray, share: float) -> np.ndarray:
    """Mixes colours [..., 3] with their own grey: rooms and streets are less gaudy than random colours."""
    return colour + (colour.mean(axis=-1, keepdims=True) - colour) * np.float32(share)


def body_outline(view: View, neck_foot_hu: np.ndarray, face: FaceParams, rng: np.random.Generator) -> np.ndarray:
    """Returns the outline of the clothes [n, 2] in pixels; the neck ends at turned points [m, 3].

    First the left shoulder, then `NECKLINE` (high, round or deep), then the right shoulder.
    """
    foot = neck_foot_hu.mean(axis=0)[:2]
    span = 1.95 - 0.3 * face.identity.feminine
    drop = np.array([[0.47, -0.68], [0.75, -0.52], [1.2, -0.36], [span, -0.12], [span + 0.3, 0.25], [span + 0.5, 5.0]])
    dip = float(rng.choice((0.12, 0.5, -0.28)))
    around = np.linspace(0.0, np.pi, 9)[1:-1, None]
    neckline = np.concatenate([-np.cos(around) * 0.47, -0.68 + np.sin(around) ** 0.8 * (dip + 0.40)], axis=1)
    outline = foot + np.concatenate([(drop * [-1, 1])[::-1], neckline, drop])
    return outline * view.scale_px + view.offset_px


def draw_chest(image: np.ndarray, outline_px: np.ndarray, face: FaceParams) -> None:
    """Draws the skin that shows inside the neckline, in place."""
    polygon(image, np.delete(outline_px, NECKLINE, axis=0), 1.05 * flat_lit(face.colours.skin, face.light))


def draw_clothes(image: np.ndarray, outline_px: np.ndarray, behind: np.ndarray, face: FaceParams, rng) -> None:
    """Draws the clothes in place, except at the flat pixel indices `behind` (head and ears hide them there)."""
    mask = mask_of(outline_px, image)
    mask.ravel()[behind] = 0
    mix(image, mask, np.asarray(cv2.resize(_cloth(face, rng), image.shape[1::-1], interpolation=cv2.INTER_LINEAR)))


def _cloth(face: FaceParams, rng: np.random.Generator) -> np.ndarray:
    light = face.light
    x = np.linspace(-1, 1, _SIDE, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, _SIDE, dtype=np.float32)[:, None]
    tone = 0.8 + 0.3 * np.float32(np.sin(np.deg2rad(light.azimuth_deg)) * light.key) * x - 0.12 * y
    if rng.uniform() < 0.3:
        period, angle = rng.uniform(0.08, 0.25), np.float32(rng.uniform(0, np.pi))
        tone = tone * (1 + 0.25 * np.sin((x * np.cos(angle) + y * np.sin(angle)) * np.float32(2 * np.pi / period)))
    start_y, start_x = rng.integers(0, TILE - _SIDE, 2)
    tone = tone + 0.05 * grain_tile()[start_y : start_y + _SIDE, start_x : start_x + _SIDE]
    base = np.multiply(face.colours.clothes, light.exposure * (0.55 + 0.5 * light.ambient)).astype(np.float32)
    return np.clip(base * tone[..., None], 0, 255).astype(np.uint8)
