"""How terms reach inside a network: a tap by name, always float32, and maps brought to another grid.

    student = tap_of(inputs.student, "stage2.0", of="the student")          # [b, h, w, c]
    teacher = at_grid(tap_of(inputs.teacher, "stage2.0", of="teacher w32"), student.shape[1:3])

What a network offers (`models.hrnet`, `models.landmarker`): "stem" and "stage1" at 1/4 of the image; "stageN.i", the output of
stage N on branch i, at 1/4, 1/8, 1/16 and 1/32 for i from 0 on; "features", what the head's last layer sees; "logits", the
head's own maps; and "heatmaps", which are the `Outputs.heatmaps`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmkd.core.errors import unknown
from lmkd.models.landmarker import Outputs

OF_POINTS = ("heatmaps", "logits")
"""Taps whose channels are the points: one that does not count has no say there."""


def tap_of(outputs: Outputs, name: str, *, of: str) -> Float[Array, "b h w c"]:
    """Returns a tap in float32: sums over positions, softmaxes and logarithms want it, whatever the network computed in.

    Args:
      outputs: a network's.
      name: a tap's, or "heatmaps".
      of: whose outputs they are, for the message.

    Raises:
      UserError: the network has no such tap. At trace time, so before the first step.
    """
    if name != "heatmaps" and name not in outputs.taps:
        raise unknown("tap", name, {"heatmaps", *outputs.taps}, of)
    return (outputs.heatmaps if name == "heatmaps" else outputs.taps[name]).astype(jnp.float32)


def at_grid(maps: Float[Array, "b h w c"], grid: tuple[int, ...]) -> Float[Array, "b h2 w2 c"]:
    """Returns maps on a grid (height, width) over the same image: linear, antialiased where the grid is coarser."""
    if maps.shape[1:3] == tuple(grid):
        return maps
    return jax.image.resize(maps, (maps.shape[0], *grid, maps.shape[3]), "linear", antialias=True)
