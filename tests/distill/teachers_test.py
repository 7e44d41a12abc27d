"""What teachers see and how what they draw reaches the student's grid."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_faces import POINTS, SCHEME, record
from tiny_models import tiny

from lmkd.data import transforms
from lmkd.distill.teachers import Teacher, look, on_grid, resized, seen_at
from lmkd.ops import heatmaps


def textured(size=(240, 320)) -> np.ndarray:
    """A photograph's statistics: smooth noise at several scales, a few hard edges."""
    rng = np.random.default_rng(0)
    image = sum(cv2.resize(rng.normal(0, 24, (h, h, 3)), size[::-1], interpolation=cv2.INTER_CUBIC) for h in (4, 12, 36, 100))
    image[60:120, 80:90] += 120
    cv2.circle(image, (200, 140), 25, (90, -60, 40), -1)
    return np.clip(image + 120, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("small,large", [(64, 128), (96, 256)])
def test_resizing_a_larger_crop_is_close_to_cutting_the_small_one(small, large):
    """The bound: mean difference under 2.5 of 255, 99 % of the pixels under 12, and no shift."""
    face = record(POINTS * 2, image=textured())
    cut = {
        side: transforms.MakeFace(SCHEME, side, transforms.CropProtocol("landmarks", 1.25))(
            face, cv2.cvtColor(cv2.imdecode(np.frombuffer(face.image, np.uint8), 1), cv2.COLOR_BGR2RGB), None
        )
        for side in (small, large)
    }
    direct = cut[small]["image"].astype(np.float32)
    resize = np.asarray(resized(cut[large]["image"][None], small))[0]
    difference = np.abs(resize - direct)[2:-2, 2:-2]
    assert difference.mean() < 2.5
    assert np.percentile(difference, 99) < 12
    grey = [cv2.cvtColor(np.ascontiguousarray(x, np.float32), cv2.COLOR_RGB2GRAY) for x in (direct, resize)]
    (dx, dy), _ = cv2.phaseCorrelate(grey[0], grey[1])
    assert abs(dx) < 0.1 and abs(dy) < 0.1
    seen = seen_at({"image": cut[large]["image"][None], "landmarks_px": cut[large]["landmarks_px"][None]}, small)
    np.testing.assert_allclose(seen["landmarks_px"][0], cut[small]["landmarks_px"], atol=1e-3)


def test_resizing_is_antialiased():
    stripes = np.tile(np.array([0, 255], np.uint8), 32)[None, None, :, None].repeat(64, 1).repeat(3, 3)
    small = np.asarray(resized(stripes, 16))
    assert small.shape == (1, 16, 16, 3) and np.abs(small - 127.5).max() < 12  # a bare lookup would give 0 or 255
    assert resized(stripes, 64) is stripes


@pytest.mark.parametrize("teacher_side,student_side", [(128, 64), (64, 128), (96, 64)])
def test_heatmaps_on_another_grid_keep_their_points_and_nearly_their_peaks(teacher_side, student_side):
    sigma_px = 8.0
    points_px = jnp.asarray(np.random.default_rng(1).uniform(20, student_side - 20, (2, 5, 2)), jnp.float32)
    factor = teacher_side / student_side

    def drawn(points, side):
        return heatmaps.encode(
            points, jnp.ones((2, 5)), grid=(side // 4, side // 4), stride=4.0,
            sigma_cells=sigma_px / 4 * side / student_side,
        )  # fmt: skip

    theirs = drawn((points_px + 0.5) * factor - 0.5, teacher_side)
    there = on_grid(theirs, (student_side // 4, student_side // 4))
    np.testing.assert_allclose(
        there, drawn(points_px, student_side), atol=0.18
    )  # a linear look-up lowers a peak of sigma 1 cell
    decoded = heatmaps.dark(there, sigma_cells=sigma_px / 4).points_cells
    np.testing.assert_allclose(decoded, (points_px + 0.5) / 4 - 0.5, atol=0.12)


def test_a_teacher_of_another_size_answers_in_the_students_frame():
    model = tiny(points=4)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3), jnp.uint8))
    image = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    teachers = {"small": Teacher(model, 32), "large": Teacher(model, 64)}
    seen = look(teachers, {"small": variables, "large": variables}, image, grid=(16, 16), student_px=64)
    alone = model.apply(variables, resized(image, 32))
    assert seen["small"].heatmaps.shape == seen["large"].heatmaps.shape == (2, 16, 16, 4)
    np.testing.assert_allclose(seen["small"].landmarks_px, (alone.landmarks_px + 0.5) * 2 - 0.5, rtol=1e-6)
    np.testing.assert_array_equal(seen["large"].landmarks_px, model.apply(variables, image).landmarks_px)


def test_geometry_and_device_resizing_share_the_convention():
    """A crop's pixel x lies at f (x + 0.5) - 0.5 after resizing: an impulse stays where geometry says."""
    side, target, at = 64, 16, (22, 41)
    image = np.zeros((1, side, side, 3), np.float32)
    image[0, at[1], at[0]] = 255
    small = np.asarray(resized(image, target))[0, :, :, 0]
    rows, columns = np.mgrid[:target, :target]
    centre = np.array([(small * columns).sum(), (small * rows).sum()]) / small.sum()
    np.testing.assert_allclose(centre, (np.array(at) + 0.5) * target / side - 0.5, atol=0.02)
