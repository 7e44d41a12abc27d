"""THE pixel convention, and the crops and flips that follow from it.

The centre of the top-left pixel is (0, 0), so an image of width W covers x from -0.5 to W - 0.5. Resizing by f maps x to
f (x + 0.5) - 0.5. A flip maps x to W - 1 - x. Coordinates are (x, y). Files in other conventions (`.pts` is 1-based) are
converted where they are read. Affines are float64 [2, 3] and map column vectors (x, y, 1).
"""

from typing import NamedTuple

import numpy as np


class Square(NamedTuple):
    """A square region of an image: centre (x, y) and side, in image pixels."""

    centre_px: tuple[float, float]
    side_px: float


def tight_box(points_px: np.ndarray) -> tuple[float, float, float, float]:
    """Returns (x_min, y_min, x_max, y_max) of points [k, 2]; NaN points are left out."""
    lo, hi = np.nanmin(points_px, axis=0), np.nanmax(points_px, axis=0)
    return float(lo[0]), float(lo[1]), float(hi[0]), float(hi[1])


def square_around(box_px: tuple[float, float, float, float], scale: float) -> Square:
    """Returns the square about a box's centre whose side is `scale` times the box's longer side (HRNet: 1.25)."""
    x0, y0, x1, y1 = box_px
    return Square(((x0 + x1) / 2, (y0 + y1) / 2), max(x1 - x0, y1 - y0, 1.0) * scale)


def crop_affine(
    square: Square,
    size_px: int,
    *,
    rotation_deg: float = 0.0,
    flip: bool = False,
) -> np.ndarray:
    """Returns the affine float64 [2, 3] from crop pixels to image pixels.

    The crop, `size_px` on a side, shows `square` turned by `rotation_deg` about its centre (the face turns clockwise on
    screen as the angle grows) and then, with `flip`, mirrored: crop x becomes size_px - 1 - x.
    """
    scale = square.side_px / size_px
    angle = np.deg2rad(rotation_deg)
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    linear = np.array([[cos, sin], [-sin, cos]])
    middle = (size_px - 1) / 2
    affine = np.concatenate([linear, (np.asarray(square.centre_px) - linear @ [middle, middle])[:, None]], axis=1)
    return compose(affine, flip_affine(size_px)) if flip else affine


def flip_affine(width_px: int) -> np.ndarray:
    """Returns the affine float64 [2, 3] of x -> width_px - 1 - x."""
    return np.array([[-1.0, 0.0, width_px - 1.0], [0.0, 1.0, 0.0]])


def resize_affine(factor: float) -> np.ndarray:
    """Returns the affine float64 [2, 3] of x -> factor (x + 0.5) - 0.5 on both axes."""
    return np.array([[factor, 0.0, 0.5 * factor - 0.5], [0.0, factor, 0.5 * factor - 0.5]])


def compose(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Returns the affine that applies `inner` first, then `outer`; both [2, 3]."""
    return (_square_matrix(outer) @ _square_matrix(inner))[:2]


def invert(affine: np.ndarray) -> np.ndarray:
    """Returns the inverse affine [2, 3]. Raises numpy.linalg.LinAlgError where there is none."""
    return np.linalg.inv(_square_matrix(affine))[:2]


def apply_affine(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Maps points [..., k, 2] by affines [..., 2, 3] (leading axes broadcast)."""
    affine, points = np.asarray(affine), np.asarray(points)
    return points @ np.swapaxes(affine[..., :2], -1, -2) + affine[..., None, :, 2]


def _square_matrix(affine: np.ndarray) -> np.ndarray:
    return np.concatenate([np.asarray(affine, np.float64), [[0.0, 0.0, 1.0]]])
