"""A model without a network: it finds the middle of what is bright, so that the right answer is known to a hundredth pixel."""

import numpy as np

from lmkd.core.schemes import Scheme
from lmkd.models.readout import Reading
from lmkd.opened import Opened
from lmkd.predictor import Predictor

SCHEME = Scheme(name="blob", names=("middle", "corner"), flip=(0, 1), lines=((0, 1),))


class Network:
    """Counts its runs; the second point is the crop's top-left pixel."""

    def __init__(self):
        self.seen = []

    def __call__(self, crops):
        self.seen.append(crops)
        light = crops.astype(np.float64).mean(axis=-1)
        total = light.sum(axis=(1, 2)) + 1e-9
        steps = np.arange(crops.shape[1])
        middle = np.stack([light.sum(axis=1) @ steps, light.sum(axis=2) @ steps], axis=-1) / total[:, None]
        points = np.stack([middle, np.zeros_like(middle)], axis=1).astype(np.float32)
        return Reading(np.zeros((len(crops), 8, 8, 2), np.float32), points, np.full((len(crops), 2), 0.5, np.float32))


def predictor(*, boxes=(), image_px=32, crop_scale=1.5, network=None) -> Predictor:
    """Returns a predictor whose detector finds `boxes` in every image."""
    model = Opened(network or Network(), SCHEME, image_px, crop_scale, "blob")
    return Predictor(model, lambda image: np.asarray(boxes, np.float64).reshape(-1, 4), refine=False)


def blob(x, y, *, sigma=6.0, size=(300, 400)) -> np.ndarray:
    """Draws a soft white blob on black, uint8 [h, w, 3]."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    light = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return np.repeat(np.round(255 * light).astype(np.uint8)[..., None], 3, axis=2)


def around(x, y, side=60.0) -> list[float]:
    """Returns a box about a place."""
    return [x - side / 2, y - side / 2, x + side / 2, y + side / 2]
