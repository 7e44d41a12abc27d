"""The skin chart: a flat picture of the face's surface, painted with anti-aliased polygons and soft spots.

Features are given at frontal positions (head units); `head.to_chart` unrolls them. The chart is uint8 RGB; soft spots
are collected and applied in one pass. Two corners that no face reaches hold the ears' skin and the neck's.
"""

import cv2
import numpy as np

from lmkd.data_builders.synthetic_faces import paint
from lmkd.data_builders.synthetic_faces.head import Head, to_chart

LO_HU = np.array([-1.62, -2.2])
HI_HU = np.array([1.62, 2.45])
_COARSE = 5  # one soft cell is this many chart pixels
_LEAST_BLUR_PX = 0.45  # below that, anti-aliasing is soft enough


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
        return (to_chart(self.head, points_hu) - LO_HU) * self.scale - 0.5

    def fill(self, outline_hu: np.ndarray, colour: np.ndarray | tuple, alpha: float = 1.0, soften_hu: float = 0.0) -> None:
        """Mixes in a polygon [n, 2], or several of the same length [m, n, 2], with a crisp or softened edge."""
        points = self.px(outline_hu)
        roi, mask = self.blank(points, 3 * soften_hu * self.scale + 2)
        paint.polygon(mask, points - roi[:2], 255)
        self._mix(roi, mask, colour, alpha, soften_hu)

    def line(
        self,
        points_hu: np.ndarray,
        width_hu: float,
        colour: np.ndarray | tuple,
        alpha: float = 1.0,
        soften_hu: float = 0.0,
    ) -> None:
        """Draws an open line [n, 2], or several of the same length [m, n, 2]; thinner than a pixel means fainter."""
        points, width_px = self.px(points_hu), max(width_hu * self.scale, 0.5)
        roi, mask = self.blank(points, 3 * soften_hu * self.scale + width_px + 2)
        paint.stroke(mask, points - roi[:2], width_px, 255)
        self._mix(roi, mask, colour, alpha * min(width_px / max(round(width_px), 1), 1.0), soften_hu)

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
        region = self.rgb[roi[1] : roi[3], roi[0] : roi[2]]
        paint.mix(region, paint.mask_of(outline_px - roi[:2], region), picture)

    def blank(self, points_px: np.ndarray, margin_px: float) -> tuple[np.ndarray, np.ndarray]:
        """Returns the region (x0, y0, x1, y1) about chart points [..., 2], and an empty mask of its size."""
        height, width = self.rgb.shape[:2]
        flat = points_px.reshape(-1, 2)
        (x0, y0), (x1, y1) = flat.min(axis=0).tolist(), flat.max(axis=0).tolist()
        left, top = min(max(int(x0 - margin_px), 0), width - 1), min(max(int(y0 - margin_px), 0), height - 1)
        right, low = min(int(x1 + margin_px) + 2, width), min(int(y1 + margin_px) + 2, height)
        right, low = max(right, left + 1), max(low, top + 1)
        return np.array([left, top, right, low]), np.zeros((low - top, right - left), np.uint8)

    def _mix(self, roi: np.ndarray, mask: np.ndarray, colour: np.ndarray | tuple, alpha: float, soften_hu: float) -> None:
        if soften_hu * self.scale > _LEAST_BLUR_PX:
            mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), soften_hu * self.scale))
        paint.mix(self.rgb[roi[1] : roi[3], roi[0] : roi[2]], mask, colour, alpha)
