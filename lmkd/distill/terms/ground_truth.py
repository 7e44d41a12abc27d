"""Terms that compare the network with the annotated points."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from lmkd.distill.base import TermInputs, TermOutput
from lmkd.ops import heatmaps as codec
from lmkd.ops import losses


@dataclasses.dataclass(frozen=True)
class HeatmapMSE:
    """Mean squared error between heatmaps, times `scale` (peak-1 maps are mostly empty, so the plain mean is tiny)."""

    scale: float = 1.0
    source: ClassVar[str] = "Sun et al. 2019, arXiv 1908.07919, section 3 (heatmap estimation)"

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

    def loss(self, inputs: TermInputs) -> TermOutput:
        """Returns the divergence in nats, mean over counted points, one value a face."""
        return TermOutput(losses.position_cross_entropy(inputs.student.taps["logits"], inputs.targets, inputs.counts))


@dataclasses.dataclass(frozen=True)
class SoftArgmaxL1:
    """Smooth L1 of the expected position, in cells: the softmax's mean over positions against the true point.

    Needs the tap "logits". `beta_cells` is where the square turns into the absolute value.
    """

    beta_cells: float = 0.1
    source: ClassVar[str] = "Sun et al. 2018, arXiv 1711.08229, equation 2 (integral regression), smooth L1"

    def loss(self, inputs: TermInputs) -> TermOutput:
        """Returns the mean over counted points and both axes, one value a face."""
        logits = inputs.student.taps["logits"]
        b, h, w, k = logits.shape
        share = jax.nn.softmax(logits.reshape(b, h * w, k), axis=1).reshape(b, h, w, k)
        x = jnp.einsum("bhwk,w->bk", share, jnp.arange(w, dtype=share.dtype))
        y = jnp.einsum("bhwk,h->bk", share, jnp.arange(h, dtype=share.dtype))
        true = codec.cells_from_px(inputs.batch["landmarks_px"], inputs.stride)
        errors = losses.smooth_l1(jnp.stack([x, y], axis=-1) - true, beta=self.beta_cells)
        return TermOutput(losses.mean_over_points(jnp.mean(errors, axis=-1), inputs.counts))
