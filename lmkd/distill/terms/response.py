"""Terms on what teachers answer: their heatmaps, as values or as distributions over positions, or their points.

TeacherHeatmaps(scale=1000.0)                                # mean squared error, teachers weighted alike
TeacherHeatmaps(combine="error", temperature_px=1.0)         # on each face, the better teacher has more to say
TeacherPositions(combine="mean", gate_cells=2.0)             # the mean teacher, where it is right
TeacherSoftArgmaxL1(all_points=True)                         # one teacher's points, those that nobody labelled too
"""

import abc
import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from lmkd.core.errors import UserError, report_together, unknown
from lmkd.distill.base import OfPoints, TermInputs, TermOutput
from lmkd.distill.taps import tap_of
from lmkd.distill.terms.ground_truth import expected_errors_cells
from lmkd.ops import losses

COMBINE = ("fixed", "error", "mean")
DISTANCES = {"mse": losses.map_mse, "l2": losses.map_l2}
_SEVERAL = (
    "several teachers: weighted sum; mean teacher of You et al. 2017, KDD, doi 10.1145/3097983.3098135; weights by error: "
    "ours, after Zhang et al. 2022, arXiv 2201.00007; gates: ours, after GKD of Zhou et al. 2020, arXiv 2006.01683"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Response(OfPoints, abc.ABC):
    """What both terms share: which teacher has how much to say, on which face and at which point.

    Attributes:
      combine: "fixed" adds the distances to each teacher up; "error" does so with weights that are a softmax of
        -(the teacher's own error on this face) / temperature_px, times `weights`; "mean" takes one distance, to the teachers'
        mean. A teacher's error is the mean distance of its points from the true ones, over the counted points, in the
        student's pixels; on a face without any, `weights` alone remain.
      weights: of the teachers, in the term's order of them, made to sum to 1; () is alike.
      temperature_px: by how many pixels a teacher must be better to have e times the weight.
      min_peak: a teacher is unheard at points where the peak of its map is lower (0: heard everywhere). Peaks are about 1
        for a sure teacher with a linear head, less for a spread-out map under a softmax.
      gate_cells: a teacher is unheard at counted points that it puts farther than this from the truth (0: heard everywhere).
      all_points: also points that do not count, being unlabelled or outside of the crop: teachers may know them.
        `gate_cells` cannot judge these; `min_peak` can.
    """

    combine: str = "fixed"
    weights: tuple[float, ...] = ()
    temperature_px: float = 1.0
    min_peak: float = 0.0
    gate_cells: float = 0.0
    teachers: ClassVar[str] = "several"

    def __post_init__(self):
        problems = [] if self.combine in COMBINE else [str(unknown("way to combine teachers", self.combine, COMBINE))]
        if self.weights and (min(self.weights) < 0 or sum(self.weights) <= 0):
            problems.append(f"weights: none may be negative and their sum must be more than 0, got {self.weights!r}")
        if not self.temperature_px > 0:
            problems.append(f"temperature_px: needs more than 0, got {self.temperature_px!r}")
        report_together([*problems, *self._problems()], f"{type(self).__name__} cannot be built")

    def loss(self, inputs: TermInputs) -> TermOutput:
        """Returns the mean over the points that count, where unheard teachers add 0, one value a face.

        A point keeps its weight when others fall silent: a face that no teacher knows weighs nothing, rather than one lucky
        point of it as much as a whole face. Logs "heard": the share of counted points at which some teacher is heard (where a
        gate is on), and "weight_<teacher>" (with "error").
        """
        points = self.counted(inputs)
        taught = {name: self._taught(teacher) for name, teacher in inputs.teachers.items()}
        heard = {name: points * usable * self._heard(inputs, name) for name, (_, usable) in taught.items()}
        share = self._shares(inputs)
        if self.combine == "mean":
            sway = {name: share[name][:, None] * heard[name] for name in taught}
            total = sum(sway.values())
            mean = sum(sway[name][:, None, None] * taught[name][0] for name in taught)
            mean = mean / jnp.where(total > 0, total, 1.0)[:, None, None]
            distances = self._distance(inputs, mean) * (total > 0)
        else:
            distances = sum(share[name][:, None] * heard[name] * self._distance(inputs, taught[name][0]) for name in taught)
        logs = {}
        if self.min_peak or self.gate_cells:
            logs["heard"] = losses.mean_over_points((sum(heard.values()) > 0).astype(jnp.float32), points)
        if self.combine == "error":
            logs |= {f"weight_{name}": share[name] for name in share}
        # Distances hold the points' counts already.
        return TermOutput(jnp.sum(distances, axis=1) / jnp.maximum(jnp.sum(points, axis=1), 1.0), logs=logs)

    def _shares(self, inputs: TermInputs) -> dict[str, Any]:
        """Each teacher's weight, f32 [b], summing to 1 over teachers on every face."""
        names = list(inputs.teachers)
        if self.weights and len(self.weights) != len(names):
            raise UserError(
                f"{type(self).__name__}: {len(self.weights)} weights {self.weights!r} for {len(names)} teachers "
                f"({', '.join(names)}). Give one each, in this order, or none for equal ones."
            )
        weights = jnp.asarray(self.weights or (1.0,) * len(names), jnp.float32)
        scores = jnp.log(weights)[:, None] * jnp.ones((1, inputs.counts.shape[0]))  # -inf: never heard
        if self.combine == "error":
            errors = [losses.mean_over_points(_errors_px(inputs, name), inputs.counts) for name in names]
            scores = scores - jnp.stack(errors) / self.temperature_px
        return dict(zip(names, jax.nn.softmax(scores, axis=0), strict=True))

    def _heard(self, inputs: TermInputs, name: str) -> Any:
        """1 where a teacher passes the gates, f32 [b, k]."""
        passes = jnp.ones_like(inputs.counts, bool)
        if self.min_peak:
            passes &= jnp.max(inputs.teachers[name].heatmaps, axis=(1, 2)) >= self.min_peak
        if self.gate_cells:
            passes &= (_errors_px(inputs, name) <= self.gate_cells * inputs.stride) | (inputs.counts == 0)
        return passes.astype(jnp.float32)

    def _problems(self) -> list[str]:
        return []

    @abc.abstractmethod
    def _taught(self, teacher: Any) -> tuple[Any, Any]:
        """What a teacher says, in the form that is averaged, f32 [b, h, w, k], and 1 where it says anything, f32 [b, k]."""

    @abc.abstractmethod
    def _distance(self, inputs: TermInputs, taught: Any) -> Any:
        """The student's distance from it, f32 [b, k]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherHeatmaps(_Response):
    """Distance between the student's heatmaps and the teachers', times `scale`. The further options: `_Response`.

    Teachers must draw with the student's sigma, or the two terms pull at the width of its peaks.

    Attributes:
      scale: a factor (peak-1 maps are mostly empty, so the plain mean is tiny).
      distance: "mse", the mean of squares over cells; "l2", the Euclidean norm over cells, one root for each point: gradients
        of the same size however near the student has come.
    """

    scale: float = 1.0
    distance: str = "mse"
    source: ClassVar[str] = f"Zhang, Zhu, Ye 2019, arXiv 1811.05419 (FPD), the pose distillation loss; {_SEVERAL}"

    def _problems(self) -> list[str]:
        return [] if self.distance in DISTANCES else [str(unknown("distance", self.distance, DISTANCES))]

    def _taught(self, teacher: Any) -> tuple[Any, Any]:
        maps = teacher.heatmaps.astype(jnp.float32)
        return maps, jnp.ones_like(maps[:, 0, 0])

    def _distance(self, inputs: TermInputs, taught: Any) -> Any:
        return self.scale * DISTANCES[self.distance](tap_of(inputs.student, "heatmaps", of="the student"), taught)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherPositions(_Response):
    """KL from the teachers' heatmaps, as distributions over positions, to the student's softmax. Starts fast; MSE lingers.

    T^2 KL(teacher || student) at temperature T: the teacher's map, negative cells and those below `floor` set to 0, raised to
    1 / T and scaled to sum 1 (for a softmax head, its softmax at T); the student's softmax of its tap "logits" over T. Needs a
    student with heatmap_activation="softmax". The further options: `_Response`. "mean" averages distributions.

    Attributes:
      temperature: T. More than 1 widens both; unlike in `ChannelKL` it does not depend on the maps' scale.
      floor: cells lower than this are taken as empty. A linear head's background, 0.002 in each of 4096 cells, holds half as
        much as its peak (2 pi sigma^2 = 14 for sigma 1.5): give 0.01 or so there. A Gaussian loses that share of itself.
    """

    temperature: float = 1.0
    floor: float = 0.0
    source: ClassVar[str] = (
        f"Hinton et al. 2015, arXiv 1503.02531, section 2, over positions in the place of classes; {_SEVERAL}"
    )

    def _problems(self) -> list[str]:
        return [] if self.temperature > 0 else [f"temperature: needs more than 0, got {self.temperature!r}"]

    def _taught(self, teacher: Any) -> tuple[Any, Any]:
        maps = teacher.heatmaps.astype(jnp.float32)
        maps = jnp.where(maps >= max(self.floor, 0.0), maps, 0.0)
        usable = jnp.sum(maps, axis=(1, 2)) > losses.MIN_MASS
        maps = maps ** (1.0 / self.temperature)
        mass = jnp.sum(maps, axis=(1, 2), keepdims=True)
        return maps / jnp.maximum(mass, 1e-6), usable.astype(jnp.float32)

    def _distance(self, inputs: TermInputs, taught: Any) -> Any:
        logits = tap_of(inputs.student, "logits", of="the student") / self.temperature
        return self.temperature**2 * losses.position_divergence(logits, taught)


@dataclasses.dataclass(frozen=True)
class TeacherSoftArgmaxL1(OfPoints):
    """Smooth L1 of the expected position, in cells: the softmax's mean over positions against the teacher's point.

    `ground_truth.SoftArgmaxL1` with the teacher in the place of the truth: for faces that nobody labelled. Needs a student with
    heatmap_activation="softmax".

    Attributes:
      beta_cells: where the square turns into the absolute value; 0 is plain L1.
      all_points: also points that do not count, being unlabelled or outside of the crop: the teacher may know them.
    """

    beta_cells: float = 0.1
    source: ClassVar[str] = "Sun et al. 2018, arXiv 1711.08229, equation 2, towards a teacher's point: ours"
    teachers: ClassVar[str] = "one"

    def loss(self, inputs: TermInputs) -> TermOutput:
        """Returns the mean over counted points and both axes, one value a face."""
        errors = losses.smooth_l1(expected_errors_cells(inputs, inputs.teacher.landmarks_px), beta=self.beta_cells)
        return TermOutput(losses.mean_over_points(jnp.mean(errors, axis=-1), self.counted(inputs)))


def _errors_px(inputs: TermInputs, name: str) -> Any:
    """How far a teacher's points lie from the true ones, in the student's pixels, f32 [b, k]."""
    return jnp.linalg.norm(inputs.teachers[name].landmarks_px - inputs.batch["landmarks_px"], axis=-1)
