"""What the camera does to a picture: blur, noise, JPEG."""

import cv2
import numpy as np

from lmkd.data_builders.synthetic_faces.parameters import Extras


def expose(image: np.ndarray, extras: Extras, hu_px: float, rng: np.random.Generator) -> np.ndarray:
    """Blurs, adds noise and compresses uint8 [h, w, 3]; lengths in head units are `hu_px` pixels each."""
    sigma = extras.blur_hu * hu_px
    if sigma > 0.25:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    if extras.motion_hu > 0:
        image = cv2.filter2D(image, -1, _streak(extras.motion_hu * hu_px, extras.motion_deg))
    noise = rng.standard_normal((*image.shape[:2], 1), np.float32) * np.float32(255 * extras.noise)
    image = np.clip(image + noise + 0.5, 0, 255).astype(np.uint8)
    if extras.jpeg_quality < 90:
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, extras.jpeg_quality])
        image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
    return image


def _streak(length_px: float, angle_deg: float) -> np.ndarray:
    side = int(np.ceil(length_px)) // 2 * 2 + 3
    kernel = np.zeros((side, side), np.float32)
    half = np.array([np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))]) * length_px / 2
    middle = (side - 1) / 2
    ends = [np.round((middle + s * half) * 16).astype(int).tolist() for s in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 1.0, 1, cv2.LINE_AA, 4)
    return kernel / kernel.sum()
