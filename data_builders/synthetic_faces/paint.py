"""Anti-aliased drawing with sub-pixel positions: thin layers over cv2. Pixel centres are integers."""

import functools

import cv2
import numpy as np

_SHIFT = 4  # binary places of cv2's fixed-point coordinates


def polygon(image: np.ndarray, outlines_px: np.ndarray, colour: np.ndarray | tuple | float) -> None:
    """Fills a polygon [n, 2], or several [m, n, 2], in place."""
    cv2.fillPoly(image, _fixed(outlines_px), _channels(colour), cv2.LINE_AA, _SHIFT)


def stroke(image: np.ndarray, lines_px: np.ndarray, width_px: float, colour: np.ndarray | tuple | float) -> None:
    """Draws an open line [n, 2], or several [m, n, 2], in place; the width is rounded to pixels, 1 at least."""
    width = max(int(round(width_px)), 1)
    cv2.polylines(image, _fixed(lines_px), False, _channels(colour), width, cv2.LINE_AA, _SHIFT)


def disc(image: np.ndarray, centre_px: np.ndarray, radius_px: float, colour: np.ndarray | tuple) -> None:
    """Draws a filled circle in place."""
    x, y, radius = (int(round(float(v) * (1 << _SHIFT))) for v in (*centre_px, radius_px))
    cv2.circle(image, (x, y), radius, _channels(colour), -1, cv2.LINE_AA, _SHIFT)


def mask_of(outline_px: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Returns the mask uint8 [h, w] of a polygon [n, 2] in a picture of the image's size."""
    mask = np.zeros(image.shape[:2], np.uint8)
    polygon(mask, outline_px, 255)
    return mask


def mix(region: np.ndarray, mask: np.ndarray, colour: np.ndarray | tuple, alpha: float = 1.0) -> None:
    """Mixes a colour, or a picture [h, w, 3], into region uint8 [h, w, 3] in place where mask uint8 [h, w] says."""
    x, y, width, height = cv2.boundingRect(mask)
    area = np.s_[y : y + height, x : x + width]
    colour = np.asarray(colour, np.float32)
    region = region[area]
    weight = mask[area].astype(np.float32)[..., None] * np.float32(alpha / 255.0)
    colour = np.minimum(colour[area] if colour.ndim == 3 else colour, np.float32(255))
    region[:] = region + weight * (colour - region) + np.float32(0.499)


def scaled(colour: np.ndarray | tuple, factor: tuple | float) -> np.ndarray:
    """Returns a colour times a factor (or one a channel), at most 255."""
    return np.minimum(np.multiply(colour, factor), 255)


def smooth_curve(points: np.ndarray, steps: int = 5) -> np.ndarray:
    """Returns the Catmull-Rom curves [..., (n - 1) steps + 1, 2] through points [..., n, 2]."""
    return _curve_matrix(points.shape[-2], steps) @ points


@functools.cache
def _curve_matrix(count: int, steps: int) -> np.ndarray:
    p = np.eye(count)
    p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])  # the ends' neighbours, by reflection
    s = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    a, b, c, d = (p[i : len(p) - 3 + i, None] for i in range(4))
    curve = 0.5 * (2 * b + (c - a) * s + (2 * a - 5 * b + 4 * c - d) * s**2 + (3 * b - a - 3 * c + d) * s**3)
    return np.concatenate([curve.reshape(-1, count), np.eye(count)[-1:]])


def _fixed(points_px: np.ndarray) -> list[np.ndarray]:
    points = np.round(points_px * (1 << _SHIFT)).astype(np.int32)
    return list(points) if points.ndim == 3 else [points]


def _channels(colour: np.ndarray | tuple | float) -> tuple[float, ...]:
    if isinstance(colour, int | float):
        return (float(colour),)
    return tuple(min(max(float(c), 0.0), 255.0) for c in colour)
