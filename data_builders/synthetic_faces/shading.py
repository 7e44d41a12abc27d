"""Light on surfaces, and the noise that gives skin and hair their grain."""

import functools

import cv2
import numpy as np

from lmkd.data_builders.synthetic_faces.parameters import Light

TILE = 512


def vertex_light(normals: np.ndarray, open_share: np.ndarray, light: Light, gloss: float) -> np.ndarray:
    """Lights vertices: a wrapped Lambert key light, an ambient light from sky to floor, and a broad highlight.

    Args:
      normals: [v, 3], unit, in the camera's frame.
      open_share: [v], the share of ambient light that arrives.
      light: the lamps.
      gloss: strength of the highlight.

    Returns:
      float32 [v, 2]: the factor on linear albedo, and the linear light of the highlight.
    """
    azimuth, elevation = np.deg2rad(light.azimuth_deg), np.deg2rad(light.elevation_deg)
    side, up, front = np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)
    towards = np.array([side, -up, front], np.float32)
    half = towards + np.array([0, 0, 1], np.float32)
    normals = normals.astype(np.float32)
    lambert = np.maximum((normals @ towards + 0.15) / 1.15, 0.0)
    highlight = gloss * np.maximum(normals @ (half / np.linalg.norm(half)), 0.0) ** 18
    sky = 1.0 - 0.22 * normals[:, 1] + 0.06 * normals[:, 2]
    factor = light.key * 1.25 * lambert * np.sqrt(open_share) + light.ambient * 0.8 * sky * open_share
    return (light.exposure * np.stack([factor, highlight * light.key], axis=-1)).astype(np.float32)


def lit_colour(albedo: np.ndarray, lighting: np.ndarray, tint: tuple) -> np.ndarray:
    """Returns lit sRGB uint8 [n, 3] from albedo (sRGB 0-255) [n, 3] and interpolated `vertex_light` [n, 2]; gamma 2."""
    linear = albedo.astype(np.float32) ** 2 * (lighting[:, :1] * np.asarray(tint, np.float32)) + lighting[:, 1:] * 255.0**2
    return np.minimum(np.sqrt(np.maximum(linear, 0.0)), 255.0).astype(np.uint8)


def flat_lit(colour: np.ndarray | tuple, light: Light) -> np.ndarray:
    """Returns the colour float32 [3] that a flat thing of a colour shows to the camera in that light."""
    strength = np.sqrt(light.exposure * (0.55 * light.key + 0.85 * light.ambient))
    return np.clip(np.asarray(colour, np.float32) * np.float32(strength), 0, 255)


@functools.cache
def grain_tile() -> np.ndarray:
    """Returns skin grain float32 [TILE, TILE], deviation about 1: pores over blotches. The same in every process."""
    rng = np.random.default_rng(1)
    return 0.6 * _smooth_noise(rng, 0.8, 0.8) + 0.8 * _smooth_noise(rng, 14, 14)


@functools.cache
def strand_tile() -> np.ndarray:
    """Returns hair strands float32 [TILE, TILE], long along the columns, deviation about 1."""
    rng = np.random.default_rng(2)
    return 0.7 * _smooth_noise(rng, 1.0, 60) + 0.7 * _smooth_noise(rng, 6.0, 90)


def sample_tile(tile: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Reads a periodic tile [TILE, TILE] at positions [n] in pixels, bilinearly: [n]."""
    return sample(tile, np.mod(x, TILE), np.mod(y, TILE), cv2.BORDER_WRAP)


def sample(image: np.ndarray, x: np.ndarray, y: np.ndarray, border: int) -> np.ndarray:
    """Reads an image [h, w] or [h, w, c] at positions [n] in pixels, bilinearly: [n] or [n, c]."""
    rows = -(-len(x) // 1024)  # cv2 takes maps of at most 32767 columns
    column, row = (np.resize(v.astype(np.float32), (rows, 1024)) for v in (x, y))
    found = cv2.remap(image, column, row, cv2.INTER_LINEAR, borderMode=border)
    return np.asarray(found).reshape(-1, *image.shape[2:])[: len(x)]


def _smooth_noise(rng: np.random.Generator, sigma_x: float, sigma_y: float) -> np.ndarray:
    """Periodic Gaussian noise of deviation 1, blurred by sigmas in pixels: shaped in the frequency domain."""
    x, y = 2 * np.pi * np.fft.rfftfreq(TILE), 2 * np.pi * np.fft.fftfreq(TILE)[:, None]
    spectrum = np.fft.rfft2(rng.standard_normal((TILE, TILE))) * np.exp(-0.5 * ((x * sigma_x) ** 2 + (y * sigma_y) ** 2))
    noise = np.fft.irfft2(spectrum, (TILE, TILE))
    return (noise / noise.std()).astype(np.float32)
