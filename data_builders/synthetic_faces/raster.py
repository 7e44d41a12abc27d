"""A triangle rasteriser, vectorised over triangles.

All triangles are cut into rows of pixels, all rows into pixels, and of all samples at a pixel the one on the nearest
triangle (by the depth of its middle: triangles are small) wins.
"""

import functools
from typing import NamedTuple

import numpy as np


class Fragments(NamedTuple):
    """The visible samples of an image, one a covered pixel.

    Attributes:
      pixel: int32 [n], flat index into the image.
      corners: int32 [n, 3], the vertices of the triangle seen there.
      weights: float32 [n, 3], their barycentric weights.
      depth_hu: float32 [n].
    """

    pixel: np.ndarray
    corners: np.ndarray
    weights: np.ndarray
    depth_hu: np.ndarray

    def interpolate(self, values: np.ndarray) -> np.ndarray:
        """Returns vertex values [v, c] interpolated at the samples: [n, c]."""
        w = self.weights
        total = np.take(values, self.corners[:, 0], axis=0) * w[:, :1]
        for corner in (1, 2):
            total += np.take(values, self.corners[:, corner], axis=0) * w[:, corner : corner + 1]
        return total


@functools.cache
def grid_triangles(rows: int, columns: int) -> np.ndarray:
    """Returns the triangles int32 [2 (rows - 1) (columns - 1), 3] of a grid of vertices stored row by row."""
    index = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    return np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])


def rasterise(xy_px: np.ndarray, depth_hu: np.ndarray, triangles: np.ndarray, side_px: int, closed: np.ndarray) -> Fragments:
    """Finds what is visible at every pixel centre of a square image.

    Args:
      xy_px: [v, 2], vertex positions, pixel centres at integers.
      depth_hu: [v], larger is nearer to the viewer.
      triangles: int [m, 3].
      side_px: the image's side.
      closed: bool [m], triangles of a closed surface: seen only where they turn their front to the viewer.
    """
    corners = np.ascontiguousarray(triangles.T)
    (x0, x1, x2), (y0, y1, y2) = (np.take(xy_px[:, i].astype(np.float32), corners) for i in (0, 1))
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    seen = np.flatnonzero((area > 1e-6) | ((area < -1e-6) & ~closed))
    depth_hu = depth_hu.astype(np.float32)
    far_to_near = np.argsort(np.take(depth_hu, corners[:, seen]).sum(axis=0))
    seen = seen[far_to_near]
    corners = corners[:, seen]
    x0, x1, x2, y0, y1, y2, area = (v[seen] for v in (x0, x1, x2, y0, y1, y2, area))
    # weights 1 and 2 of the corners are a (x - x0) + b (y - y0)
    planes = np.stack([(y2 - y0) / area, (x0 - x2) / area, (y0 - y1) / area, (x1 - x0) / area, x0, y0])
    triangle, row, left, count = _rows(np.stack([x0, x1, x2]), np.stack([y0, y1, y2]), side_px)
    entry, column = _expand(left, count)
    triangle, row = triangle[entry], row[entry]
    pixel = row * np.int32(side_px) + column
    nearest = np.full(side_px * side_px, -1, np.int32)
    np.maximum.at(nearest, pixel, triangle)
    won = np.flatnonzero(nearest[pixel] == triangle)
    pixel, triangle = pixel[won], triangle[won]
    a1, b1, a2, b2, x0, y0 = planes[:, triangle]
    dx, dy = column[won].astype(np.float32) - x0, row[won].astype(np.float32) - y0
    w1, w2 = a1 * dx + b1 * dy, a2 * dx + b2 * dy
    weights = np.stack([1 - w1 - w2, w1, w2], axis=-1)
    corners = np.ascontiguousarray(corners.T)[triangle]
    return Fragments(pixel, corners, weights, np.einsum("ij,ij->i", depth_hu[corners], weights))


def _rows(x: np.ndarray, y: np.ndarray, side_px: int) -> tuple[np.ndarray, ...]:
    """Returns the pixel rows of triangles [3, m]: triangle, row, first column and number of columns (int32 [r] each)."""
    order = np.argsort(y, axis=0)
    (x0, x1, x2), (y0, y1, y2) = np.take_along_axis(x, order, axis=0), np.take_along_axis(y, order, axis=0)
    top = np.clip(np.ceil(y0), 0, side_px).astype(np.int32)
    bottom = np.clip(np.floor(y2), -1, side_px - 1).astype(np.int32)
    triangle, row = _expand(top, np.maximum(bottom - top + 1, 0))
    # a row runs between the long edge 0-2 and one of the short edges, 0-1 above corner 1, 1-2 below it
    slopes = [(b - a) / np.maximum(d - c, 1e-9) for a, b, c, d in ((x0, x2, y0, y2), (x0, x1, y0, y1), (x1, x2, y1, y2))]
    x0, x1, y0, y1, long, upper, lower = np.stack([x0, x1, y0, y1, *slopes])[:, triangle]
    y = row.astype(np.float32)
    below0, below1 = y - y0, y - y1
    one = x0 + below0 * long
    other = np.where(below1 < 0, x0 + below0 * upper, x1 + below1 * lower)
    left = np.clip(np.ceil(np.minimum(one, other)), 0, side_px).astype(np.int32)
    right = np.clip(np.floor(np.maximum(one, other)), -1, side_px - 1).astype(np.int32)
    return triangle, row, left, np.maximum(right - left + 1, 0)


def _expand(first: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lists first[i], first[i] + 1, ... (count[i] of them) for every i; returns i and the number, int32."""
    entry = np.repeat(np.arange(len(count), dtype=np.int32), count)
    ends = np.cumsum(count, dtype=np.int32)
    return entry, np.arange(len(entry), dtype=np.int32) + (first - ends + count)[entry]
