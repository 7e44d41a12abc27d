"""The KD-loss of Fard & Mahoor: the truth, with two teachers that assist where they help.

    KDLoss()                                      # its teachers in the config: ("tough", "tolerant"), in this order
    KDLoss(assist_weights=(0.0, 0.0))             # its main loss alone, which still looks at the tolerant teacher

The tough teacher has learned the annotated points, the tolerant one points smoothed by an active shape model
(`data.smoothing`).
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmkd.core.errors import UserError, report_together
from lmkd.distill.base import TermInputs, TermOutput
from lmkd.ops import losses

Pair = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class KDLoss:
    """Main loss against the truth plus an assistive loss for each teacher, on every coordinate by itself.

    With t the truth, p the prediction, e = |p - t|, and d a teacher's own error |q - t|, all in fractions of the crop's side:

    - main: `slope` e where e <= d of the tolerant teacher, else e^2 + slope d - d^2 (as the code has it: the two meet at d);
    - assistive: the teacher's point is mirrored to the prediction's side of the truth; its distance |e - d| from the
      prediction, times `pull` where the prediction lies beyond the teacher (towards it is towards the truth), times `push`
      (negative: away from the teacher, towards the truth) where it lies between `dead_zone` d and d, times 0 nearer to the
      truth.

    All of it depends on p through e alone, so on which side of the truth a teacher errs does not matter. The defaults, and the
    fractions as unit, are those of the authors' code (aliprf/KD-Loss). Between `dead_zone` d and d the assistive loss is
    negative: it is no figure to compare.

    Attributes:
      main_weight: of the main loss.
      assist_weights: of the assistive losses: (tough, tolerant).
      pull: factors beyond a teacher: (tough, tolerant).
      push: factors between `dead_zone` and 1 of a teacher's error: (tough, tolerant); not positive.
      dead_zone: share of a teacher's error within which it is silent.
      slope: of the main loss near the truth.
      tough: the name of the tough teacher; "" is the first of the term's two.
      tolerant: the name of the tolerant teacher; "" is the second.
    """

    main_weight: float = 2.0
    assist_weights: Pair = (1.0, 1.0)
    pull: Pair = (1.9, 1.8)
    push: Pair = (-0.45, -0.40)
    dead_zone: float = 0.15
    slope: float = 3.0
    tough: str = ""
    tolerant: str = ""
    source: ClassVar[str] = "Fard, Mahoor 2022, arXiv 2111.07047 (KD-Loss, assistive losses), weights as in its code"
    teachers: ClassVar[str] = "several"
    silent_without_labels: ClassVar[bool] = True

    def __post_init__(self):
        problems = []
        if not 0 <= self.dead_zone <= 1:
            problems.append(f"dead_zone: needs a share from 0 to 1, got {self.dead_zone!r}")
        if max(self.push) > 0:
            problems.append(f"push: may not be positive, got {self.push!r}: it would pull the prediction away from the truth")
        if min(self.pull) < 0:
            problems.append(f"pull: may not be negative, got {self.pull!r}")
        if bool(self.tough) != bool(self.tolerant):
            problems.append(f"tough, tolerant: name both teachers or neither, got {self.tough!r} and {self.tolerant!r}")
        report_together(problems, "KDLoss cannot be built")

    def loss(self, inputs: TermInputs) -> TermOutput:
        """Returns the mean over counted points and both axes, one value a face.

        Logs "main", "tough" and "tolerant": the three parts, weighted.
        """
        side_px = inputs.batch["image"].shape[1]
        truth_px = inputs.batch["landmarks_px"]
        truth_px = jnp.where(jnp.isfinite(truth_px), truth_px, 0.0)
        tough, tolerant = (inputs.teachers[name].landmarks_px for name in self._names(inputs))
        error = jnp.abs(inputs.student.landmarks_px.astype(jnp.float32) - truth_px) / side_px
        own = [jnp.abs(points - truth_px) / side_px for points in (tough, tolerant)]
        parts = {"main": self.main_weight * main_loss(error, own[1], slope=self.slope)}
        for n, name in enumerate(("tough", "tolerant")):
            assist = assistive_loss(error, own[n], pull=self.pull[n], push=self.push[n], dead_zone=self.dead_zone)
            parts[name] = self.assist_weights[n] * assist
        logs: dict[str, Any] = {
            name: losses.mean_over_points(jnp.mean(part, axis=-1), inputs.counts) for name, part in parts.items()
        }
        return TermOutput(logs["main"] + logs["tough"] + logs["tolerant"], logs=logs)

    def _names(self, inputs: TermInputs) -> tuple[str, str]:
        names = tuple(inputs.teachers)
        if self.tough and {self.tough, self.tolerant} == set(names):
            return self.tough, self.tolerant
        if len(names) != 2 or self.tough:
            wanted = f"{self.tough!r} and {self.tolerant!r}" if self.tough else "two: the tough one, then the tolerant one"
            raise UserError(f"KDLoss: its teachers are {', '.join(names) or 'none'}; it needs {wanted}.")
        return names[0], names[1]


def main_loss(error: Float[Array, "b k 2"], teacher_error: Float[Array, "b k 2"], *, slope: float) -> Float[Array, "b k 2"]:
    """slope e within the teacher's error d, else e^2 + slope d - d^2; errors are not negative."""
    beyond = jnp.square(error) + slope * teacher_error - jnp.square(teacher_error)
    return jnp.where(error <= teacher_error, slope * error, beyond)


def assistive_loss(
    error: Float[Array, "b k 2"], teacher_error: Float[Array, "b k 2"], *, pull: float, push: float, dead_zone: float
) -> Float[Array, "b k 2"]:
    """|e - d| times `pull` where e > d, times `push` where dead_zone d <= e <= d, else 0.

    A teacher without an error of its own stands on the truth, where the main loss pulls already: it is silent, as in the code.
    """
    beyond = (error > teacher_error) & (teacher_error > 0)
    between = (error <= teacher_error) & (error >= dead_zone * teacher_error)
    factor = jax.lax.stop_gradient(jnp.where(beyond, pull, jnp.where(between, push, 0.0)))
    return factor * jnp.abs(error - teacher_error)
