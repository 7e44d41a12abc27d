"""Crops, augmentations and decoding: points stay on what they mark, randomness is the seed's alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_faces import POINTS, SCHEME, dotted, record

from lmkd.core import geometry
from lmkd.core.errors import UserError
from lmkd.data import transforms


def blob_centre(image, around) -> np.ndarray:
    x, y = np.round(around).astype(int)
    window = image[max(y - 4, 0) : y + 5, max(x - 4, 0) : x + 5, 0].astype(float)
    rows, columns = np.mgrid[max(y - 4, 0) : max(y - 4, 0) + window.shape[0], max(x - 4, 0) : max(x - 4, 0) + window.shape[1]]
    return np.array([(columns * window).sum(), (rows * window).sum()]) / window.sum()


@pytest.mark.parametrize("size", [32, 64, 96])
@pytest.mark.parametrize("flip,angle", [(False, 0.0), (False, 25.0), (True, -15.0)])
def test_points_stay_on_what_they_mark(size, flip, angle):
    square = geometry.square_around(geometry.tight_box(POINTS), 1.6)
    affine = geometry.crop_affine(square, size, rotation_deg=angle, flip=flip)
    crop = transforms.warp(dotted(POINTS), affine, size)
    moved = geometry.apply_affine(geometry.invert(affine), POINTS)
    for n in range(4):
        # A one-pixel slip of convention would be 1; half a pixel of a shrunk image, 0.5.
        np.testing.assert_allclose(blob_centre(crop, moved[n]), moved[n], atol=0.15)


def test_shrinking_skips_no_pixel():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255  # one pixel in two: a plain bilinear sample at factor 4 would be all black or all white
    affine = geometry.crop_affine(geometry.Square((127.5, 127.5), 256.0), 64)
    crop = transforms.warp(stripes, affine, 64)
    assert abs(float(crop[8:-8, 8:-8].mean()) - 127.5) < 2


def test_outside_the_image_is_black():
    white = np.full((50, 50, 3), 255, np.uint8)
    crop = transforms.warp(white, geometry.crop_affine(geometry.Square((0.0, 25.0), 50.0), 32), 32)
    assert crop[:, :14].max() == 0 and crop[4:-4, 18:].min() == 255


def test_flip_permutes_points_and_visibility():
    augmentation = transforms.Augmentation(transforms.Affine(0, 0, 0, 0, flip_p=1.0), None, None, None)
    make = transforms.MakeFace(SCHEME, 64, augmentation=augmentation)
    plain = transforms.MakeFace(SCHEME, 64)
    face = record(POINTS, visible=[1, 0, 1, 1])
    image = transforms.decode(face)
    flipped, straight = make(face, image, np.random.default_rng(0)), plain(face, image, None)
    expected = straight["landmarks_px"].copy()
    expected[:, 0] = 63 - expected[:, 0]
    np.testing.assert_allclose(flipped["landmarks_px"], expected[[1, 0, 2, 3]], atol=1e-4)
    np.testing.assert_array_equal(flipped["visible"], [0, 1, 1, 1])
    np.testing.assert_array_equal(flipped["image"][:, ::-1], straight["image"])


def test_crop_to_image_brings_the_points_back():
    make = transforms.MakeFace(SCHEME, 64, augmentation=transforms.Augmentation())
    face = record(POINTS)
    made = make(face, transforms.decode(face), np.random.default_rng(5))
    back = geometry.apply_affine(made["crop_to_image"].astype(np.float64), made["landmarks_px"])
    assert min(np.abs(back - POINTS).max(), np.abs(back - POINTS[[1, 0, 2, 3]]).max()) < 1e-3
    assert float(made["norm_px"]) == pytest.approx(np.hypot(50, 5))


def test_points_of_an_unlabelled_face_place_the_crop_and_no_more():
    face, make = record(POINTS), transforms.MakeFace(SCHEME, 64, augmentation=transforms.Augmentation())
    seen, hidden = (make(f, transforms.decode(f), np.random.default_rng(5)) for f in (face, face._replace(labelled=False)))
    np.testing.assert_array_equal(hidden["image"], seen["image"])
    assert seen["visible"].all() and not hidden["visible"].any() and not hidden["landmarks_px"].any()
    assert hidden["mask"] == 1


def test_unannotated_points_are_hidden_zeros():
    points = POINTS.copy()
    points[3] = np.nan
    face = record(points, image=dotted(POINTS), visible=[1, 1, 1, 0])
    made = transforms.MakeFace(SCHEME, 64)(face, transforms.decode(face), None)
    assert np.isfinite(made["landmarks_px"]).all()
    np.testing.assert_array_equal(made["visible"], [1, 1, 1, 0])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.floats(0, 0.5), st.floats(0, 60), st.floats(0, 0.2))
def test_affine_stays_within_its_bounds(seed, scale, rotation, shift):
    square = geometry.Square((40.0, 60.0), 80.0)
    drawn, flip = transforms.Affine(scale, rotation, 1.0, shift, 0.5).draw(square, 64, np.random.default_rng(seed))
    factor = np.sqrt(abs(np.linalg.det(drawn[:, :2]))) * 64 / 80
    assert 1 - scale - 1e-9 <= factor <= 1 + scale + 1e-9
    assert (np.linalg.det(drawn[:, :2]) < 0) == flip
    centre = geometry.apply_affine(drawn, np.array([[31.5, 31.5]]))[0]
    assert np.abs(centre - square.centre_px).max() <= shift * 80 + 1e-9
    linear = drawn[:, :2] @ np.diag([-1.0 if flip else 1.0, 1.0])
    assert abs(np.rad2deg(np.arctan2(linear[0, 1], linear[0, 0]))) <= rotation + 1e-6


@pytest.mark.parametrize("change", [transforms.Colour(), transforms.Blur(1.0, 3.0, 1.0), transforms.Occlusion(1.0)])
def test_colour_blur_and_occlusion_are_the_seed_s_and_keep_the_input(change):
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    before = image.copy()
    first, again, other = (change(image, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert first.dtype == np.uint8 and first.shape == image.shape
    assert (first != other).any() and (first != before).any()
    np.testing.assert_array_equal(image, before)


def test_noise_has_the_stated_deviation_and_stays_in_range():
    def noisy(grey):
        image = np.full((64, 64, 3), grey, np.uint8)
        return transforms.Blur(0.0, 0.0, 1.0, 12.0)(image, np.random.default_rng(1)).astype(int)

    deviation = 12.0 * np.random.default_rng(1).random(4)[3]  # the level is the fourth number that is drawn
    grain = noisy(128) - 128
    assert deviation > 8 and abs(grain.mean()) < 0.3 and abs(grain.std() - deviation) < 0.2
    inside = np.abs(grain) < deviation  # of a normal distribution 68 % lies within its deviation
    assert abs(inside.mean() - 0.68) < 0.04
    assert noisy(250).max() == 255 and noisy(250).min() > 200 and noisy(2).min() == 0


def test_unreadable_image_names_its_record():
    broken = record(POINTS)._replace(image=b"no image")
    with pytest.raises(transforms.UnreadableImage, match="a/b"):
        transforms.decode(broken)


def test_crop_protocols():
    face = record(POINTS, rectangle=(40, 30, 120, 90))
    assert transforms.CropProtocol("landmarks", 1.25).square(face) == geometry.Square((75.0, 62.5), 62.5)
    assert transforms.CropProtocol("rectangle", 1.5).square(face) == geometry.Square((80.0, 60.0), 120.0)
    with pytest.raises(UserError, match="no rectangle"):
        transforms.CropProtocol("rectangle").square(record(POINTS))
    with pytest.raises(UserError, match="Did you mean 'rectangle'"):
        transforms.CropProtocol("rectangel").square(face)
