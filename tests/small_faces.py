"""Small made-up faces for the tests of the data room."""

import struct
import zlib

import cv2
import numpy as np

from lmkd.core import encoded_images, schemes
from lmkd.data.reading import Record

SCHEME = schemes.from_json('{"points": 4, "flip_pairs": [[0, 1]], "normalisers": {"eyes": [[0], [1]]}}')


def dotted(points_px, size=(120, 160)) -> np.ndarray:
    """Draws a soft white blob at each point on black."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    image = sum(np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8.0) for x, y in points_px)
    return np.repeat((np.clip(image, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=2)


def record(points_px, image=None, visible=None, rectangle=(np.nan,) * 4) -> Record:
    image = dotted(points_px) if image is None else image
    points_px = np.asarray(points_px, np.float64)
    visible = np.ones(len(points_px), np.float32) if visible is None else np.asarray(visible, np.float32)
    data = cv2.imencode(".png", image)[1].tobytes()
    return Record("a/b", data, points_px, visible, np.asarray(rectangle, np.float64), np.zeros(0, np.uint8), "")


POINTS = np.array([[50.0, 40.0], [100.0, 45.0], [70.0, 60.0], [75.0, 85.0]])


class Faces:
    """A small in-memory `Records`; `broken` indices hold bytes that are no image."""

    scheme, flags, provenance = SCHEME, (), ()

    def __init__(self, count=10, broken=()):
        self._faces = [record(POINTS + n)._replace(key=f"face{n}") for n in range(count)]
        for n in broken:
            self._faces[n] = self._faces[n]._replace(image=b"broken")

    def __len__(self):
        return len(self._faces)

    def __getitem__(self, index):
        return self._faces[index]


def png_that_claims(width, height):
    """A PNG of a few bytes whose header promises any size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return encoded_images.PNG + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
