"""Pictures as they come: turned by EXIF, grey, 16 bit, with alpha, of several frames, damaged.

picture = read("faces.jpg")
picture.image, picture.notes        # uint8 RGB [H, W, 3]; ("3 frames: the first one is used",)
"""

import warnings
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps

from lmkd.core.errors import UserError
from lmkd.evaluation.files import whole_path

SUFFIXES = (".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".jp2", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
LOSSY = (".jpg", ".jpeg", ".jfif")
QUALITY = 92
PAPER = (255, 255, 255)
"""What shows through transparent pixels, RGB."""


class Picture(NamedTuple):
    """A picture as models take it.

    Attributes:
      image: uint8 RGB [H, W, 3], upright.
      notes: what a person should know of how it was read.
    """

    image: np.ndarray
    notes: tuple[str, ...]


def read(path: str | Path) -> Picture:
    """Reads a picture.

    EXIF orientation is applied; grey becomes RGB; of 16 bits the upper 8 are kept; transparent pixels are laid on white; of
    several frames the first one is taken. The notes say which of these happened where it can matter.

    Raises:
      UserError: no picture, a damaged one, or one too large to be decoded safely (Pillow's guard, 179 megapixels).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # up to 179 megapixels: just large
            with Image.open(path) as opened:
                frames = 1 if opened.format == "MPO" else getattr(opened, "n_frames", 1)  # MPO: a phone's own preview
                several = (f"{frames} frames or pages: the first one is used",) if frames > 1 else ()
                image, notes = _rgb(ImageOps.exif_transpose(opened))
                return Picture(np.ascontiguousarray(image), (*several, *notes))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file") from error
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise UserError(f"{path}: larger than {most:.0f} megapixels, which is not decoded; shrink it first") from error
    except Exception as error:  # a damaged file takes a parser anywhere: OSError, SyntaxError, struct.error, zlib.error, ...
        told = str(error).replace(str(path), "").strip(" ':") or type(error).__name__
        raise UserError(f"{path}: cannot be read as a picture ({told})") from error


def write(path: str | Path, image: np.ndarray) -> None:
    """Writes an RGB picture uint8 [H, W, 3], whole or not at all, in the format that the path's suffix names."""
    options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY] if Path(path).suffix.lower() in LOSSY else []
    done, encoded = cv2.imencode(Path(path).suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise ValueError(f"{path}: the picture cannot be encoded: {image.shape} {image.dtype}")
    with whole_path(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def _rgb(image: Image.Image) -> tuple[np.ndarray, tuple[str, ...]]:
    """Turns a decoded picture into uint8 RGB, and says what got lost."""
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):  # 16-bit RGB comes from Pillow as 8 bits, its upper ones
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 65535:
            raise UserError("32-bit pixels: save it with 8 or 16 bits a channel first")
        return np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, axis=2), ("16 bits: the upper 8 are used",)
    if image.mode == "F":
        raise UserError("floating-point pixels: save it with 8 or 16 bits a channel first")
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB")), ()
    layered = image.convert("RGBA")
    if layered.getchannel("A").getextrema()[0] == 255:
        return np.asarray(layered.convert("RGB")), ()
    paper = Image.new("RGBA", layered.size, (*PAPER, 255))
    return np.asarray(Image.alpha_composite(paper, layered).convert("RGB")), ("transparent: laid on white",)
