"""Mean, covariance and principal axes of heatmaps: what the STAR loss measures errors along.

    weights, empty = normalised(heatmaps)               # sum 1 over positions
    mean, covariance = moments(weights)                 # the map is the square [-1, 1] x [-1, 1]
    variances, axes = principal_axes(covariance)        # ascending; axes[..., i, :] is the unit vector of variances[..., i]

Coordinates: cell u of w stands at (2 u + 1) / w - 1, its centre where the image is the square [-1, 1]^2 (`core.geometry`).
Published codes mix this one with 2 u / (w - 1) - 1, which is half a cell off at the border.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

EMPTY = 1e-3
"""Sum over positions below which a map says nothing: dividing by it would give gradients without bound."""
MIN_FREEDOM = 0.5
"""Least 1 - V2 of the unbiased covariance. Only maps that live in less than two cells have less (a Gaussian of sigma 0.5 cells
has 0.68); in one cell, the correction would divide 0 by 0."""
BLUR = 0.05
"""Gap of the two variances, as a share of their sum, below which the axes' gradient is damped (`principal_axes`)."""


class Moments(NamedTuple):
    """First and second moments.

    Attributes:
      mean: f32 [b, k, 2] (x, y).
      covariance: f32 [b, k, 3]: xx, yy, xy.
    """

    mean: Array
    covariance: Array


class Axes(NamedTuple):
    """An eigen-decomposition.

    Attributes:
      variances: f32 [..., 2], ascending, none negative.
      axes: f32 [..., 2, 2]: axes[..., i, :] is the unit vector (x, y) of variances[..., i]. Its sign means nothing.
    """

    variances: Array
    axes: Array


def normalised(heatmaps: Float[Array, "b h w k"]) -> tuple[Float[Array, "b h w k"], Float[Array, "b k"]]:
    """Returns maps scaled to sum 1 over positions, negative cells taken as 0; and 1 where a map is empty and left as it is."""
    maps = jnp.maximum(heatmaps.astype(jnp.float32), 0.0)
    total = jnp.sum(maps, axis=(1, 2))
    empty = total <= EMPTY
    return maps / jnp.where(empty, 1.0, total)[:, None, None], empty.astype(jnp.float32)


def moments(weights: Float[Array, "b h w k"]) -> Moments:
    """Returns the weighted mean and the unbiased weighted covariance of maps that sum to 1.

    Zhou et al. 2023, arXiv 2306.02763 (STAR): sum w (p - mean)(p - mean)' / (V1 - V2 / V1), V1 = sum w = 1 and V2 =
    sum w^2; the divisor is at least `MIN_FREEDOM`.
    """
    _, h, w, _ = weights.shape
    x, y = ((2 * jnp.arange(n, dtype=jnp.float32) + 1) / n - 1 for n in (w, h))
    columns, rows = jnp.sum(weights, axis=1), jnp.sum(weights, axis=2)
    mean_x, mean_y = _product("bwk,w->bk", columns, x), _product("bhk,h->bk", rows, y)
    # Centred before they are squared: E[x^2] - E[x]^2 cancels for sharp maps.
    dx, dy = x[None, :, None] - mean_x[:, None], y[None, :, None] - mean_y[:, None]
    xx, yy = jnp.sum(columns * jnp.square(dx), axis=1), jnp.sum(rows * jnp.square(dy), axis=1)
    xy = jnp.sum(_product("bhwk,bwk->bhk", weights, dx) * dy, axis=1)
    freedom = jnp.maximum(1.0 - jnp.sum(jnp.square(weights), axis=(1, 2)), MIN_FREEDOM)
    return Moments(jnp.stack([mean_x, mean_y], axis=-1), jnp.stack([xx, yy, xy], axis=-1) / freedom[..., None])


def principal_axes(covariance: Float[Array, "... 3"]) -> Axes:
    """Returns variances and axes of symmetric 2x2 matrices given as xx, yy, xy, in closed form.

    The larger one's axis lies at half the angle of (xx - yy, 2 xy). An isotropic matrix has none; it gets (1, 0) there.

    Gradients are those of an eigen-decomposition, d variance_i = v_i' dC v_i and d v_i = v_j (v_j' dC v_i) / gap, but with
    gap / (gap^2 + delta^2) for 1 / gap, delta being `BLUR` of the variances' sum: they vanish where the matrix is isotropic
    in the place of growing without bound, and are exact far from there (within 1 % for a gap of half of the sum). First
    derivatives alone are right.

    Args:
      covariance: matrices that are positive semi-definite; a variance that rounding makes negative becomes 0.
    """
    fixed = jax.lax.stop_gradient(covariance)
    half = 0.5 * jnp.arctan2(2 * fixed[..., 2], fixed[..., 0] - fixed[..., 1])
    cos, sin = jnp.cos(half), jnp.sin(half)
    small = -sin, cos
    large = cos, sin
    variances = jnp.stack([_form(covariance, small, small), _form(covariance, large, large)], axis=-1)
    gap = jax.lax.stop_gradient(variances[..., 1] - variances[..., 0])
    delta = BLUR * (fixed[..., 0] + fixed[..., 1])
    damped = gap / jnp.maximum(jnp.square(gap) + jnp.square(delta), jnp.finfo(jnp.float32).tiny)
    # 0 in value, and the angle's derivative: v_small' dC v_large / gap.
    turn = _form(covariance - fixed, small, large) * damped
    axes = [[small[0] - turn * cos, small[1] - turn * sin], [large[0] - turn * sin, large[1] + turn * cos]]
    return Axes(jnp.maximum(variances, 0.0), jnp.stack([jnp.stack(axis, axis=-1) for axis in axes], axis=-2))


def _form(covariance: Array, a: tuple[Array, Array], b: tuple[Array, Array]) -> Array:
    """a' C b."""
    xx, yy, xy = covariance[..., 0], covariance[..., 1], covariance[..., 2]
    return xx * a[0] * b[0] + yy * a[1] * b[1] + xy * (a[0] * b[1] + a[1] * b[0])


def _product(subscripts: str, *operands: Array) -> Array:
    """An einsum in full float32: accelerators round products to fewer bits by default."""
    return jnp.einsum(subscripts, *operands, precision=jax.lax.Precision.HIGHEST)
