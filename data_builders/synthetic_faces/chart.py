"""The skin chart: a flat picture of the face's surface, painted with anti-aliased polygons and soft spots.

Features are given at frontal positions (head units); `head.to_chart` unrolls them. The chart is uint8 RGB; soft spots are
collected on a coarse grid and applied in one pass. Two corners that no face reaches hold plain skin for ears and neck.
"""

import cv2
import numpy as np

from lmkd.data_builders.synthetic_faces.head import Head, to_chart

LO_HU = np.array([-1.62, -2.2])
HI_HU = np.array([1.62, 2.45])
_SHIFT = 4
_COARSE = 5  # one soft cell is this many chart pixels


class Chart:
    """A chart under paint; `rgb` is uint8 [h, w, 3]."""

    def __init__(self, head: Head, skin: tuple, scale_px: float):
        self.head, self.scale = head, scale_px
        width, height = np.ceil((HI_HU - LO_HU) * scale_px / _COARSE).astype(int) * _COARSE
        self.rgb = np.empty((height, width, 3), np.uint8)
        self.rgb[:] = np.clip(skin, 0, 255).astype(np.uint8)
        self._factor = np.ones((height // _COARSE, width // _COARSE, 3), np.float32)
        y, x = np.mgrid[: height // _COARSE, : width // _COARSE]
        self._cells_hu = np.stack([x + 0.5, y + 0.5], -1).astype(np.float32) * (_COARSE / scale_px) + LO_HU

    def px(self, points_hu: np.ndarray) -> np.ndarray:
        """Chart pixels [..., 2] of frontal points."""
        return (to_chart(self.head, np.asarray(points_hu, np.float64)) - LO_HU) * self.scale - 0.5

    def fill(self, outline_hu: np.ndarray, colour: tuple, alpha: float = 1.0, soften_hu: float = 0.0) -> None:
        """Fills a polygon [n, 2], opaque or mixed in, with a crisp or softened edge."""
        points = self.px(outline_hu)
        if alpha >= 1.0 and soften_hu == 0.0:
            cv2.fillPoly(self.rgb, [_fixed(points)], _colour(colour), cv2.LINE_AA, _SHIFT)
            return
        roi, mask = self._mask(points, 3 * soften_hu * self.scale + 2)
        if mask is None:
            return
        cv2.fillPoly(mask, [_fixed(points - roi[:2])], 255, cv2.LINE_AA, _SHIFT)
        self._mix(roi, mask, colour, alpha, soften_hu)

    def line(
        self, points_hu: np.ndarray, width_hu: float, colour: tuple, alpha: float = 1.0, soften_hu: float = 0.0
    ) -> None:
        """Draws an open line [n, 2] of a width."""
        points = self.px(points_hu)
        roi, mask = self._mask(points, (3 * soften_hu + width_hu) * self.scale + 2)
        if mask is None:
            return
        width_px = max(width_hu * self.scale, 0.6)
        thickness = max(int(round(width_px)), 1)
        cv2.polylines(mask, [_fixed(points - roi[:2])], False, 255, thickness, cv2.LINE_AA, _SHIFT)
        self._mix(roi, mask, colour, alpha * min(width_px / thickness, 1.0), soften_hu)

    def spot(self, centre_hu: tuple, size_hu: tuple, factor: tuple, turn_deg: float = 0.0) -> None:
        """Multiplies the skin by `factor` (RGB) at the middle of a soft elliptic spot, fading to 1."""
        centre = to_chart(self.head, np.asarray(centre_hu, np.float64))
        dx, dy = self._cells_hu[..., 0] - centre[0], self._cells_hu[..., 1] - centre[1]
        if turn_deg:
            cos, sin = np.cos(np.deg2rad(turn_deg)), np.sin(np.deg2rad(turn_deg))
            dx, dy = dx * cos + dy * sin, dy * cos - dx * sin
        weight = np.exp(-0.5 * ((dx / size_hu[0]) ** 2 + (dy / size_hu[1]) ** 2))
        self._factor *= 1 + weight[..., None] * (np.asarray(factor, np.float32) - 1)

    def apply_spots(self, grain: np.ndarray | None = None) -> None:
        """Multiplies the painted chart by all spots so far, and by a grain [h, w] around 1."""
        height, width = self.rgb.shape[:2]
        factor = cv2.resize(self._factor, (width, height), interpolation=cv2.INTER_LINEAR)
        if grain is not None:
            factor *= grain[:height, :width, None]
        cv2.multiply(self.rgb, factor, self.rgb, dtype=cv2.CV_8U)
        self._factor[:] = 1.0

    def _mask(self, points: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray | None]:
        height, width = self.rgb.shape[:2]
        lo = np.clip(np.floor(points.min(axis=0) - margin), 0, (width, height)).astype(int)
        hi = np.clip(np.ceil(points.max(axis=0) + margin) + 1, 0, (width, height)).astype(int)
        roi = np.concatenate([lo, hi])
        return roi, np.zeros((hi[1] - lo[1], hi[0] - lo[0]), np.uint8) if (hi > lo).all() else None

    def _mix(self, roi: np.ndarray, mask: np.ndarray, colour: tuple, alpha: float, soften_hu: float) -> None:
        if soften_hu > 0:
            mask = cv2.GaussianBlur(mask, (0, 0), max(soften_hu * self.scale, 0.3))
        mix(self.rgb[roi[1] : roi[3], roi[0] : roi[2]], mask, colour, alpha)


def mix(region: np.ndarray, mask: np.ndarray, colour: tuple, alpha: float = 1.0) -> None:
    """Mixes a colour into region uint8 [h, w, 3] in place where mask uint8 [h, w] says."""
    weight = mask.astype(np.float32)[..., None] * (alpha / 255.0)
    region[:] = (region + weight * (np.asarray(colour, np.float32) - region) + 0.5).astype(np.uint8)


def smooth_curve(points: np.ndarray, steps: int = 5) -> np.ndarray:
    """Returns the Catmull-Rom curve [(n - 1) steps + 1, 2] through points [n, 2]."""
    p = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    s = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    a, b, c, d = (p[i : len(p) - 3 + i, None] for i in range(4))
    curve = 0.5 * (2 * b + (c - a) * s + (2 * a - 5 * b + 4 * c - d) * s**2 + (3 * b - a - 3 * c + d) * s**3)
    return np.concatenate([curve.reshape(-1, points.shape[1]), points[-1:]])


def _fixed(points_px: np.ndarray) -> np.ndarray:
    return np.round(points_px * (1 << _SHIFT)).astype(np.int32)


def _colour(colour: tuple) -> tuple:
    return tuple(float(c) for c in np.clip(colour, 0, 255))
