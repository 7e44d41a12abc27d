"""Edges: polylines through landmarks drawn as maps, for heads that draw contours beside points.

maps = encode(landmarks_px, ((0, 1, 2, 3), (4, 5, 6, 4)), grid=(64, 64), stride=4, sigma_cells=1.0)     # [b, h, w, 2]
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lmkd.ops.heatmaps import cells_from_px

Edges = Sequence[Sequence[int]]
"""Polylines as point indices; a closed one repeats its first point at the end, as `Scheme.lines` do."""


def encode(
    landmarks_px: Float[Array, "b k 2"], edges: Edges, *, grid: tuple[int, int], stride: float, sigma_cells: float
) -> Float[Array, "b h w e"]:
    """Draws each edge as exp(-d^2 / (2 sigma^2)), d being a cell's distance from the polyline: peak 1 on the line.

    Deviation: the published codes draw anti-aliased lines of one pixel along splines at 256 pixels, then shrink them to a
    quarter.

    Args:
      landmarks_px: points (x, y) in crop pixels, all finite; they may lie outside of the crop.
      edges: two points each, at least.
      grid: (h, w) of the maps, in cells.
      stride: crop pixels a cell.
      sigma_cells: standard deviation across the line, in cells.
    """
    points = cells_from_px(landmarks_px.astype(jnp.float32), stride)
    squares = [_squared_distance(points, edge, grid) for edge in edges]
    return jnp.exp(-0.5 * jnp.stack(squares, axis=-1) / sigma_cells**2)


def membership(edges: Edges, num_points: int) -> np.ndarray:
    """Returns the float32 matrix [edges, points]: 1 where a point lies on an edge."""
    matrix = np.zeros((len(edges), num_points), np.float32)
    for n, edge in enumerate(edges):
        matrix[n, list(edge)] = 1.0
    return matrix


def problems(edges: Edges, num_points: int | None = None) -> list[str]:
    """Says what is wrong with edges: none, too short ones, and indices outside of 0..K - 1."""
    found = [] if len(edges) else ["edges: needs one at least, as tuples of point indices (`Scheme.lines`)"]
    for n, edge in enumerate(edges):
        if len(edge) < 2:
            found.append(f"edges[{n}]: a line needs two points at least, got {tuple(edge)}")
        outside = [i for i in edge if i < 0 or (num_points is not None and i >= num_points)]
        if outside:
            found.append(f"edges[{n}]: points {outside} are outside of 0..{'' if num_points is None else num_points - 1}")
    return found


def _squared_distance(points: Array, edge: Sequence[int], grid: tuple[int, int]) -> Array:
    """Squared distance [b, h, w] of every cell from a polyline, in cells."""
    # [b, 1, 1, segments] each.
    line_x, line_y = (jnp.take(points[..., axis], np.asarray(edge), axis=1)[:, None, None] for axis in (0, 1))
    x0, y0, run_x, run_y = line_x[..., :-1], line_y[..., :-1], jnp.diff(line_x), jnp.diff(line_y)
    x = jnp.arange(grid[1], dtype=jnp.float32).reshape(1, 1, -1, 1) - x0
    y = jnp.arange(grid[0], dtype=jnp.float32).reshape(1, -1, 1, 1) - y0
    # How far along its segment the foot of the perpendicular lies; a segment of no length is its first point.
    along = jnp.clip((x * run_x + y * run_y) / jnp.maximum(run_x**2 + run_y**2, 1e-6), 0.0, 1.0)
    return jnp.min(jnp.square(x - along * run_x) + jnp.square(y - along * run_y), axis=-1)
