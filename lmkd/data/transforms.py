"""Transforms of one face, as frozen dataclasses: decode, crop protocols, ONE affine, colour, blur, occlusion.

A face is a dict of NumPy arrays with the keys of `core.batch`. Random transforms take a `numpy.random.Generator` that the
pipeline seeds by global index, so a face's augmentation does not depend on the number of hosts or threads.
"""

import dataclasses
from statistics import NormalDist

import cv2
import numpy as np

from lmkd.core import encoded_images, geometry
from lmkd.core.errors import UserError, unknown
from lmkd.core.schemes import Scheme
from lmkd.data.corruptions import Corruption
from lmkd.data.reading import Record, UnreadableRecord
from lmkd.data.smoothing import ShapeModel

CROP_PROTOCOLS = ("landmarks", "rectangle")
# Above this many image pixels a crop pixel, bilinear sampling would skip pixels: shrink by area first.
SHRINK_ABOVE = 1.25
# OpenCV's warps count source pixels in 16 bits.
LONGEST_WARPED_PX = 32766
# An annotated point may lie so many of its image's longer sides from the image's middle.
FARTHEST_OUTSIDE_IMAGES = 5.0


class UnreadableImage(UnreadableRecord):
    """An image that cannot be decoded; the message names its record."""


def decode(record: Record) -> np.ndarray:
    """Decodes a record's image to RGB uint8 [h, w, 3], in stored orientation (the points are in it, EXIF is not).

    Raises:
      UnreadableImage: the bytes are no JPEG or PNG that OpenCV reads, or hold more pixels than
        `core.encoded_images.MOST_PIXELS`, which is known before they are allocated.
    """
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    problem = encoded_images.problem(record.image)
    try:
        image = None if problem else cv2.imdecode(np.frombuffer(record.image, np.uint8), flags)
    except cv2.error:
        image = None
    if image is None:
        told = problem or f"{len(record.image)} bytes"
        raise UnreadableImage(f"record {record.key!r}: the image cannot be decoded ({told})", record.key)
    return image


def check_annotation(record: Record, width: int, height: int) -> None:
    """Refuses a record whose annotated points or rectangle cannot be those of its image of `width` x `height` pixels.

    Points may lie outside, up to `FARTHEST_OUTSIDE_IMAGES` of the image's longer side: whole faces never lie farther (see
    `data_builders.trees`), and what lies there would shrink the face to a speck, or leave the range of float32.

    Raises:
      UnreadableRecord: no point is annotated, or an annotated one or the rectangle is not finite or farther outside.
    """
    where = f"record {record.key!r}"
    annotated = np.flatnonzero(record.visible > 0)
    if not (np.isfinite(record.visible).all() and len(annotated)):
        raise UnreadableRecord(f"{where}: no point is annotated", record.key)
    reach = FARTHEST_OUTSIDE_IMAGES * max(width, height)
    distance = np.abs(record.landmarks_px - (width / 2, height / 2)).max(axis=1)
    absurd = [n for n in annotated if not distance[n] <= reach]  # NaN is not within, either
    if absurd:
        point = int(absurd[0])
        x, y = record.landmarks_px[point]
        raise UnreadableRecord(
            f"{where}: point {point} at ({x:.5g}, {y:.5g}) is no point of an image of {width} x {height} pixels", record.key
        )
    if not np.isnan(record.rectangle_px).any() and not (np.abs(record.rectangle_px) <= reach).all():
        told = ", ".join(f"{side:.5g}" for side in record.rectangle_px)
        raise UnreadableRecord(f"{where}: rectangle ({told}) is no part of an image of {width} x {height} pixels", record.key)


@dataclasses.dataclass(frozen=True)
class CropProtocol:
    """Where a face is cut: "landmarks" (tight box of the true points, as HRNet) or "rectangle" (the data set's own).

    `scale` times the box's longer side is the crop's side.
    """

    name: str = "landmarks"
    scale: float = 1.25

    def square(self, record: Record) -> geometry.Square:
        """Returns the square to crop. Raises UserError where the record has no rectangle."""
        if self.name == "landmarks":
            return geometry.square_around(geometry.tight_box(record.landmarks_px), self.scale)
        if self.name != "rectangle":
            raise unknown("crop protocol", self.name, CROP_PROTOCOLS, "config.data.crop")
        if not np.all(np.isfinite(record.rectangle_px)):
            raise UserError(f"record {record.key!r} has no rectangle: use the crop protocol 'landmarks' for this data set")
        return geometry.square_around(tuple(record.rectangle_px), self.scale)


def warp(image: np.ndarray, crop_to_image: np.ndarray, size_px: int) -> np.ndarray:
    """Samples a crop [size_px, size_px, 3] from an image through the affine from crop to image pixels.

    Where the crop is smaller than its source, the image is first shrunk by area, so that no pixel is skipped; outside the
    image the crop is black. Shrinking adds no offset: the affine accounts for it in the house convention.
    """
    factor = np.sqrt(abs(np.linalg.det(crop_to_image[:, :2])))
    if factor > SHRINK_ABOVE:
        image, crop_to_image = _cut(image, crop_to_image, size_px)
        height, width = image.shape[:2]
        small = max(1, round(width / factor)), max(1, round(height / factor))
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        fx, fy = small[0] / width, small[1] / height
        shrink = np.array([[fx, 0.0, 0.5 * fx - 0.5], [0.0, fy, 0.5 * fy - 0.5]])
        crop_to_image = geometry.compose(shrink, crop_to_image)
    elif max(image.shape[:2]) > LONGEST_WARPED_PX:
        image, crop_to_image = _cut(image, crop_to_image, size_px)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, crop_to_image, (size_px, size_px), flags=flags, borderMode=cv2.BORDER_CONSTANT)


def _cut(image: np.ndarray, crop_to_image: np.ndarray, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts the part of the image that the crop can see, so that shrinking costs nothing elsewhere."""
    edge = size_px - 0.5
    corners = geometry.apply_affine(crop_to_image, np.array([[-0.5, -0.5], [edge, -0.5], [-0.5, edge], [edge, edge]]))
    height, width = image.shape[:2]
    x0, y0 = np.clip(np.floor(corners.min(0)).astype(int) - 4, 0, [width - 1, height - 1])
    x1, y1 = np.clip(np.ceil(corners.max(0)).astype(int) + 5, [x0 + 1, y0 + 1], [width, height])
    moved = crop_to_image.copy()
    moved[:, 2] -= (x0, y0)
    return image[y0:y1, x0:x1], moved


@dataclasses.dataclass(frozen=True)
class Affine:
    """THE affine: crop, scale, rotation, shift and flip in one resampling.

    Attributes:
      scale: the crop's side is multiplied by U(1 - scale, 1 + scale).
      rotation_deg: the face is turned by U(-rotation_deg, rotation_deg), with probability `rotation_p`.
      shift: the centre moves by U(-shift, shift) of the crop's side on each axis.
      flip_p: probability of a mirror image, points permuted by the scheme.
    """

    scale: float = 0.25
    rotation_deg: float = 30.0
    rotation_p: float = 0.6
    shift: float = 0.0
    flip_p: float = 0.5

    def draw(self, square: geometry.Square, size_px: int, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
        """Draws an affine float64 [2, 3] from crop to image pixels, and whether it mirrors."""
        # Every number is drawn every time, so that one option's value does not shift the others' randomness.
        scale, turn, gate, dx, dy, mirror = rng.random(6)
        side = square.side_px * (1 + self.scale * (2 * scale - 1))
        angle = self.rotation_deg * (2 * turn - 1) if gate < self.rotation_p else 0.0
        offset = self.shift * square.side_px * (2 * np.array([dx, dy]) - 1)
        centre = tuple(np.asarray(square.centre_px) + offset)
        flip = bool(mirror < self.flip_p)
        return geometry.crop_affine(geometry.Square(centre, side), size_px, rotation_deg=angle, flip=flip), flip


@dataclasses.dataclass(frozen=True)
class Colour:
    """Brightness, contrast and gamma by U(1 - x, 1 + x), channel gains by U(1 - saturation...), grey with `grey_p`."""

    brightness: float = 0.3
    contrast: float = 0.3
    gamma: float = 0.3
    tint: float = 0.1
    grey_p: float = 0.1

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns a changed uint8 [S, S, 3]: one look-up table a channel, so the cost is one pass."""
        brightness, contrast, gamma, grey, *tint = rng.random(7)
        if grey < self.grey_p:
            image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        level = np.arange(256) / 255.0
        level = level ** (1 + self.gamma * (2 * gamma - 1))
        level = (level - 0.5) * (1 + self.contrast * (2 * contrast - 1)) + 0.5
        level = level * (1 + self.brightness * (2 * brightness - 1))
        gains = 1 + self.tint * (2 * np.asarray(tint) - 1)
        table = np.clip(level[:, None] * gains * 255.0 + 0.5, 0, 255).astype(np.uint8)
        return cv2.LUT(image, table[:, None, :].reshape(1, 256, 3))


# The normal distribution in 256 equally likely steps: noise as random bytes through a table costs a tenth of drawing floats.
NORMAL_STEPS = np.array([NormalDist().inv_cdf((n + 0.5) / 256) for n in range(256)])


@dataclasses.dataclass(frozen=True)
class Blur:
    """Gaussian blur with probability `p`, its sigma U(0, sigma) in 1/100 of the crop's side; and, with `noise_p`, sensor noise
    of deviation U(0, noise) grey levels, rounded to whole levels."""

    p: float = 0.2
    sigma: float = 1.5
    noise_p: float = 0.2
    noise: float = 8.0

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns a changed uint8 [S, S, 3]."""
        blur, amount, noisy, level = rng.random(4)
        if blur < self.p:
            image = cv2.GaussianBlur(image, (0, 0), 0.01 + amount * self.sigma * image.shape[0] / 100)
        if noisy < self.noise_p:
            table = np.clip(np.rint(NORMAL_STEPS * level * self.noise), -128, 127).astype(np.int8)
            flat = image.reshape(len(image), -1)
            grain = cv2.LUT(np.frombuffer(rng.bytes(flat.size), np.uint8).reshape(flat.shape), table[None])
            image = cv2.add(flat, grain, dtype=cv2.CV_8U).reshape(image.shape)
        return image


@dataclasses.dataclass(frozen=True)
class Occlusion:
    """With probability `p` one rectangle, up to `size` of the crop's side a side, of one colour or of noise."""

    p: float = 0.3
    size: float = 0.4

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns a changed uint8 [S, S, 3]."""
        gate, width, height, x, y, kind = rng.random(6)
        colour = rng.integers(0, 256, 3)
        if gate >= self.p:
            return image
        side = image.shape[0]
        w, h = (max(1, int(side * self.size * (0.2 + 0.8 * part))) for part in (width, height))
        left, top = int(x * (side - w)), int(y * (side - h))
        image = image.copy()
        patch = image[top : top + h, left : left + w]
        patch[...] = colour if kind < 0.5 else rng.integers(0, 256, patch.shape)
        return image


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What a training face goes through: the affine, then colour, blur and occlusion (None leaves one out)."""

    affine: Affine = Affine()
    colour: Colour | None = Colour()
    blur: Blur | None = Blur()
    occlusion: Occlusion | None = Occlusion()


@dataclasses.dataclass(frozen=True)
class MakeFace:
    """Cuts one face out of its decoded image: a dict with the keys of `core.batch` but `mask`, which the caller sets.

    Attributes:
      scheme: of the records' points.
      size_px: side of the crop.
      crop: where it is cut.
      augmentation: of training faces, which come with a generator.
      corruption: of evaluation faces, which come without one.
      shape_model: smooths the points of training faces; where they are cut is the true points' say.
    """

    scheme: Scheme
    size_px: int
    crop: CropProtocol = CropProtocol()
    augmentation: Augmentation | None = None
    corruption: Corruption | None = None
    shape_model: ShapeModel | None = None

    def __call__(self, record: Record, image: np.ndarray, rng: np.random.Generator | None) -> dict[str, np.ndarray]:
        """Returns the face; without an augmentation `rng` is not used."""
        square, corruption = self.crop.square(record), self.corruption if rng is None else None
        if self.augmentation is not None and rng is not None:
            affine, flip = self.augmentation.affine.draw(square, self.size_px, rng)
        else:
            square, turned_deg = corruption.place(square, record.key) if corruption else (square, 0.0)
            affine, flip = geometry.crop_affine(square, self.size_px, rotation_deg=turned_deg), False
        crop = warp(image, affine, self.size_px)
        given = self.shape_model is None or rng is None
        in_image = record.landmarks_px if given else self.shape_model.smooth(record.landmarks_px)  # type: ignore[union-attr]
        points = geometry.apply_affine(geometry.invert(affine), in_image)
        visible = record.visible
        if flip:
            order = list(self.scheme.flip)
            points, visible = points[order], visible[order]
        if self.augmentation is not None and rng is not None:
            for change in (self.augmentation.colour, self.augmentation.blur, self.augmentation.occlusion):
                crop = crop if change is None else change(crop, rng)
        crop = corruption.change(crop, record.key) if corruption else crop
        # Points that nobody annotated are NaN on disk; in a batch they are 0 with visible 0, since NaN times 0 is NaN.
        known = np.isfinite(points).all(axis=-1) & record.labelled
        norm_px = self.scheme.norm_px(record.landmarks_px)
        return {
            "image": crop,
            "landmarks_px": np.where(known[:, None], points, 0.0).astype(np.float32),
            "visible": np.asarray(visible * known, np.float32),
            "crop_to_image": affine.astype(np.float32),
            "norm_px": np.asarray(norm_px if np.isfinite(norm_px) else 0.0, np.float32),
            "mask": np.asarray(1.0, np.float32),
            "subset": record.subset,
        }
