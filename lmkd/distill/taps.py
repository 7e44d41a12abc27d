"""How terms reach inside a network: a tap by name, always float32, and maps brought to another grid.

    student = tap_of(inputs.student, "stage2.0", of="the student")          # [b, h, w, c]
    teacher = at_grid(tap_of(inputs.teacher, "stage2.0", of="teacher w32"), student.shape[1:3])

What a network offers (`models.hrnet`, `models.landmarker`): "stem" and "stage1" at 1/4 of the image; "stageN.i", the output of
stage N on branch i, at 1/4, 1/8, 1/16 and 1/32 for i from 0 on; "features", what the head's last layer sees; "logits", the
head's own maps; and "heatmaps", which are the `Outputs.heatmaps`.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmkd.core.errors import unknown
from lmkd.distill.base import TermInputs
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


def pair(inputs: TermInputs, tap: str, teacher_tap: str) -> tuple[Array, Array]:
    """Returns one tap of the student and of its only teacher, float32, each on its own grid."""
    ((name, teacher),) = inputs.teachers.items()
    return tap_of(inputs.student, tap, of="the student"), tap_of(teacher, teacher_tap, of=f"teacher {name}")


def pairs(inputs: TermInputs, taps: tuple[str, ...], teacher_taps: tuple[str, ...]) -> Iterator[tuple[str, Array, Array]]:
    """Yields (the student's tap, its map, the teacher's map); no `teacher_taps` are the same names."""
    for tap, teacher_tap in zip(taps, teacher_taps or taps, strict=True):
        yield tap, *pair(inputs, tap, teacher_tap)


def problems(taps: tuple[str, ...], teacher_taps: tuple[str, ...]) -> list[str]:
    """Says what is wrong with a term's taps: none, a name twice, or another number of the teacher's."""
    found = [] if taps else ["taps: needs one at least"]
    if teacher_taps and len(teacher_taps) != len(taps):
        found.append(f"teacher_taps: {len(teacher_taps)} names for {len(taps)} taps; give as many, or none for the same")
    if len(set(taps)) != len(taps):
        found.append(f"taps: {', '.join(taps)} names one twice")
    return found


def key_of(tap: str) -> str:
    """A tap's name as a parameter's: checkpoints write a dot between the levels of a tree."""
    return tap.replace(".", "_")
