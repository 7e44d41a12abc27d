"""Terms on coordinates: the student's points against the truth, or against a teacher's points.

PointL2()                              # squared distance to the truth
TeacherPointL2()                       # squared distance to the teacher's points
PointSmoothL1(beta=0.01)
PointWing(width=10 / 64, epsilon=2 / 64)

Lengths are fractions of the crop's side, so that they mean the same at any input size. They are for students that
regress coordinates: `landmarks_px` of a heatmap student has no gradient (`ground_truth.SoftArgmaxL1` reads maps).
"""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp

from lmkd.core.errors import report_together
from lmkd.distill.base import OfPoints, TermInputs, TermOutput
from lmkd.ops import losses


@dataclasses.dataclass(frozen=True)
class PointL2:
    """Squared distance of a point to the truth, (dx^2 + dy^2) in fractions of the crop's side, times `scale`.

    The paper's L2 over all 2 K outputs is K times this one where every point counts: its lambda between two such terms is the
    same here.
    """

    scale: float = 1.0
    source: ClassVar[str] = "squared L2 to the truth, as the hard part of RBD: Shukla, Huang 2021"
    teachers: ClassVar[str] = "none"

    def loss(self, inputs: TermInputs) -> TermOutput:
        """Returns the mean over counted points, one value a face."""
        return _mean_of_squares(_errors(inputs, inputs.batch["landmarks_px"]), inputs.counts, self.scale)


@dataclasses.dataclass(frozen=True)
class TeacherPointL2(OfPoints):
    """Squared distance of a point to the teacher's, (dx^2 + dy^2) in fractions of the crop's side, times `scale`.

    `PointL2` + lambda `TeacherPointL2` is response-based distillation ("RBD").

    Attributes:
      scale: a factor.
      all_points: also points that do not count, being unlabelled or outside of the crop: the teacher may know them.
    """

    scale: float = 1.0
    source: ClassVar[str] = "squared L2 to the teacher's points, the soft part of RBD: Shukla, Huang 2021"
    teachers: ClassVar[str] = "one"

    def loss(self, inputs: TermInputs) -> TermOutput:
        """Returns the mean over counted points, one value a face."""
        return _mean_of_squares(_errors(inputs, inputs.teacher.landmarks_px), self.counted(inputs), self.scale)


@dataclasses.dataclass(frozen=True)
class PointSmoothL1:
    """Smooth L1 of both coordinates' errors, in fractions of the crop's side, times `scale`.

    Attributes:
      beta: where the square turns into the absolute value, in fractions of the side; 0 is plain L1.
      scale: a factor.
    """

    beta: float = 0.01
    scale: float = 1.0
    source: ClassVar[str] = "Girshick 2015, arXiv 1504.08083, equation 3, with beta"
    teachers: ClassVar[str] = "none"

    def __post_init__(self):
        problems = [] if self.beta >= 0 else [f"beta: may not be negative, got {self.beta!r}"]
        report_together(problems, "PointSmoothL1 cannot be built")

    def loss(self, inputs: TermInputs) -> TermOutput:
        """Returns the mean over counted points and both axes, one value a face."""
        errors = losses.smooth_l1(_errors(inputs, inputs.batch["landmarks_px"]), beta=self.beta)
        return TermOutput(self.scale * losses.mean_over_points(jnp.mean(errors, axis=-1), inputs.counts))


@dataclasses.dataclass(frozen=True)
class PointWing:
    """Wing loss of both coordinates' errors, in fractions of the crop's side, times `scale`.

    Small errors weigh more than under L1. The paper's w = 10 and epsilon = 2 are pixels of a 64 x 64 input, which the defaults
    say in fractions; its loss is 64 times this one (`scale`). The slope jumps at 0 from side to side, so that it wants a
    decaying rate.
    """

    width: float = 10 / 64
    epsilon: float = 2 / 64
    scale: float = 1.0
    source: ClassVar[str] = "Feng et al. 2018, arXiv 1711.06753, equation 5"
    teachers: ClassVar[str] = "none"

    def __post_init__(self):
        problems = [
            f"{name}: needs more than 0, got {value!r}"
            for name, value in (("width", self.width), ("epsilon", self.epsilon))
            if not value > 0
        ]
        report_together(problems, "PointWing cannot be built")

    def loss(self, inputs: TermInputs) -> TermOutput:
        """Returns the mean over counted points and both axes, one value a face."""
        errors = losses.wing(_errors(inputs, inputs.batch["landmarks_px"]), width=self.width, epsilon=self.epsilon)
        return TermOutput(self.scale * losses.mean_over_points(jnp.mean(errors, axis=-1), inputs.counts))


def _errors(inputs: TermInputs, points_px: Any) -> Any:
    """The student's points less others, f32 [b, k, 2], in fractions of the crop's side."""
    side_px = inputs.batch["image"].shape[1]
    # Points that do not count may be NaN, and NaN times a count of 0 is NaN. The student's own NaN shall show.
    known = jnp.where(jnp.isfinite(points_px), points_px, 0.0)
    return (inputs.student.landmarks_px.astype(jnp.float32) - known) / side_px


def _mean_of_squares(errors: Any, counts: Any, scale: float) -> TermOutput:
    return TermOutput(scale * losses.mean_over_points(jnp.sum(jnp.square(errors), axis=-1), counts))
