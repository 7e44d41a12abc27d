"""The skin chart: a flat picture of the face's surface, painted with anti-aliased polygons and soft spots.

Features are given at frontal positions (head units); `head.to_chart` unrolls them. The chart is uint8 RGB; soft spots are
collected on a coarse grid and applied in one pass. Two corners that no face reaches hold plain skin for ears and neck.
"""

import functools

import cv2
import numpy as np

from lmkd.data_builders.synthetic_faces.head import Head, to_chart

LO_HU = np.array([-1.62, -2.2])
HI_HU = np.array([1.62, 2.45])
SHIFT = 4
_COARSE = 5  # one soft cell is this many chart pixels


class Chart:
    """A chart under paint; `rgb` is uint8 [h, w, 3]."""

    def __init__(self, head: Head, skin: tuple, scale_px: float):
        self.head, self.scale = head, scale_px
        width, height = np.ceil((HI_HU - LO_HU) * scale_px / _COARSE).astype(int) * _COARSE
        self.rgb = np.empty((height, width, 3), np.uint8)
        self.rgb[:] = np.minimum(skin, 255)
        self._spots: list[tuple] = []

    def px(self, points_hu: np.ndarray) -> np.ndarray:
        """Chart pixels [..., 2] of frontal points."""
        return (to_chart(self.head, np.asarray(points_hu, np.float64)) - LO_HU) * self.scale - 0.5

    def fill(self, outline_hu: np.ndarray, colour: tuple, alpha: float = 1.0, soften_hu: float = 0.0) -> None:
        """Fills a polygon [n, 2], opaque or mixed in, with a crisp or softened edge."""
        points = self.px(outline_hu)
        if alpha >= 1.0 and soften_hu == 0.0:
            cv2.fillPoly(self.rgb, [fixed(points)], colour_tuple(colour), cv2.LINE_AA, SHIFT)
            return
        roi, mask = self.blank(points, 3 * soften_hu * self.scale + 2)
        cv2.fillPoly(mask, [fixed(points - roi[:2])], 255, cv2.LINE_AA, SHIFT)
        self._mix(roi, mask, colour, alpha, soften_hu)

    def line(
        self, points_hu: np.ndarray, width_hu: float, colour: tuple, alpha: float = 1.0, soften_hu: float = 0.0
    ) -> None:
        """Draws an open line [n, 2], or several of the same length [m, n, 2], of a width."""
        points = self.px(points_hu)
        points = points if points.ndim == 3 else points[None]
        roi, mask = self.blank(points.reshape(-1, 2), (3 * soften_hu + width_hu) * self.scale + 2)
        width_px = max(width_hu * self.scale, 0.5)
        thickness = max(int(round(width_px)), 1)
        cv2.polylines(mask, list(fixed(points - roi[:2])), False, 255, thickness, cv2.LINE_AA, SHIFT)
        self._mix(roi, mask, colour, alpha * min(width_px / thickness, 1.0), soften_hu)

    def spot(self, centre_hu: tuple, size_hu: tuple, factor: tuple) -> None:
        """Notes a soft elliptic spot that multiplies the skin by `factor` (RGB) at its middle, fading to 1."""
        self._spots.append((*centre_hu, *size_hu, *factor))

    def apply_spots(self, grain: np.ndarray) -> None:
        """Multiplies the painted chart by all spots so far, and by a grain [h, w] around 1."""
        height, width = self.rgb.shape[:2]
        spots = np.array(self._spots)
        place = (to_chart(self.head, spots[:, :2]) - LO_HU) * self.scale / _COARSE - 0.5
        size = spots[:, 2:4] * self.scale / _COARSE
        across = np.exp(-0.5 * ((np.arange(width // _COARSE) - place[:, :1]) / size[:, :1]) ** 2)
        down = np.exp(-0.5 * ((np.arange(height // _COARSE) - place[:, 1:]) / size[:, 1:]) ** 2)
        # spots multiply, so their logarithms add: one small matrix product a colour
        logs = np.log(spots[:, 4:])
        factor = np.exp(np.stack([(down * logs[:, i : i + 1]).T @ across for i in range(3)], axis=-1))
        factor = cv2.resize(factor.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        factor *= grain[:height, :width, None]
        cv2.multiply(self.rgb, factor, self.rgb, dtype=cv2.CV_8U)
        self._spots.clear()

    def paste(self, outline_px: np.ndarray, roi: np.ndarray, picture: np.ndarray) -> None:
        """Copies a picture of the region `roi` (see `blank`) into the polygon `outline_px` [n, 2]."""
        mask = np.zeros(picture.shape[:2], np.uint8)
        cv2.fillPoly(mask, [fixed(outline_px - roi[:2])], 255, cv2.LINE_AA, SHIFT)
        mix(self.rgb[roi[1] : roi[3], roi[0] : roi[2]], mask, picture)

    def blank(self, points_px: np.ndarray, margin_px: float) -> tuple[np.ndarray, np.ndarray]:
        """Returns the region (x0, y0, x1, y1) about chart points [n, 2], and an empty mask of its size."""
        height, width = self.rgb.shape[:2]
        (x0, y0), (x1, y1) = points_px.min(axis=0).tolist(), points_px.max(axis=0).tolist()
        left, top = min(max(int(x0 - margin_px), 0), width - 1), min(max(int(y0 - margin_px), 0), height - 1)
        right, low = min(int(x1 + margin_px) + 2, width), min(int(y1 + margin_px) + 2, height)
        right, low = max(right, left + 1), max(low, top + 1)
        return np.array([left, top, right, low]), np.zeros((low - top, right - left), np.uint8)

    def _mix(self, roi: np.ndarray, mask: np.ndarray, colour: tuple, alpha: float, soften_hu: float) -> None:
        if soften_hu * self.scale > 0.45:  # below that, anti-aliasing is soft enough
            mask = cv2.GaussianBlur(mask, (0, 0), soften_hu * self.scale)
        mix(self.rgb[roi[1] : roi[3], roi[0] : roi[2]], mask, colour, alpha)


def mix(region: np.ndarray, mask: np.ndarray, colour: np.ndarray | tuple, alpha: float = 1.0) -> None:
    """Mixes a colour, or a picture [h, w, 3], into region uint8 [h, w, 3] in place where mask uint8 [h, w] says."""
    x, y, w, h = cv2.boundingRect(mask)
    area = np.s_[y : y + h, x : x + w]
    colour = np.asarray(colour, np.float32)
    region = region[area]
    weight = mask[area].astype(np.float32)[..., None] * np.float32(alpha / 255.0)
    region[:] = region + weight * ((colour[area] if colour.ndim == 3 else colour) - region) + np.float32(0.5)


def smooth_curve(points: np.ndarray, steps: int = 5) -> np.ndarray:
    """Returns the Catmull-Rom curve [(n - 1) steps + 1, 2] through points [n, 2]."""
    return _curve_matrix(len(points), steps) @ points


@functools.cache
def _curve_matrix(count: int, steps: int) -> np.ndarray:
    p = np.eye(count)
    p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])  # the ends' neighbours, by reflection
    s = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    a, b, c, d = (p[i : len(p) - 3 + i, None] for i in range(4))
    curve = 0.5 * (2 * b + (c - a) * s + (2 * a - 5 * b + 4 * c - d) * s**2 + (3 * b - a - 3 * c + d) * s**3)
    return np.concatenate([curve.reshape(-1, count), np.eye(count)[-1:]])


def disc(image: np.ndarray, centre_px: np.ndarray, radius_px: float, colour: tuple) -> None:
    """Draws a filled circle with sub-pixel centre and radius."""
    x, y, radius = (int(round(v * (1 << SHIFT))) for v in (*centre_px, radius_px))
    cv2.circle(image, (x, y), radius, colour_tuple(colour), -1, cv2.LINE_AA, SHIFT)


def fixed(points_px: np.ndarray) -> np.ndarray:
    """Returns points in cv2's fixed-point form, `SHIFT` binary places."""
    return np.round(points_px * (1 << SHIFT)).astype(np.int32)


def colour_tuple(colour: np.ndarray | tuple) -> tuple[float, ...]:
    """Returns a colour as cv2 takes it, within 0-255."""
    return tuple(min(max(float(c), 0.0), 255.0) for c in colour)
