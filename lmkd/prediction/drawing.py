"""Points and a scheme's lines drawn over a picture."""

from collections.abc import Sequence

import cv2
import numpy as np

from lmkd.core.schemes import Scheme

DOT, EDGE, LINE = (255, 225, 0), (31, 27, 0), (80, 200, 255)  # RGB; the report's dots: seen on any skin, any colour vision
_SHIFT = 4  # OpenCV draws at 1/16 pixel


def draw(
    image: np.ndarray,
    landmarks_px: Sequence[np.ndarray] | np.ndarray,
    scheme: Scheme,
    *,
    longest_px: int | None = None,
) -> np.ndarray:
    """Returns the picture with each face's points and lines; dots grow with the face, lines stay thin.

    Args:
      image: uint8 RGB [H, W, 3].
      landmarks_px: n faces' points [K, 2] in the image's pixels.
      scheme: of the points; its `lines` join them.
      longest_px: a larger picture is shrunk to this side first; None keeps every picture's size.
    """
    height, width = image.shape[:2]
    factor = min(1.0, longest_px / max(height, width)) if longest_px else 1.0
    canvas = np.ascontiguousarray(image).copy()
    if factor < 1:
        small = max(1, round(width * factor)), max(1, round(height * factor))
        canvas = np.asarray(cv2.resize(image, small, interpolation=cv2.INTER_AREA))
    for points_px in landmarks_px:
        _draw_face(canvas, (np.asarray(points_px, np.float64) + 0.5) * factor - 0.5, scheme.lines)
    return canvas


def _draw_face(canvas: np.ndarray, points_px: np.ndarray, lines: tuple[tuple[int, ...], ...]) -> None:
    extent = float((points_px.max(axis=0) - points_px.min(axis=0)).max())
    radius = max(0.9, extent / 110)
    thin = max(1, round(extent / 300))
    at = np.round(points_px * 2**_SHIFT).astype(np.int32)
    for line in lines:
        cv2.polylines(canvas, [at[list(line)]], False, LINE, thin, cv2.LINE_AA, _SHIFT)
    for grown, colour in ((1.0 + 0.35 * radius, EDGE), (0.0, DOT)):
        for x, y in at.tolist():
            cv2.circle(canvas, (x, y), round((radius + grown) * 2**_SHIFT), colour, cv2.FILLED, cv2.LINE_AA, _SHIFT)
