"""Frozen teachers: they see the student's very crop, in evaluation mode, and what they draw is brought to the student's grid.

Crops are cut once, at the largest input of all networks; a smaller network resizes them on the device, with antialiasing.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from lmkd.models.landmarker import Landmarker, Outputs


class Teacher(NamedTuple):
    """A teacher's network and the side of its input in pixels; its variables travel beside it, as arguments of the step."""

    model: Landmarker
    image_px: int


def resized(image: Shaped[Array | np.ndarray, "b s s 3"], side_px: int) -> Shaped[Array | np.ndarray, "b t t 3"]:
    """Returns square crops at `side_px`, 0..255: as they are where they have that side, else float32, antialiased.

    A triangle filter as wide as the reduction (Pillow's "bilinear"), by the one pixel convention of `core.geometry`.
    """
    if image.shape[1] == side_px:
        return image
    shape = (image.shape[0], side_px, side_px, image.shape[3])
    return jax.image.resize(jnp.asarray(image, jnp.float32), shape, "linear", antialias=True)


def seen_at(batch: Mapping[str, Any], side_px: int) -> dict[str, Any]:
    """Returns the batch as a network with inputs of `side_px` sees it: crops resized, points in its pixels."""
    factor = side_px / batch["image"].shape[1]
    points = _scaled(batch["landmarks_px"], factor)
    return {**batch, "image": resized(batch["image"], side_px), "landmarks_px": points}


def look(
    teachers: Mapping[str, Teacher], variables: Mapping[str, Any], image: Any, *, grid: tuple[int, int], student_px: int
) -> dict[str, Outputs]:
    """Runs every teacher on the same crops.

    Args:
      teachers: by name.
      variables: theirs, by name.
      image: crops [b, S, S, 3] at the size that they were cut at.
      grid: (height, width) of the student's heatmaps.
      student_px: side of the student's input.

    Returns:
      name -> Outputs: heatmaps on `grid`, points in the student's pixels, taps as the teacher has them.
    """
    found = {}
    for name, teacher in teachers.items():
        outputs: Any = teacher.model.apply(variables[name], resized(image, teacher.image_px), train=False)
        factor = student_px / teacher.image_px
        points = _scaled(outputs.landmarks_px, factor)
        found[name] = Outputs(on_grid(outputs.heatmaps, grid), points, outputs.taps, outputs.confidence)
    return found


def on_grid(heatmaps: Float[Array, "b h w k"], grid: tuple[int, int]) -> Float[Array, "b h2 w2 k"]:
    """Returns heatmaps on another grid, by linear interpolation at the cells' centres.

    Without antialiasing on purpose: a Gaussian of a cell or more is smooth already, and a filter would lower its peak.
    """
    if heatmaps.shape[1:3] == tuple(grid):
        return heatmaps
    shape = (heatmaps.shape[0], *grid, heatmaps.shape[3])
    return jax.image.resize(heatmaps, shape, "linear", antialias=False)


def _scaled(points: Any, factor: float) -> Any:
    """Pixel x of a crop lies at factor (x + 0.5) - 0.5 of the resized one."""
    return points if factor == 1 else (points + 0.5) * factor - 0.5
