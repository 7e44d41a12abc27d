"""Elementary losses between network outputs, truth and teachers: a value a face, point or channel, the mean left to the caller.

Letters: b faces, h w rows and columns of a map, k points, c channels. Softmaxes, logarithms and sums over positions want
float32: callers cast before.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

MIN_MASS = 0.5
"""Sum over positions below which a map of peak 1 is taken as empty (a Gaussian of sigma 1 has 6.3)."""


def mean_over_points(values: Float[Array, "b k"], counts: Float[Array, "b k"]) -> Float[Array, " b"]:
    """Averages [b, k] over the points whose count is 1; a face without any gives 0."""
    return jnp.sum(values * counts, axis=1) / jnp.maximum(jnp.sum(counts, axis=1), 1.0)


def heatmap_mse(
    heatmaps: Float[Array, "b h w k"], targets: Float[Array, "b h w k"], counts: Float[Array, "b k"]
) -> Float[Array, " b"]:
    """Mean squared error over positions and counted points (HRNet, Sun et al. 2019, "Heatmap estimation").

    HRNet's code takes the mean over every channel; here channels whose count is 0 are left out.
    """
    return mean_over_points(map_mse(heatmaps, targets), counts)


def map_mse(maps: Float[Array, "b h w c"], targets: Float[Array, "b h w c"]) -> Float[Array, "b c"]:
    """Mean squared error over positions, of each channel."""
    _same_shape(maps, targets)
    return jnp.mean(jnp.square(maps - targets), axis=(1, 2))


def map_l2(maps: Float[Array, "b h w c"], targets: Float[Array, "b h w c"]) -> Float[Array, "b c"]:
    """Euclidean distance of two maps, the root of the summed squares over positions, of each channel."""
    _same_shape(maps, targets)
    return _root(jnp.sum(jnp.square(maps - targets), axis=(1, 2)))


def position_cross_entropy(
    logits: Float[Array, "b h w k"], targets: Float[Array, "b h w k"], counts: Float[Array, "b k"]
) -> Float[Array, " b"]:
    """`position_divergence`, mean over counted points; those whose target is empty (outside the crop) do not count."""
    mass = jnp.sum(targets, axis=(1, 2))
    return mean_over_points(position_divergence(logits, targets), counts * (mass > MIN_MASS))


def position_divergence(logits: Float[Array, "b h w k"], targets: Float[Array, "b h w k"]) -> Float[Array, "b k"]:
    """Kullback-Leibler divergence of the softmax over positions from the target, scaled to sum 1, of each channel (in nats).

    Cross-entropy less the target's own entropy, so that a perfect match is 0; the gradient is the same. An empty target
    gives 0.
    """
    _same_shape(logits, targets)
    mass = jnp.sum(targets, axis=(1, 2), keepdims=True)
    share = targets / jnp.maximum(mass, 1e-6)
    log_prob = jax.nn.log_softmax(logits, axis=(1, 2))
    entropy_terms = jnp.where(share > 0, share * jnp.log(jnp.maximum(share, 1e-30)), 0.0)
    return jnp.sum(entropy_terms - share * log_prob, axis=(1, 2))


def channel_divergence(
    student: Float[Array, "b h w c"], teacher: Float[Array, "b h w c"], *, temperature: float
) -> Float[Array, "b c"]:
    """Channel-distribution divergence (Shu et al. 2021, arXiv 2011.13256, equations 3 to 5), of each channel.

    T^2 KL(softmax(teacher / T) || softmax(student / T)), softmaxes over positions. Adding a number to a channel changes
    nothing. Its gradient with respect to the student is T (softmax(student / T) - softmax(teacher / T)).
    """
    _same_shape(student, teacher)
    log_student = jax.nn.log_softmax(student / temperature, axis=(1, 2))
    log_teacher = jax.nn.log_softmax(teacher / temperature, axis=(1, 2))
    return temperature**2 * jnp.sum(jnp.exp(log_teacher) * (log_teacher - log_student), axis=(1, 2))


def attention_map(maps: Float[Array, "b h w c"], *, power: float) -> Float[Array, "b h w 1"]:
    """Activation attention: the sum over channels of |A|^p (Zagoruyko, Komodakis 2017, arXiv 1612.03928, section 3.1)."""
    return jnp.sum(jnp.abs(maps) ** power, axis=-1, keepdims=True)


def attention_distance(student: Float[Array, "b h w 1"], teacher: Float[Array, "b h w 1"]) -> Float[Array, " b"]:
    """Euclidean distance of two attention maps, each divided by its Euclidean norm (the same, equation 2, p = 2, unweighted).

    Between 0 and sqrt(2); neither map's scale matters. An empty map stays empty.
    """
    _same_shape(student, teacher)
    return _root(jnp.sum(jnp.square(_unit(student) - _unit(teacher)), axis=(1, 2, 3)))


def soft_argmax(logits: Float[Array, "b h w k"]) -> Float[Array, "b k 2"]:
    """The mean position (x, y), in cells, under the softmax over positions (Sun et al. 2018, arXiv 1711.08229, equation 2)."""
    _, h, w, _ = logits.shape
    share = jax.nn.softmax(logits, axis=(1, 2))
    x = jnp.einsum("bwk,w->bk", jnp.sum(share, axis=1), jnp.arange(w, dtype=share.dtype))
    y = jnp.einsum("bhk,h->bk", jnp.sum(share, axis=2), jnp.arange(h, dtype=share.dtype))
    return jnp.stack([x, y], axis=-1)


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
    """e^2 / (2 beta) within beta, |e| - beta / 2 beyond (Girshick 2015, arXiv 1504.08083, equation 3, with beta).

    beta = 0 is the plain absolute value.
    """
    size = jnp.abs(errors)
    if beta == 0:
        return size
    return jnp.where(size < beta, 0.5 * jnp.square(size) / beta, size - 0.5 * beta)


def wing(errors: Float[Array, "..."], *, width: float, epsilon: float) -> Float[Array, "..."]:
    """Wing loss: w ln(1 + |e| / epsilon) within w, |e| - C beyond (Feng et al. 2018, arXiv 1711.06753, equation 5).

    C = w - w ln(1 + w / epsilon), so that the values meet at w.
    """
    size = jnp.abs(errors)
    offset = width - width * math.log1p(width / epsilon)
    return jnp.where(size < width, width * jnp.log1p(size / epsilon), size - offset)


def _unit(maps: Array) -> Array:
    return maps / jnp.maximum(_root(jnp.sum(jnp.square(maps), axis=(1, 2, 3), keepdims=True)), 1e-12)


def _root(squares: Array) -> Array:
    """The square root, with gradient 0 at 0 in the place of infinity: two equal maps do not pull at each other."""
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), 0.0)


def _same_shape(a: Array, b: Array) -> None:
    if a.shape != b.shape:
        raise ValueError(f"maps {a.shape} and {b.shape} must have one shape")
