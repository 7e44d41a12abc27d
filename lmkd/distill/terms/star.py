"""Terms of Hong & Lin 2024 (STAR's losses with distillation): error along a heatmap's own axes, edges, points, fused maps.

    Star()                                         # weight 1
    EdgeMaps(edges=scheme.lines)                   # weight 10
    PointMaps()                                    # weight 10
    FusedMaps(kind="mse")                          # weight 100, as its code; kind="l2" as its paper

Made for the head `models.anisotropic.AnisotropicAttention`; `Star` reads any heatmaps that are not negative.
"""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp

from lmkd.core.errors import report_together, unknown
from lmkd.distill.base import OfPoints, TermInputs, TermOutput
from lmkd.distill.taps import at_grid, tap_of
from lmkd.distill.terms.ground_truth import AdaptiveWing
from lmkd.ops import edges as lines
from lmkd.ops import losses, star
from lmkd.ops.heatmaps import cells_from_px

KINDS = {"l2": losses.map_l2, "mse": losses.map_mse}
_ADNET = "Huang et al. 2021, arXiv 2109.05721 (ADNet), the losses of edge and point maps, adaptive wing"


@dataclasses.dataclass(frozen=True)
class Star:
    """STAR: the mean position's error along the heatmap's principal axes, each divided by that axis's standard deviation.

    sum_i smooth_l1(axis_i . (truth - mean)) / sqrt(variance_i + epsilon) + restriction (variance_1 + variance_2), where the
    image is the square [-1, 1]^2: what annotators disagree about, along a contour, costs less than what they agree about, and
    the second part keeps the maps from widening to profit from that. Gradients reach mean, variances and axes, the latter's
    damped near isotropic maps (`ops.star.principal_axes`).

    Deviations from the authors' code (ZhenglinZhou/STAR, starLoss_v2): the axes are the eigenvectors, where it takes the rows
    of the matrix whose columns they are; mean and truth stand in one coordinate frame, where its two differ by up to half a
    cell; a map without mass costs 0 and is logged, where it reads as the image's centre.

    Logs "empty": the share of counted points whose map has no mass.

    Attributes:
      tap: the maps to read, negative cells taken as 0; "heatmaps" are the fused ones of an attention head.
      restriction: w, the weight of the variances.
      beta: where smooth L1's square turns into the absolute value, in halves of the image.
      epsilon: keeps maps of one cell finite; Hong & Lin's code has 1e-4.
    """

    tap: str = "heatmaps"
    restriction: float = 1.0
    beta: float = 0.01
    epsilon: float = 1e-5
    source: ClassVar[str] = "Zhou et al. 2023, arXiv 2306.02763 (STAR), with eigenvalue restriction; version 2 of its code"
    teachers: ClassVar[str] = "none"

    def __post_init__(self):
        problems = [] if self.epsilon > 0 else [f"epsilon: needs more than 0, got {self.epsilon!r}"]
        if self.beta < 0:
            problems.append(f"beta: may not be negative, got {self.beta!r}")
        report_together(problems, "Star cannot be built")

    def loss(self, inputs: TermInputs) -> TermOutput:
        """Returns the mean over counted points, one value a face."""
        weights, empty = star.normalised(tap_of(inputs.student, self.tap, of="the student"))
        mean, covariance = star.moments(weights)
        variances, axes = star.principal_axes(covariance)
        errors = _truth(inputs, weights.shape[1:3]) - mean
        along = jnp.sum(axes * errors[:, :, None], axis=-1)
        distances = losses.smooth_l1(along, beta=self.beta) / jnp.sqrt(variances + self.epsilon)
        values = jnp.sum(distances + self.restriction * variances, axis=-1)
        # `where` cuts the gradient too: an empty map's would be that of its first drop of mass.
        values = losses.mean_over_points(jnp.where(empty > 0, 0.0, values), inputs.counts)
        return TermOutput(values, logs={"empty": losses.mean_over_points(empty, inputs.counts)})


@dataclasses.dataclass(frozen=True)
class EdgeMaps:
    """Adaptive wing between a head's edge maps and drawn edges. Its parameters are `AdaptiveWing`'s own.

    An edge counts on faces that have all of its points; points outside of the crop are no obstacle.

    Attributes:
      edges: polylines as point indices, the head's own and in its order.
      tap: the student's edge maps, between 0 and 1.
      sigma_cells: of the drawn edges, across the line.
    """

    edges: lines.Edges
    tap: str = "edges"
    sigma_cells: float = 1.0
    source: ClassVar[str] = _ADNET
    teachers: ClassVar[str] = "none"

    def __post_init__(self):
        problems = lines.problems(self.edges)
        if not self.sigma_cells > 0:
            problems.append(f"sigma_cells: needs more than 0, got {self.sigma_cells!r}")
        report_together(problems, "EdgeMaps cannot be built")

    def loss(self, inputs: TermInputs) -> TermOutput:
        """Returns the mean over positions and the edges that count, one value a face."""
        points_px, visible = inputs.batch["landmarks_px"], inputs.batch["visible"]
        report_together(lines.problems(self.edges, visible.shape[1]), "EdgeMaps does not fit the landmark scheme")
        maps = tap_of(inputs.student, self.tap, of="the student")
        known = jnp.where(visible[..., None] > 0, points_px, 0.0)
        targets = lines.encode(
            known,
            self.edges,
            grid=(maps.shape[1], maps.shape[2]),
            stride=_stride(inputs, maps),
            sigma_cells=self.sigma_cells,
        )
        counts = jnp.stack([jnp.all(visible[:, jnp.asarray(edge)] > 0, axis=1) for edge in self.edges], axis=1)
        return _adaptive_wing(inputs, maps, targets, counts.astype(jnp.float32))


@dataclasses.dataclass(frozen=True)
class PointMaps:
    """Adaptive wing between a head's point maps and the true heatmaps. Its parameters are `AdaptiveWing`'s own.

    Attributes:
      tap: the student's point maps, between 0 and 1.
    """

    tap: str = "point_maps"
    source: ClassVar[str] = _ADNET
    teachers: ClassVar[str] = "none"

    def loss(self, inputs: TermInputs) -> TermOutput:
        """Returns the mean over positions and counted points, one value a face."""
        maps = tap_of(inputs.student, self.tap, of="the student")
        return _adaptive_wing(inputs, maps, inputs.targets, inputs.counts)


@dataclasses.dataclass(frozen=True)
class FusedMaps(OfPoints):
    """Distance between the fused heatmaps of student and teacher.

    Attributes:
      kind: "l2", the Euclidean norm over positions, as in the paper; "mse", the mean of squares over positions, whose weight in
        its code is 100.
      tap: of the student.
      teacher_tap: of the teacher; "" is the same name. Brought to the student's grid.
      all_points: also points that do not count: the teacher has maps for them.
    """

    kind: str = "l2"
    tap: str = "heatmaps"
    teacher_tap: str = ""
    source: ClassVar[str] = "Hong, Lin 2024 (ICME PAIR challenge), fused-heatmap distillation; code p458732"
    teachers: ClassVar[str] = "one"

    def __post_init__(self):
        problems = [] if self.kind in KINDS else [str(unknown("kind of distance", self.kind, KINDS))]
        report_together(problems, "FusedMaps cannot be built")

    def loss(self, inputs: TermInputs) -> TermOutput:
        """Returns the mean over counted points, one value a face."""
        ((name, outputs),) = inputs.teachers.items()
        student = tap_of(inputs.student, self.tap, of="the student")
        teacher = at_grid(tap_of(outputs, self.teacher_tap or self.tap, of=f"teacher {name}"), student.shape[1:3])
        return TermOutput(losses.mean_over_points(KINDS[self.kind](student, teacher), self.counted(inputs)))


def _truth(inputs: TermInputs, grid: tuple[int, ...]) -> Any:
    """The true points where the image is the square [-1, 1]^2, f32 [b, k, 2]."""
    points_px = inputs.batch["landmarks_px"]
    known = jnp.where(jnp.isfinite(points_px), points_px, 0.0)
    cells = cells_from_px(known, inputs.stride)
    return (2 * cells + 1) / jnp.asarray([grid[1], grid[0]], jnp.float32).reshape(1, 1, 2) - 1


def _stride(inputs: TermInputs, maps: Any) -> float:
    return inputs.batch["image"].shape[1] / maps.shape[1]


def _adaptive_wing(inputs: TermInputs, maps: Any, targets: Any, counts: Any) -> TermOutput:
    student = inputs.student._replace(heatmaps=maps)
    return AdaptiveWing().loss(inputs._replace(student=student, targets=targets, counts=counts))
