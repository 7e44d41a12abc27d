"""Terms that compare the network with the annotated points."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from lmkd.distill.base import TermInputs, TermOutput
from lmkd.distill.taps import tap_of
from lmkd.ops import heatmaps as codec
from lmkd.ops import losses


@dataclasses.dataclass(frozen=True)
class HeatmapMSE:
    """Mean squared error between heatmaps, times `scale` (peak-1 maps are mostly empty, so the plain mean is tiny)."""

    scale: float = 1.0
    source: ClassVar[str] = "Sun et al. 2019, arXiv 1908.07919, section 3 (heatmap estimation)"
    teachers: ClassVar[str] = "none"

    def loss(self, inputs: TermInputs) -> TermOutput:
        """Returns scale * mean squared error, one value a face."""
        return TermOutput(self.scale * losses.heatmap_mse(inputs.student.heatmaps, inputs.targets, inputs.counts))


@dataclasses.dataclass(frozen=True)
class AdaptiveWing:
    """Adaptive wing loss with its weight map: positions near a point (dilated target above `near`) weigh 1 + `boost`."""

    alpha: float = 2.1
    omega: float = 14.0
    epsilon: float = 1.0
    theta: float = 0.5
    boost: float = 10.0
    near: float = 0.2
    source: ClassVar[str] = "Wang, Bo, Li 2019, arXiv 1904.07399, equations 3 and 7"
    teachers: ClassVar[str] = "none"

    def loss(self, inputs: TermInputs) -> TermOutput:
        """Returns the weighted mean over positions and counted points, one value a face."""
        values = losses.adaptive_wing(
            inputs.student.heatmaps,
            inputs.targets,
            alpha=self.alpha,
            omega=self.omega,
            epsilon=self.epsilon,
            theta=self.theta,
        )
        # The 3 x 3 dilation of equation 7, as a maximum over shifted copies.
        dilated = jax.lax.reduce_window(inputs.targets, 0.0, jax.lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
        values = values * (1.0 + self.boost * (dilated >= self.near))
        return TermOutput(losses.mean_over_points(jnp.mean(values, axis=(1, 2)), inputs.counts))


@dataclasses.dataclass(frozen=True)
class PositionCrossEntropy:
    """Softmax over positions against the target distribution. Starts fast where MSE lingers on empty maps.

    Needs a landmarker with heatmap_activation="softmax", whose tap "logits" it reads.
    """

    source: ClassVar[str] = "cross-entropy over positions; e.g. Nibali et al. 2018, arXiv 1801.07372, section 4 (KL)"
    teachers: ClassVar[str] = "none"

    def loss(self, inputs: TermInputs) -> TermOutput:
        """Returns the divergence in nats, mean over counted points, one value a face."""
        logits = tap_of(inputs.student, "logits", of="the student")
        return TermOutput(losses.position_cross_entropy(logits, inputs.targets, inputs.counts))


@dataclasses.dataclass(frozen=True)
class SoftArgmaxL1:
    """Smooth L1 of the expected position, in cells: the softmax's mean over positions against the true point.

    Needs the tap "logits". `beta_cells` is where the square turns into the absolute value; 0 is plain L1.
    """

    beta_cells: float = 0.1
    source: ClassVar[str] = "Sun et al. 2018, arXiv 1711.08229, equation 2 (integral regression), smooth L1"
    teachers: ClassVar[str] = "none"

    def loss(self, inputs: TermInputs) -> TermOutput:
        """Returns the mean over counted points and both axes, one value a face."""
        errors = losses.smooth_l1(expected_errors_cells(inputs, inputs.batch["landmarks_px"]), beta=self.beta_cells)
        return TermOutput(losses.mean_over_points(jnp.mean(errors, axis=-1), inputs.counts))


@dataclasses.dataclass(frozen=True)
class SoftArgmaxWing:
    """Wing loss of the expected position, in cells: small errors weigh more than under L1. Needs the tap "logits".

    The paper's w = 10 and epsilon = 2 are pixels of a 64 x 64 input, so they are cells of a 64 x 64 grid; give less to a
    smaller one. The slope at 0 is w / epsilon, and it jumps there from side to side, so that it wants a decaying rate.
    """

    width_cells: float = 10.0
    epsilon_cells: float = 2.0
    source: ClassVar[str] = "Feng et al. 2018, arXiv 1711.06753, equation 5, on the position of arXiv 1711.08229, equation 2"
    teachers: ClassVar[str] = "none"

    def loss(self, inputs: TermInputs) -> TermOutput:
        """Returns the mean over counted points and both axes, one value a face."""
        errors = expected_errors_cells(inputs, inputs.batch["landmarks_px"])
        errors = losses.wing(errors, width=self.width_cells, epsilon=self.epsilon_cells)
        return TermOutput(losses.mean_over_points(jnp.mean(errors, axis=-1), inputs.counts))


def expected_errors_cells(inputs: TermInputs, points_px: Any) -> Any:
    """The student's expected position less a point, the true one or a teacher's, in cells, f32 [b, k, 2] (x, y)."""
    expected = losses.soft_argmax(tap_of(inputs.student, "logits", of="the student"))
    return expected - codec.cells_from_px(points_px, inputs.stride)
