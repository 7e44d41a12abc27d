"""Reading pictures as they come, and refusing what is none."""

import numpy as np
import pytest
from PIL import Image

from lmkd.core.errors import UserError
from lmkd.prediction import images

# Each quadrant another colour, wider than high: every turn and every flip is told apart.
PICTURE = np.zeros((40, 60, 3), np.uint8)
PICTURE[:20, :30], PICTURE[:20, 30:], PICTURE[20:, :30], PICTURE[20:, 30:] = (
    (250, 0, 0),
    (0, 250, 0),
    (0, 0, 250),
    (250, 250, 0),
)


def saved(tmp_path, name, image, **options):
    path = tmp_path / name
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 1), (8, 3)])
def test_exif_orientation_is_applied(tmp_path, suffix, orientation, turns):
    exif = Image.Exif()
    exif[0x112] = orientation
    # 6: the picture must be turned clockwise by a quarter to stand upright, so it is stored turned the other way.
    stored = np.rot90(PICTURE, turns)
    found = images.read(saved(tmp_path, f"a.{suffix}", stored, exif=exif, **({"quality": 95} if suffix == "jpg" else {})))
    assert found.image.shape == (40, 60, 3) and found.notes == ()
    for y, x in ((5, 10), (5, 50), (35, 10), (35, 50)):
        np.testing.assert_allclose(found.image[y, x].astype(int), PICTURE[y, x], atol=12)


def test_grey_becomes_rgb_and_cmyk_too(tmp_path):
    grey = np.tile(np.arange(60, dtype=np.uint8), (40, 1))
    found = images.read(saved(tmp_path, "grey.png", grey))
    np.testing.assert_array_equal(found.image, np.repeat(grey[..., None], 3, axis=2))
    ink = images.read(saved(tmp_path, "ink.jpg", Image.fromarray(PICTURE).convert("CMYK"), quality=95))
    assert ink.image.shape == (40, 60, 3) and ink.image[5, 10, 0] > 200 > 60 > ink.image[5, 10, 1]
    palette = images.read(saved(tmp_path, "few.gif", Image.fromarray(PICTURE).convert("P", palette=Image.Palette.ADAPTIVE)))
    np.testing.assert_allclose(palette.image.astype(int), PICTURE, atol=8)


def test_sixteen_bits_keep_their_upper_eight(tmp_path):
    deep = (np.arange(40 * 60).reshape(40, 60) * 27).astype(np.uint16)
    for name in ("deep.png", "deep.tiff"):
        found = images.read(saved(tmp_path, name, deep))
        np.testing.assert_array_equal(found.image[..., 1], deep // 256)
        assert found.notes == ("16 bits: the upper 8 are used",)


def test_transparent_pixels_are_laid_on_white(tmp_path):
    alpha = np.full((40, 60), 255, np.uint8)
    whole = images.read(saved(tmp_path, "whole.png", np.dstack([PICTURE, alpha])))
    np.testing.assert_array_equal(whole.image, PICTURE)
    assert whole.notes == ()
    alpha[:, :30] = 0
    half = images.read(saved(tmp_path, "half.png", np.dstack([PICTURE, alpha])))
    assert (half.image[:, :30] == 255).all() and half.notes == ("transparent: laid on white",)
    np.testing.assert_array_equal(half.image[:, 30:], PICTURE[:, 30:])


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff"])
def test_of_several_frames_the_first(tmp_path, suffix):
    first, other = Image.fromarray(PICTURE), Image.fromarray(PICTURE[::-1])
    lossless = {"lossless": True} if suffix == "webp" else {}
    found = images.read(saved(tmp_path, f"a.{suffix}", first, save_all=True, append_images=[other, first], **lossless))
    np.testing.assert_allclose(found.image.astype(int), PICTURE, atol=8)
    assert found.notes == ("3 frames or pages: the first one is used",)


def test_a_huge_picture_is_read_and_a_bomb_refused(tmp_path, monkeypatch):
    path = saved(tmp_path, "large.png", PICTURE)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)  # Pillow warns above, and refuses twice as much
    assert images.read(path).image.shape == (40, 60, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserError, match=r"large\.png: larger than 0 megapixels.*shrink it first"):
        images.read(path)


@pytest.mark.parametrize("name", ["text.jpg", "cut.jpg", "cut.png", "empty.png", "none.png", "float.tiff", "wide.tiff"])
def test_what_cannot_be_read_is_told_by_name(tmp_path, name):
    path = tmp_path / name
    if name.startswith("cut"):
        noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
        whole = saved(tmp_path, name, noise).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif name == "float.tiff":
        saved(tmp_path, name, np.zeros((4, 4), np.float32))
    elif name == "wide.tiff":
        saved(tmp_path, name, np.full((4, 4), 70000, np.int32))
    elif name != "none.png":
        path.write_bytes(b"no picture" * (name == "text.jpg"))
    part = {"none.png": "no such file", "float.tiff": "floating-point", "wide.tiff": "32-bit"}.get(name, "cannot be read")
    with pytest.raises(UserError, match=part) as error:
        images.read(path)
    assert str(error.value).startswith(f"{path}: ")


def test_pictures_are_written_whole(tmp_path):
    images.write(tmp_path / "new" / "a.png", PICTURE)
    np.testing.assert_array_equal(images.read(tmp_path / "new" / "a.png").image, PICTURE)
    images.write(tmp_path / "a.jpg", PICTURE)
    np.testing.assert_allclose(images.read(tmp_path / "a.jpg").image[5, 10].astype(int), (250, 0, 0), atol=8)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.jpg", "a.png", "new"]
