"""Elementary losses between network outputs and truth: one value a face, the mean left to the caller.

Letters: b faces, h w heatmap rows and columns, k points.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def mean_over_points(values: Float[Array, "b k"], counts: Float[Array, "b k"]) -> Float[Array, " b"]:
    """Averages [b, k] over the points whose count is 1; a face without any gives 0."""
    return jnp.sum(values * counts, axis=1) / jnp.maximum(jnp.sum(counts, axis=1), 1.0)


def heatmap_mse(
    heatmaps: Float[Array, "b h w k"], targets: Float[Array, "b h w k"], counts: Float[Array, "b k"]
) -> Float[Array, " b"]:
    """Mean squared error over positions and counted points (HRNet, Sun et al. 2019, "Heatmap estimation").

    HRNet's code takes the mean over every channel; here channels whose count is 0 are left out.
    """
    _same_shape(heatmaps, targets)
    return mean_over_points(jnp.mean(jnp.square(heatmaps - targets), axis=(1, 2)), counts)


def position_cross_entropy(
    logits: Float[Array, "b h w k"], targets: Float[Array, "b h w k"], counts: Float[Array, "b k"]
) -> Float[Array, " b"]:
    """Kullback-Leibler divergence of the softmax over positions from the target, scaled to sum 1 (in nats).

    Cross-entropy less the target's own entropy, so that a perfect match is 0; the gradient is the same. Channels whose
    target is empty (a point outside the crop) do not count.
    """
    _same_shape(logits, targets)
    mass = jnp.sum(targets, axis=(1, 2))
    share = targets / jnp.maximum(mass, 1e-6)[:, None, None, :]
    log_prob = jax.nn.log_softmax(logits.reshape(logits.shape[0], -1, logits.shape[-1]), axis=1).reshape(logits.shape)
    entropy_terms = jnp.where(share > 0, share * jnp.log(jnp.maximum(share, 1e-30)), 0.0)
    divergence = jnp.sum(entropy_terms - share * log_prob, axis=(1, 2))
    return mean_over_points(divergence, counts * (mass > 0.5))


def adaptive_wing(
    heatmaps: Float[Array, "b h w k"],
    targets: Float[Array, "b h w k"],
    *,
    alpha: float,
    omega: float,
    epsilon: float,
    theta: float,
) -> Float[Array, "b h w k"]:
    """Adaptive wing loss of each position (Wang, Bo, Li 2019, arXiv 1904.07399, equation 3).

    omega ln(1 + |(y - p) / epsilon|^(alpha - y)) where |y - p| < theta, else A |y - p| - C, with A and C as in the paper, so
    that value and slope meet at theta.
    """
    _same_shape(heatmaps, targets)
    gap = jnp.abs(targets - heatmaps)
    power = alpha - targets
    ratio = theta / epsilon
    slope = omega / (1 + ratio**power) * power * ratio ** (power - 1) / epsilon
    offset = theta * slope - omega * jnp.log1p(ratio**power)
    # The inner branch sees a safe gap, so that its gradient stays finite where the outer one is chosen or the gap is 0.
    safe = jnp.clip(gap, 1e-6, theta)
    return jnp.where(gap < theta, omega * jnp.log1p((safe / epsilon) ** power), slope * gap - offset)


def smooth_l1(errors: Float[Array, "..."], *, beta: float) -> Float[Array, "..."]:
    """e^2 / (2 beta) within beta, |e| - beta / 2 beyond (Girshick 2015, arXiv 1504.08083, equation 3, with beta)."""
    size = jnp.abs(errors)
    return jnp.where(size < beta, 0.5 * jnp.square(size) / beta, size - 0.5 * beta)


def _same_shape(a: Array, b: Array) -> None:
    if a.shape != b.shape:
        raise ValueError(f"heatmaps {a.shape} and targets {b.shape} must have one shape")
