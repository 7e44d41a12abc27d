"""Heatmaps: draw landmarks as Gaussians, and read them back. Encode and decode side by side, inverse to each other.

    maps = encode(landmarks_px, visible, grid=(24, 24), stride=4, sigma_cells=1.5)     # [b, h, w, k], peak 1
    points_cells, confidence = local_soft_argmax(maps, sigma_cells=1.5)                # [b, k, 2] (x, y), [b, k]
    landmarks_px = px_from_cells(points_cells, 4)

Axes: b faces, h w cells of the grid, k landmarks; points are (x, y). Cell u of stride s lies at pixel s (u + 0.5) - 0.5
(`lmkd.core.geometry`), so an image covers u from -0.5 to w - 0.5.

Every decoder has the same signature, so that a config names one. `ROUND_TRIP_CELLS` states how far `decode(encode(p))`
may lie from p, per axis, in cells, for sigma from 1 to 2:

| decoder           | interior | border | noisy maps (what a network gives)                                           |
| ----------------- | -------- | ------ | --------------------------------------------------------------------------- |
| argmax            | 0.5      | 0.5    | whole cells                                                                 |
| quarter           | 0.25     | 0.25   | HRNet's                                                                     |
| dark              | 0.1      | 0.1    | reads 3x3 cells; the offset is clamped to +-1 cell of the peak              |
| local_soft_argmax | 0.1      | 0.1    | averages 5x5 cells (7x7 from sigma 1.67 on): less noise; clamped alike       |
| mean              | 0.11     | 1.7    | averages all cells: for maps trained by it (slim HRNets, STAR), not others  |

"Border" is any point inside the image whose refining window leaves the grid; "interior" every other. At the border,
`quarter`, `dark` and `local_soft_argmax` put what the Gaussian of `sigma_cells` implies in the place of the missing
cells. A map without a positive value decodes to its peak cell, unrefined, with that value as its confidence (an empty
map: (0, 0), 0).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# decoder -> (interior, border)
ROUND_TRIP_CELLS = {
    "argmax": (0.5, 0.5),
    "quarter": (0.25, 0.25),
    "dark": (0.1, 0.1),
    "local_soft_argmax": (0.1, 0.1),
    "mean": (0.11, 1.7),
}
MAX_OFFSET_CELLS = 1.0  # a refined point never lies further from its peak cell, per axis; without noise, 0.5 is enough
_FLOOR = 1e-3  # of the peak: logarithms of anything smaller (zero, negative, noise) are cut off here
_NEWTON_STEPS = 5  # from 0.5 cells away, four reach float32 rounding for sigma 1 to 2


class Decoded(NamedTuple):
    """Decoded maps: points_cells f32 [b, k, 2] (x, y) in cells; confidence f32 [b, k], the value of the peak cell."""

    points_cells: Array
    confidence: Array


def encode(
    landmarks_px: Float[Array, "b k 2"],
    visible: Float[Array, "b k"] | None = None,
    *,
    grid: tuple[int, int],
    stride: float,
    sigma_cells: float,
) -> Float[Array, "b h w k"]:
    """Draws every landmark as an unnormalised Gaussian whose peak, 1, lies at its sub-pixel centre.

    Args:
      landmarks_px: points (x, y) in crop pixels; NaN marks an unknown one.
      visible: 0 where a point is not to be drawn; None draws all.
      grid: (h, w) of the maps, in cells.
      stride: crop pixels a cell.
      sigma_cells: standard deviation, in cells.

    Returns:
      float32 maps; all zero for invisible and NaN points, and close to it 3 sigma and more outside the grid.
    """
    known = jnp.isfinite(landmarks_px).all(axis=-1)
    drawn = known if visible is None else known & (visible > 0)
    # Replaced before the arithmetic: a NaN that a mask removes afterwards still poisons gradients.
    centres = cells_from_px(jnp.where(known[..., None], landmarks_px, 0.0).astype(jnp.float32), stride)
    columns = _gaussian(jnp.arange(grid[1], dtype=jnp.float32)[None, :, None], centres[:, None, :, 0], sigma_cells)
    rows = _gaussian(jnp.arange(grid[0], dtype=jnp.float32)[None, :, None], centres[:, None, :, 1], sigma_cells)
    return (rows * drawn[:, None, :])[:, :, None, :] * columns[:, None, :, :]


def cells_from_px(points_px: Float[Array, "... 2"], stride: float) -> Float[Array, "... 2"]:
    """Returns points in cells of `stride` pixels: u = (x + 0.5) / stride - 0.5."""
    return (points_px + 0.5) / stride - 0.5


def px_from_cells(points_cells: Float[Array, "... 2"], stride: float) -> Float[Array, "... 2"]:
    """Returns points in pixels: x = stride (u + 0.5) - 0.5, the inverse of `cells_from_px`."""
    return stride * (points_cells + 0.5) - 0.5


def argmax(heatmaps: Float[Array, "b h w k"], *, sigma_cells: float) -> Decoded:
    """Returns the cell of the largest value; `sigma_cells` is not used."""
    del sigma_cells
    peak_cells, confidence = _peaks(heatmaps.astype(jnp.float32))
    return Decoded(peak_cells.astype(jnp.float32), confidence)


def quarter(heatmaps: Float[Array, "b h w k"], *, sigma_cells: float) -> Decoded:
    """Returns the argmax, moved 0.25 cells towards the larger neighbour on each axis.

    Newell, Yang, Deng, "Stacked Hourglass Networks", 2016, and HRNet after it. Deviation: they leave peaks on the
    border where they are; here the missing neighbour is the one that a Gaussian of `sigma_cells` would have.
    """
    maps = heatmaps.astype(jnp.float32)
    peak_cells, confidence = _peaks(maps)
    slope, _ = _log_derivatives(maps, peak_cells, confidence, sigma_cells)
    return _refined(peak_cells, confidence, 0.25 * jnp.sign(slope))


def dark(heatmaps: Float[Array, "b h w k"], *, sigma_cells: float) -> Decoded:
    """Returns the maximum of the Taylor expansion of the log heatmap about the argmax.

    Zhang, Zhu, Dai, Ye, Zhu, "Distribution-Aware Coordinate Representation for Human Pose Estimation", CVPR 2020
    (arXiv 1910.06278): one Newton step, offset = -H^-1 g. Deviations: second differences over one cell, not two; no
    smoothing of the map beforehand (their modulation step); where H is not negative definite, the curvature of a
    Gaussian of `sigma_cells`, -1 / sigma^2, stands for it; the offset is clamped to +-`MAX_OFFSET_CELLS`.
    """
    maps = heatmaps.astype(jnp.float32)
    peak_cells, confidence = _peaks(maps)
    slope, (xx, yy, xy) = _log_derivatives(maps, peak_cells, confidence, sigma_cells)
    determinant = xx * yy - xy**2
    concave = (xx < 0) & (determinant > 1e-6 / sigma_cells**4)
    gx, gy = slope[..., 0], slope[..., 1]
    newton = jnp.stack([xy * gy - yy * gx, xy * gx - xx * gy], axis=-1) / jnp.where(concave, determinant, 1.0)[..., None]
    return _refined(peak_cells, confidence, jnp.where(concave[..., None], newton, slope * sigma_cells**2))


def local_soft_argmax(heatmaps: Float[Array, "b h w k"], *, sigma_cells: float) -> Decoded:
    """Returns the centre of the Gaussian of `sigma_cells` whose centroid, in a window about the argmax, is the map's.

    The centroid of a truncated Gaussian is pulled towards the middle of its window. For a known sigma it is strictly
    monotone in the Gaussian's centre (its derivative is variance / sigma^2: an exponential family), and the axes
    separate, so a few Newton steps undo the pull exactly, for whatever part of the window lies inside the grid.
    Negative values count as 0.
    """
    maps = heatmaps.astype(jnp.float32)
    peak_cells, confidence = _peaks(maps)
    radius = max(1, round(1.5 * sigma_cells))
    window, inside = _window(maps, peak_cells, radius)
    weights = jnp.maximum(window, 0.0) * inside[..., 1][:, :, None] * inside[..., 0][:, None]
    total = jnp.maximum(weights.sum(axis=(1, 2)), jnp.finfo(jnp.float32).tiny)
    steps = jnp.arange(-radius, radius + 1, dtype=jnp.float32)
    mean_x = jnp.einsum("bijk,j->bk", weights, steps, precision=jax.lax.Precision.HIGHEST) / total
    mean_y = jnp.einsum("bijk,i->bk", weights, steps, precision=jax.lax.Precision.HIGHEST) / total
    observed = jnp.stack([mean_x, mean_y], axis=-1)
    return _refined(peak_cells, confidence, _untruncated(observed, inside, steps, sigma_cells))


def mean(heatmaps: Float[Array, "b h w k"], *, sigma_cells: float) -> Decoded:
    """Returns the mean position of the whole map, negative values as 0 (the published STAR and ADNet decode so).

    What a Gaussian loses beyond the border pulls its mean inwards, and a faint background pulls to the middle of the grid.
    """
    maps = jnp.maximum(heatmaps.astype(jnp.float32), 0.0)
    peak_cells, confidence = _peaks(heatmaps.astype(jnp.float32))
    _, h, w, _ = maps.shape
    columns, rows = maps.sum(axis=1), maps.sum(axis=2)  # [b, w, k], [b, h, k]
    total = jnp.maximum(columns.sum(axis=1), jnp.finfo(jnp.float32).tiny)
    x = jnp.einsum("bwk,w->bk", columns, jnp.arange(w, dtype=jnp.float32), precision=jax.lax.Precision.HIGHEST) / total
    y = jnp.einsum("bhk,h->bk", rows, jnp.arange(h, dtype=jnp.float32), precision=jax.lax.Precision.HIGHEST) / total
    return Decoded(jnp.where(confidence[..., None] > 0, jnp.stack([x, y], axis=-1), peak_cells), confidence)


def _gaussian(position, centre, sigma):
    return jnp.exp(-0.5 * ((position - centre) / sigma) ** 2)


def _peaks(maps):
    """Returns the peak cells int32 [b, k, 2] (x, y) and their values [b, k]."""
    b, h, w, k = maps.shape
    flat = maps.reshape(b, h * w, k)
    index = jnp.argmax(flat, axis=1)
    return jnp.stack([index % w, index // w], axis=-1), jnp.take_along_axis(flat, index[:, None], axis=1)[:, 0]


def _refined(peak_cells, confidence, offset_cells):
    """Adds offsets [b, k, 2] to peak cells: clamped, and none where the peak is not positive (or NaN)."""
    offset = jnp.clip(offset_cells, -MAX_OFFSET_CELLS, MAX_OFFSET_CELLS)
    return Decoded(peak_cells + jnp.where((confidence > 0)[..., None], offset, 0.0), confidence)


def _window(maps, peak_cells, radius):
    """Reads the (2 radius + 1)^2 cells about each peak.

    Returns:
      values [b, n, n, k], rows (y) first, the nearest cell of the grid in the place of one outside; and whether a
      window column (x) and row (y) is inside the grid, bool [b, n, k, 2].
    """
    b, h, w, k = maps.shape
    n = 2 * radius + 1
    at = peak_cells[:, None] + jnp.arange(-radius, radius + 1)[None, :, None, None]
    inside = (at >= 0) & (at < jnp.array([w, h])[None, None, None])
    x, y = jnp.clip(at[..., 0], 0, w - 1), jnp.clip(at[..., 1], 0, h - 1)
    index = y[:, :, None] * w + x[:, None]
    values = jnp.take_along_axis(maps.reshape(b, h * w, k), index.reshape(b, n * n, k), axis=1)
    return values.reshape(b, n, n, k), inside


def _log_derivatives(maps, peak_cells, confidence, sigma):
    """Central differences of the log map at the peaks; a Gaussian of `sigma` stands for what lies outside the grid.

    Returns:
      slope [b, k, 2] (x, y), and the second derivatives xx, yy, xy, each [b, k].
    """
    window, inside = _window(maps, peak_cells, 1)
    floor = jnp.maximum(confidence * _FLOOR, jnp.finfo(jnp.float32).tiny)
    logs = jnp.log(jnp.maximum(window, floor[:, None, None]))
    x_slope, xx = _line_derivatives(logs[:, 1], inside[..., 0], sigma)
    y_slope, yy = _line_derivatives(logs[:, :, 1], inside[..., 1], sigma)
    xy = (logs[:, 2, 2] - logs[:, 2, 0] - logs[:, 0, 2] + logs[:, 0, 0]) / 4
    return jnp.stack([x_slope, y_slope], axis=-1), (xx, yy, jnp.where(inside.all(axis=(1, 3)), xy, 0.0))


def _line_derivatives(logs, inside, sigma):
    """First and second difference [b, k] of log values [b, 3, k]; log G has the second difference -1 / sigma^2."""
    before, middle, after = logs[:, 0], logs[:, 1], logs[:, 2]
    implied = 2 * middle - 1 / sigma**2
    before, after = (
        jnp.where(inside[:, 0], before, implied - after),
        jnp.where(inside[:, 2], after, implied - before),
    )
    return (after - before) / 2, after - 2 * middle + before


def _untruncated(observed, inside, steps, sigma):
    """Returns centres [b, k, 2] of the Gaussians with centroids `observed` over the cells `inside` [b, n, k, 2]."""
    steps = steps[None, :, None, None]
    centre = jnp.clip(observed, -MAX_OFFSET_CELLS, MAX_OFFSET_CELLS)
    for _ in range(_NEWTON_STEPS):
        weight = inside * _gaussian(steps, centre[:, None], sigma)
        total = weight.sum(axis=1)
        mean = (weight * steps).sum(axis=1) / total
        variance = (weight * (steps - mean[:, None]) ** 2).sum(axis=1) / total
        move = (observed - mean) * sigma**2 / jnp.maximum(variance, 1e-3)
        centre = jnp.clip(centre + move, -MAX_OFFSET_CELLS, MAX_OFFSET_CELLS)
    return centre
