"""Light on surfaces, and the noise that gives skin and hair their grain."""

import functools

import cv2
import numpy as np

from lmkd.data_builders.synthetic_faces.sampling import Light

TILE = 512


def shade(albedo: np.ndarray, normals: np.ndarray, open_share: np.ndarray, light: Light, gloss: float) -> np.ndarray:
    """Lights surface samples: a wrapped Lambert key light, a sky-to-floor ambient light and a broad highlight.

    Args:
      albedo: [n, 3], sRGB 0-255.
      normals: [n, 3], in the camera's frame, about unit length.
      open_share: [n], the share of ambient light that arrives.
      light: the lamps.
      gloss: strength of the highlight.

    Returns:
      sRGB float32 [n, 3], 0-255 and brighter.
    """
    azimuth, elevation = np.deg2rad(light.azimuth_deg), np.deg2rad(light.elevation_deg)
    towards = np.array(
        [np.sin(azimuth) * np.cos(elevation), -np.sin(elevation), np.cos(azimuth) * np.cos(elevation)], np.float32
    )
    n = normals * (1.0 / np.maximum(np.sqrt(np.einsum("ij,ij->i", normals, normals)), 1e-6))[:, None]
    lambert = np.maximum((n @ towards + 0.15) / 1.15, 0.0)
    half = towards + np.array([0, 0, 1], np.float32)
    half /= np.linalg.norm(half)
    highlight = gloss * np.maximum(n @ half, 0.0) ** 18
    sky = 1.0 - 0.22 * n[:, 1] + 0.06 * n[:, 2]
    strength = light.exposure * (light.key * 1.5 * lambert * np.sqrt(open_share) + light.ambient * 1.1 * sky * open_share)
    linear = (albedo * (1 / 255.0)) ** 2 * strength[:, None] * np.asarray(light.tint, np.float32)
    linear += (highlight * light.key * light.exposure)[:, None]
    return np.sqrt(np.maximum(linear, 0.0)) * 255.0


@functools.cache
def grain_tile() -> np.ndarray:
    """Returns skin grain float32 [TILE, TILE], standard deviation about 1: pores over blotches. The same in every process."""
    rng = np.random.default_rng(1)
    fine = rng.standard_normal((TILE, TILE)).astype(np.float32)
    blotch = _wrapped_blur(rng.standard_normal((TILE, TILE)).astype(np.float32), 14, 14)
    fine = _wrapped_blur(fine, 0.8, 0.8)
    return 0.6 * fine / fine.std() + 0.8 * blotch / blotch.std()


@functools.cache
def strand_tile() -> np.ndarray:
    """Returns hair strands float32 [TILE, TILE], long along the columns' direction, standard deviation about 1."""
    rng = np.random.default_rng(2)
    fine = _wrapped_blur(rng.standard_normal((TILE, TILE)).astype(np.float32), 1.0, 60)
    locks = _wrapped_blur(rng.standard_normal((TILE, TILE)).astype(np.float32), 6.0, 90)
    return 0.7 * fine / fine.std() + 0.7 * locks / locks.std()


def sample_tile(tile: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Reads a periodic tile at positions [n] in pixels, bilinearly: [n]."""
    rows = -(-len(x) // 1024)
    maps = [np.resize(np.mod(v, TILE).astype(np.float32), (rows, 1024)) for v in (x, y)]
    return cv2.remap(tile, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP).ravel()[: len(x)]


def _wrapped_blur(noise: np.ndarray, sigma_x: float, sigma_y: float) -> np.ndarray:
    margin = 256
    padded = cv2.copyMakeBorder(noise, margin, margin, margin, margin, cv2.BORDER_WRAP)
    return cv2.GaussianBlur(padded, (0, 0), sigma_x, sigmaY=sigma_y)[margin:-margin, margin:-margin]
