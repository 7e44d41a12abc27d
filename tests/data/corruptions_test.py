"""Corruptions: every strength does more than the one before, a face is always the same, and the truth goes along."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_faces import POINTS, SCHEME, record

from lmkd.core import geometry
from lmkd.core.errors import UserError
from lmkd.data import corruptions, transforms
from lmkd.data.corruptions import KINDS, STRENGTHS, Corruption

OF_THE_PICTURE = [name for name, kind in KINDS.items() if kind.change is not None]
OF_THE_CROP = [name for name, kind in KINDS.items() if kind.place is not None]


def textured(side=128) -> np.ndarray:
    """A picture with coarse and fine structure in every channel, and levels over the whole range."""
    rows, columns = np.mgrid[:side, :side] / side
    waves = [np.sin(f * np.pi * rows + p) * np.cos(f * np.pi * columns) for f, p in ((3, 0.0), (17, 1.0), (50, 2.0))]
    return np.stack([128 + 60 * waves[0] + 40 * waves[i] + 20 * waves[2] for i in (0, 1, 2)], -1).clip(0, 255).astype(np.uint8)


def test_every_kind_is_either_of_the_picture_or_of_the_crop_and_has_five_values():
    assert len(KINDS) == 8 and not set(OF_THE_PICTURE) & set(OF_THE_CROP)
    assert set(OF_THE_PICTURE) | set(OF_THE_CROP) == set(KINDS)
    assert all(len(kind.values) == len(STRENGTHS) == 5 for kind in KINDS.values())


@pytest.mark.parametrize("kind", OF_THE_PICTURE)
def test_a_picture_changes_more_with_every_strength(kind):
    crop = textured()
    before = crop.copy()
    changed = [Corruption(kind, s).change(crop, "face") for s in STRENGTHS]
    means = [np.abs(c.astype(float) - crop).mean() for c in changed]
    assert means[0] > 0.5 and np.all(np.diff(means) > 0), means
    assert all(c.dtype == np.uint8 and c.shape == crop.shape for c in changed)
    np.testing.assert_array_equal(crop, before)


@pytest.mark.parametrize("kind", OF_THE_CROP)
def test_a_crop_moves_further_with_every_strength(kind):
    square = geometry.Square((70.0, 60.0), 80.0)
    corners = np.array([[0.0, 0.0], [63.0, 0.0], [0.0, 63.0], [63.0, 63.0]])
    moves = []
    for strength in STRENGTHS:
        placed, turned = Corruption(kind, strength).place(square, "face")
        affine = geometry.crop_affine(placed, 64, rotation_deg=turned)
        plain = geometry.crop_affine(square, 64)
        moves.append(np.linalg.norm(geometry.apply_affine(affine, corners) - geometry.apply_affine(plain, corners)))
    assert moves[0] > 1.0 and np.all(np.diff(moves) > 0), moves


@pytest.mark.parametrize("kind", KINDS)
def test_a_face_is_corrupted_the_same_every_time(kind):
    faces = [face(Corruption(kind, 3), key) for key in ("a.jpg", "a.jpg", "b.jpg")]
    np.testing.assert_array_equal(faces[0]["image"], faces[1]["image"])
    np.testing.assert_array_equal(faces[0]["crop_to_image"], faces[1]["crop_to_image"])
    drawn = kind in ("noise", "occlusion", "jitter")  # a rotation's side is a coin, and the rest draw nothing
    differs = (faces[0]["image"] != faces[2]["image"]).any() or (faces[0]["crop_to_image"] != faces[2]["crop_to_image"]).any()
    assert differs or not drawn


def test_rotations_go_both_ways():
    square = geometry.Square((0.0, 0.0), 10.0)
    assert {Corruption("rotation", 2).place(square, f"{n}").rotation_deg for n in range(20)} == {-20.0, 20.0}


@given(strength=st.sampled_from(STRENGTHS), kind=st.sampled_from(sorted(KINDS)), key=st.text(max_size=8))
@settings(deadline=None, max_examples=60)
def test_the_truth_comes_back_to_the_records_points(strength, kind, key):
    found = face(Corruption(kind, strength), key)
    back = geometry.apply_affine(found["crop_to_image"].astype(np.float64), found["landmarks_px"].astype(np.float64))
    np.testing.assert_allclose(back, POINTS, atol=1e-3)
    np.testing.assert_array_equal(found["visible"], 1.0)  # points that left the crop are still asked for


@pytest.mark.parametrize(("kind", "strength"), [("rotation", 3), ("jitter", 5)])
def test_the_picture_moves_with_the_truth(kind, strength):
    # A blob stands at each point of the record: it has to stand at the moved points of the crop, too.
    found = face(Corruption(kind, strength), "face", size_px=128)
    image = found["image"][..., 0].astype(float)
    for x, y in found["landmarks_px"]:
        rows, columns = np.mgrid[:128, :128]
        near = image * (np.hypot(columns - x, rows - y) < 6)
        centre = np.array([(near * columns).sum(), (near * rows).sum()]) / near.sum()
        np.testing.assert_allclose(centre, [x, y], atol=0.3)


def test_values_mean_what_the_table_says():
    crop = np.full((64, 64, 3), 200, np.uint8)
    # 200 / 255 to the power 2.0, times 0.15, in levels: 23.53.
    np.testing.assert_array_equal(Corruption("dark", 5).change(crop, "k"), 24)
    noisy = Corruption("noise", 1).change(np.full((64, 64, 3), 128, np.uint8), "k")
    assert noisy.std() == pytest.approx(0.08 * 255, rel=0.05)
    patched = (Corruption("occlusion", 4).change(crop, "k") != crop).any(axis=-1)
    assert patched.mean() == pytest.approx(0.22, abs=0.02)
    impulse = np.zeros((224, 224, 3), np.uint8)
    impulse[:, 112:] = 255
    edge = np.diff(Corruption("blur", 5).change(impulse, "k")[100, :, 0].astype(float)) / 255
    steps = np.arange(223) + 0.5
    # The slope of a blurred edge is the kernel: sigma 6 px at 224.
    assert np.sqrt((edge * (steps - 111.5) ** 2).sum()) == pytest.approx(6.0, rel=0.03)
    quality = cv2.imencode(".jpg", textured()[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 7])[1]
    expected = cv2.imdecode(quality, cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(Corruption("jpeg", 5).change(textured(), "k"), expected)
    coarse = Corruption("low_resolution", 5).change(textured(), "k").astype(float)
    assert (
        np.abs(np.diff(coarse[:, :, 1], 2, axis=1)).mean() < 0.25 * np.abs(np.diff(textured()[:, :, 1].astype(float), 2)).mean()
    )


def test_jitter_shifts_and_scales_by_its_share():
    square = geometry.Square((70.0, 60.0), 80.0)
    placed = Corruption("jitter", 3).place(square, "k").square
    assert np.hypot(placed.centre_px[0] - 70, placed.centre_px[1] - 60) == pytest.approx(0.10 * 80)
    assert placed.side_px in (pytest.approx(88.0), pytest.approx(72.0))


def test_settings_are_words():
    assert Corruption("blur", 2).setting == "Gaussian, sigma 0.89% of the side"
    assert Corruption("dark", 1).setting == "gain 0.7, gamma 1.2"
    assert Corruption("jitter", 4).setting == "shifted by 15% of the side, side +-15%"


@pytest.mark.parametrize(("kind", "strength", "part"), [("blurr", 1, "Did you mean 'blur'"), ("blur", 0, "(1, 2, 3, 4, 5)")])
def test_an_unknown_kind_or_strength_is_told(kind, strength, part):
    with pytest.raises(UserError) as error:
        Corruption(kind, strength)
    assert part in str(error.value)


def test_training_faces_are_never_corrupted():
    make = transforms.MakeFace(SCHEME, 48, corruption=Corruption("dark", 5))
    plain = transforms.MakeFace(SCHEME, 48)
    one = record(POINTS)
    image = transforms.decode(one)
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(make(one, image, rng)["image"], plain(one, image, rng)["image"])


def face(corruption: corruptions.Corruption, key: str, size_px: int = 48) -> dict[str, np.ndarray]:
    one = record(POINTS)._replace(key=key)
    crop = transforms.CropProtocol(scale=2.0)  # wide enough to keep the points inside
    return transforms.MakeFace(SCHEME, size_px, crop, corruption=corruption)(one, transforms.decode(one), None)
