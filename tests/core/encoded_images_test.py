"""The size in an image's header: OpenCV's own, whatever stands before it; and a bomb that is told before it is decoded."""

import struct
import tracemalloc

import cv2
import numpy as np
import pytest
from small_faces import png_that_claims

from lmkd.core import encoded_images


def encoded(suffix, height=24, width=32, *options):
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.imencode(suffix, noise, list(options))[1].tobytes()


def jpeg_that_claims(width, height):
    data = encoded(".jpg")
    at = data.index(b"\xff\xc0")
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


@pytest.mark.parametrize("options", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)])
def test_the_size_of_jpegs_of_several_kinds(options):
    data = encoded(".jpg", 24, 32, *options)
    segment = b"\xff\xe1" + struct.pack(">H", 40) + b"\xff\xc0\x00\x11\x08\x00\x01\x00\x01" + bytes(29)  # a frame inside EXIF
    for before in (b"", segment, b"\xff\xff\xff", b"\xff\x01"):  # fill bytes and a bare marker may stand before a marker
        assert encoded_images.size(data[:2] + before + data[2:]) == (32, 24)
    assert encoded_images.problem(data) == ""


def test_the_size_of_a_png():
    assert encoded_images.size(encoded(".png")) == (32, 24)
    assert encoded_images.size(encoded(".png")[:20]) is None


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", encoded(".jpg")[:100], b"GIF89a", encoded_images.PNG])
def test_data_without_a_header_has_no_size(data):
    assert encoded_images.size(data) is None and encoded_images.problem(data)


@pytest.mark.parametrize("bomb", [png_that_claims(60_000, 60_000), jpeg_that_claims(65_000, 65_000)], ids=["png", "jpeg"])
def test_a_bomb_is_told_without_its_memory(bomb):
    tracemalloc.start()
    told = encoded_images.problem(bomb)
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()
    assert "more than 100 megapixels" in told
    assert encoded_images.problem(png_that_claims(10_000, 10_000)) == ""
