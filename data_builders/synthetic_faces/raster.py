"""A triangle rasteriser, vectorised over triangles.

Made for many small triangles: they are grouped by the size of their bounding boxes, all pixels of the boxes are tested
at once, and the sample of the nearest triangle (by the depth of its middle) wins the pixel.
"""

import functools
from typing import NamedTuple

import numpy as np

_BOXES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128)


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


def rasterise(
    xy_px: np.ndarray, depth_hu: np.ndarray, triangles: np.ndarray, side_px: int, closed: np.ndarray
) -> Fragments:
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
    lo_x, hi_x = np.ceil(np.minimum(np.minimum(x0, x1), x2)), np.floor(np.maximum(np.maximum(x0, x1), x2))
    lo_y, hi_y = np.ceil(np.minimum(np.minimum(y0, y1), y2)), np.floor(np.maximum(np.maximum(y0, y1), y2))
    seen = ((area > 1e-6) | ((area < -1e-6) & ~closed)) & (hi_x >= lo_x) & (hi_y >= lo_y)
    seen &= (hi_x >= 0) & (hi_y >= 0) & (lo_x < side_px) & (lo_y < side_px)
    seen = np.flatnonzero(seen)
    corners = corners[:, seen]
    depth_hu = depth_hu.astype(np.float32)
    order = np.argsort(np.take(depth_hu, corners).sum(axis=0))  # far to near: later triangles win
    seen, corners = seen[order], corners[:, order]
    x0, x1, x2, y0, y1, y2, area = (v[seen] for v in (x0, x1, x2, y0, y1, y2, area))
    lo_x, lo_y, hi_x, hi_y = (v[seen] for v in (lo_x, lo_y, hi_x, hi_y))
    weights = (y2 - y0) / area, (x0 - x2) / area, (y0 - y1) / area, (x1 - x0) / area
    planes = np.stack([lo_x - x0, lo_y - y0, *weights], axis=1)
    extent = np.maximum(hi_x - lo_x, hi_y - lo_y) + 1
    first = lo_y.astype(np.int32) * side_px + lo_x.astype(np.int32)
    on_edge = (lo_x < 0) | (lo_y < 0) | (lo_x + extent + 1 >= side_px) | (lo_y + extent + 1 >= side_px)
    nearest = np.full(side_px * side_px, -1, np.int32)
    parts, smallest = [], 0
    for box in _BOXES:
        chosen = np.flatnonzero((extent > smallest) & (extent <= box)).astype(np.int32)
        smallest = box
        if len(chosen):
            parts.append(_samples(chosen, box, planes[chosen], first, lo_x, on_edge, side_px))
    if not parts:
        none = np.zeros((0, 3), np.float32)
        return Fragments(np.zeros(0, np.int32), none.astype(np.int32), none, none[:, 0])
    pixel, triangle, w1, w2 = (np.concatenate(p) for p in zip(*parts, strict=True))
    np.maximum.at(nearest, pixel, triangle)
    won = np.flatnonzero(nearest[pixel] == triangle)
    pixel, w1, w2, (a, b, c) = pixel[won], w1[won], w2[won], corners[:, triangle[won]]
    w0 = 1 - w1 - w2
    depth = depth_hu[a] * w0 + depth_hu[b] * w1 + depth_hu[c] * w2
    return Fragments(pixel, np.stack([a, b, c], axis=-1), np.stack([w0, w1, w2], axis=-1), depth)


def _samples(chosen, box, p, first, lo_x, on_edge, side_px):
    """Tests the pixels of the chosen triangles' bounding boxes; returns those inside, with two of the weights."""
    step = np.arange(box, dtype=np.float32)
    dx, dy = (p[:, :1] + step)[:, None, :], (p[:, 1:2] + step)[:, :, None]
    w1 = dx * p[:, 2, None, None] + dy * p[:, 3, None, None]
    w2 = dx * p[:, 4, None, None] + dy * p[:, 5, None, None]
    hit = np.flatnonzero((w1 >= 0) & (w2 >= 0) & (w1 + w2 <= 1)).astype(np.int32)
    which = hit // (box * box)
    cell = hit - which * (box * box)
    row = cell // box
    column = cell - row * box
    triangle = chosen[which]
    pixel = first[triangle] + row * side_px + column
    w1, w2 = w1.ravel()[hit], w2.ravel()[hit]
    if on_edge[chosen].any():
        column = column + lo_x[triangle]
        inside = np.flatnonzero((pixel >= 0) & (pixel < side_px * side_px) & (column >= 0) & (column < side_px))
        pixel, triangle, w1, w2 = pixel[inside], triangle[inside], w1[inside], w2[inside]
    return pixel, triangle, w1, w2
