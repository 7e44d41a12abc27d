"""A triangle rasteriser with a depth buffer, vectorised over triangles.

Made for many small triangles: they are grouped by the size of their bounding boxes, all pixels of the boxes are tested
at once, and the nearest sample of each pixel wins.
"""

from typing import NamedTuple

import numpy as np

_BOXES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128)
_DEPTH_STEPS = 1 << 20
_DEPTH_RANGE_HU = 8.0


class Fragments(NamedTuple):
    """The visible samples of an image, one a covered pixel.

    Attributes:
      pixel: int64 [n], flat index into the image.
      corners: int32 [n, 3], the vertices of the triangle seen there.
      weights: float32 [n, 3], their barycentric weights.
    """

    pixel: np.ndarray
    corners: np.ndarray
    weights: np.ndarray

    def interpolate(self, values: np.ndarray) -> np.ndarray:
        """Returns vertex values [v, c] interpolated at the samples: [n, c]."""
        w = self.weights
        return (
            values[self.corners[:, 0]] * w[:, :1]
            + values[self.corners[:, 1]] * w[:, 1:2]
            + values[self.corners[:, 2]] * w[:, 2:]
        )


def grid_triangles(rows: int, columns: int, first_vertex: int = 0) -> np.ndarray:
    """Returns the triangles int32 [2 (rows - 1) (columns - 1), 3] of a grid of vertices stored row by row."""
    index = first_vertex + np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    return np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])


def rasterise(xy_px: np.ndarray, depth_hu: np.ndarray, triangles: np.ndarray, side_px: int, cull: bool) -> Fragments:
    """Finds what is visible at every pixel centre of a square image.

    Args:
      xy_px: [v, 2], vertex positions, pixel centres at integers.
      depth_hu: [v], larger is nearer to the viewer.
      triangles: int [m, 3].
      side_px: the image's side.
      cull: leaves out triangles that turn clockwise on screen (the back of a closed surface).
    """
    xy = xy_px.astype(np.float32)
    ax, ay = xy[triangles, 0], xy[triangles, 1]
    area = (ax[:, 1] - ax[:, 0]) * (ay[:, 2] - ay[:, 0]) - (ax[:, 2] - ax[:, 0]) * (ay[:, 1] - ay[:, 0])
    lo_x, hi_x = np.ceil(ax.min(1)), np.floor(ax.max(1))
    lo_y, hi_y = np.ceil(ay.min(1)), np.floor(ay.max(1))
    extent = np.maximum(hi_x - lo_x, hi_y - lo_y) + 1
    seen = (area > 1e-6 if cull else np.abs(area) > 1e-6) & (hi_x >= lo_x) & (hi_y >= lo_y)
    seen &= (hi_x >= 0) & (hi_y >= 0) & (lo_x < side_px) & (lo_y < side_px)
    box = np.searchsorted(_BOXES, extent)
    parts = [_samples(np.flatnonzero(seen & (box == n)), k, ax, ay, area, lo_x, lo_y, side_px) for n, k in enumerate(_BOXES)]
    pixel, triangle, weights = (np.concatenate(p) for p in zip(*parts, strict=True))
    corners = triangles[triangle]
    depth = (depth_hu.astype(np.float32)[corners] * weights).sum(1)
    key = np.clip((depth / _DEPTH_RANGE_HU + 0.5) * _DEPTH_STEPS, 0, _DEPTH_STEPS - 1).astype(np.int64)
    key = (key << 40) | np.arange(len(pixel), dtype=np.int64)
    nearest = np.full(side_px * side_px, -1, np.int64)
    np.maximum.at(nearest, pixel, key)
    covered = np.flatnonzero(nearest >= 0)
    winner = nearest[covered] & ((1 << 40) - 1)
    return Fragments(covered, corners[winner], weights[winner])


def _samples(chosen, box, ax, ay, area, lo_x, lo_y, side_px):
    step = np.arange(box, dtype=np.float32)
    ax, ay, inv = ax[chosen], ay[chosen], 1.0 / area[chosen]
    x = (lo_x[chosen, None] + np.tile(step, box)).astype(np.float32)
    y = (lo_y[chosen, None] + np.repeat(step, box)).astype(np.float32)
    w1 = ((x - ax[:, :1]) * (ay[:, 2:] - ay[:, :1]) - (y - ay[:, :1]) * (ax[:, 2:] - ax[:, :1])) * inv[:, None]
    w2 = ((y - ay[:, :1]) * (ax[:, 1:2] - ax[:, :1]) - (x - ax[:, :1]) * (ay[:, 1:2] - ay[:, :1])) * inv[:, None]
    w0 = 1.0 - w1 - w2
    inside = (w0 >= 0) & (w1 >= 0) & (w2 >= 0) & (x >= 0) & (y >= 0) & (x < side_px) & (y < side_px)
    row, _ = np.nonzero(inside)
    pixel = y[inside].astype(np.int64) * side_px + x[inside].astype(np.int64)
    return pixel, chosen[row], np.stack([w0[inside], w1[inside], w2[inside]], axis=-1)
