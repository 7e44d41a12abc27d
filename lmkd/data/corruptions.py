"""Corruptions of evaluation faces: eight kinds at five strengths, the same for a face in every run.

    MakeFace(scheme, 256, corruption=Corruption("blur", 3))

Five strengths a kind follow Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019 (arXiv 1903.12261). `KINDS` is the one table of values and units. Kinds of the picture change
the cut crop; kinds of the crop ("rotation", "jitter") change where it is cut, so that `crop_to_image` keeps saying where
its pixels are. Drawn numbers follow from the face's key and the kind, never from the strength: a stronger corruption is
the same one, further.
"""

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np

from lmkd.core.errors import UserError, unknown
from lmkd.core.geometry import Square

STRENGTHS = (1, 2, 3, 4, 5)


class Placement(NamedTuple):
    """Where a crop is cut: the square in image pixels, and by how much the face is turned in it."""

    square: Square
    rotation_deg: float = 0.0


class Kind(NamedTuple):
    """One kind of corruption.

    Attributes:
      values: for strengths 1 to 5; what they are stands in `text`.
      text: a format that says a value in words.
      change: (crop u8 [S, S, 3], value, generator) -> crop; None where the kind is one of the crop.
      place: (square, value, generator) -> Placement; None where the kind is one of the picture.
    """

    values: tuple[Any, ...]
    text: str
    change: Callable[[np.ndarray, Any, np.random.Generator], np.ndarray] | None = None
    place: Callable[[Square, Any, np.random.Generator], Placement] | None = None


@dataclasses.dataclass(frozen=True)
class Corruption:
    """One kind at one strength.

    Attributes:
      kind: one of `KINDS`.
      strength: 1 to 5.

    Raises:
      UserError: no such kind or strength.
    """

    kind: str
    strength: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("corruption", self.kind, KINDS)
        if self.strength not in STRENGTHS:
            raise UserError(f"corruption {self.kind!r}: strength {self.strength!r} is none of {STRENGTHS}")

    @property
    def value(self) -> Any:
        """The strength's value, in the unit of the kind."""
        return KINDS[self.kind].values[self.strength - 1]

    @property
    def setting(self) -> str:
        """The strength's value in words."""
        value = self.value
        return KINDS[self.kind].text.format(*(value if isinstance(value, tuple) else (value,)))

    def place(self, square: Square, key: str) -> Placement:
        """Returns where the crop of face `key` is cut instead of `square`."""
        place = KINDS[self.kind].place
        return Placement(square) if place is None else place(square, self.value, self._generator(key))

    def change(self, crop: np.ndarray, key: str) -> np.ndarray:
        """Returns the changed crop, uint8 [S, S, 3], of face `key`; the argument stays as it is."""
        change = KINDS[self.kind].change
        return crop if change is None else change(crop, self.value, self._generator(key))

    def _generator(self, key: str) -> np.random.Generator:
        return np.random.default_rng([zlib.crc32(key.encode()), zlib.crc32(self.kind.encode())])


def _blur(crop: np.ndarray, sigma_share: float, rng: np.random.Generator) -> np.ndarray:
    return cv2.GaussianBlur(crop, (0, 0), sigma_share * crop.shape[0])


def _noise(crop: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    return _rounded(crop + sigma * 255 * rng.standard_normal(crop.shape, np.float32))


def _jpeg(crop: np.ndarray, quality: int, rng: np.random.Generator) -> np.ndarray:
    # JPEG keeps brightness better than colour, so OpenCV has to know which channel is which.
    data = cv2.imencode(".jpg", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.cvtColor(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR)), cv2.COLOR_BGR2RGB)


def _dark(crop: np.ndarray, gain_and_gamma: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    gain, gamma = gain_and_gamma
    return cv2.LUT(crop, _rounded(255 * gain * (np.arange(256) / 255) ** gamma))


def _occlusion(crop: np.ndarray, area_share: float, rng: np.random.Generator) -> np.ndarray:
    # The patch's centre stays for all strengths, within the middle of the crop, where the face is: patches are nested.
    side = crop.shape[0]
    x, y = side * rng.uniform(0.3, 0.7, 2)
    colour, half = rng.integers(0, 256, 3), side * np.sqrt(area_share) / 2
    left, top, right, bottom = (round(edge) for edge in (x - half, y - half, x + half, y + half))
    crop = crop.copy()
    crop[max(0, top) : bottom, max(0, left) : right] = colour
    return crop


def _low_resolution(crop: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    side = crop.shape[0]
    small = max(1, round(side * factor))
    crop = cv2.resize(crop, (small, small), interpolation=cv2.INTER_AREA)
    return cv2.resize(crop, (side, side), interpolation=cv2.INTER_LINEAR)


def _rotation(square: Square, angle_deg: float, rng: np.random.Generator) -> Placement:
    return Placement(square, float(angle_deg if rng.random() < 0.5 else -angle_deg))


def _jitter(square: Square, share: float, rng: np.random.Generator) -> Placement:
    direction, larger = rng.uniform(0, 2 * np.pi), rng.random() < 0.5
    shift = share * square.side_px
    x, y = square.centre_px
    moved = (x + shift * float(np.cos(direction)), y + shift * float(np.sin(direction)))
    return Placement(Square(moved, square.side_px * (1 + share if larger else 1 - share)))


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


# Blur, noise, JPEG and low resolution: the values of Hendrycks and Dietterich's ImageNet-C (gaussian_blur, whose pixels are of
# 224 px crops; gaussian_noise; jpeg_compression; pixelate), so that strengths mean what readers expect. The others are ours.
KINDS: dict[str, Kind] = {
    "blur": Kind((1 / 224, 2 / 224, 3 / 224, 4 / 224, 6 / 224), "Gaussian, sigma {:.2%} of the side", change=_blur),
    "noise": Kind((0.08, 0.12, 0.18, 0.26, 0.38), "Gaussian, sigma {:g} of full scale", change=_noise),
    "jpeg": Kind((25, 18, 15, 10, 7), "JPEG quality {:d}", change=_jpeg),
    "dark": Kind(((0.7, 1.2), (0.5, 1.4), (0.35, 1.6), (0.25, 1.8), (0.15, 2.0)), "gain {:g}, gamma {:g}", change=_dark),
    "occlusion": Kind((0.04, 0.08, 0.14, 0.22, 0.32), "one square of {:.0%} of the area", change=_occlusion),
    "low_resolution": Kind((0.6, 0.5, 0.4, 0.3, 0.25), "side times {:g} and back", change=_low_resolution),
    "rotation": Kind((10.0, 20.0, 30.0, 45.0, 60.0), "turned by {:g} degrees", place=_rotation),
    "jitter": Kind((0.03, 0.06, 0.10, 0.15, 0.20), "shifted by {0:.0%} of the side, side +-{0:.0%}", place=_jitter),
}
