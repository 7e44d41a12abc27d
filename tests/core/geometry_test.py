import cv2
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from lmkd.core import geometry

quick = hypothesis.settings(deadline=None, max_examples=100)
coordinate = st.floats(-300, 300)
squares = st.builds(geometry.Square, st.tuples(st.floats(-50, 400), st.floats(-50, 400)), st.floats(4, 500))


@st.composite
def affines(draw):
    """Affines that can be inverted: a crop's, perhaps stretched along y."""
    affine = geometry.crop_affine(draw(squares), 64, rotation_deg=draw(st.floats(-180, 180)), flip=draw(st.booleans()))
    return affine * np.array([[1.0], [draw(st.floats(0.5, 2.0))]])


def test_tight_box_leaves_nan_points_out():
    points = np.array([[3.0, 8.0], [np.nan, -50.0], [7.0, 2.0]])
    points[1] = np.nan
    assert geometry.tight_box(points) == (3.0, 2.0, 7.0, 8.0)


def test_square_around_scales_the_longer_side_about_the_centre():
    assert geometry.square_around((10, 20, 50, 30), 1.25) == geometry.Square((30.0, 25.0), 50.0)


def test_square_around_a_single_point_still_has_a_side():
    assert geometry.square_around((5, 6, 5, 6), 2.0) == geometry.Square((5.0, 6.0), 2.0)


def test_crop_affine_by_hand():
    # A square of 8 px about (10, 20) covers x 6..14: a crop of 4 samples 2-px cells, whose centres are 7, 9, 11, 13.
    affine = geometry.crop_affine(geometry.Square((10.0, 20.0), 8.0), 4)
    corners = geometry.apply_affine(affine, np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0], [-0.5, 3.5]]))
    np.testing.assert_allclose(corners, [[7, 17], [13, 17], [7, 23], [6, 24]])


@quick
@hypothesis.given(squares, st.integers(2, 300), st.floats(-180, 180), st.booleans())
def test_the_middle_of_the_crop_shows_the_centre_of_the_square(square, size, rotation, flip):
    affine = geometry.crop_affine(square, size, rotation_deg=rotation, flip=flip)
    middle = (size - 1) / 2
    np.testing.assert_allclose(geometry.apply_affine(affine, np.array([[middle, middle]]))[0], square.centre_px, atol=1e-8)


@quick
@hypothesis.given(squares, st.integers(2, 300), st.floats(-180, 180), st.booleans())
def test_a_crop_pixel_is_side_over_size_wide_and_a_flip_mirrors(square, size, rotation, flip):
    linear = geometry.crop_affine(square, size, rotation_deg=rotation, flip=flip)[:, :2]
    scale = square.side_px / size
    np.testing.assert_allclose(linear.T @ linear, np.eye(2) * scale**2, rtol=1e-9, atol=1e-9 * scale**2)
    assert np.sign(np.linalg.det(linear)) == (-1 if flip else 1)


def test_a_quarter_turn_moves_the_top_of_the_face_to_the_right():
    # y grows downwards: what is above the centre (0, -2) must appear to the right (+2, 0) after turning clockwise.
    affine = geometry.crop_affine(geometry.Square((10.0, 10.0), 9.0), 9, rotation_deg=90)
    seen_at = geometry.apply_affine(geometry.invert(affine), np.array([[10.0, 8.0], [12.0, 10.0]]))
    np.testing.assert_allclose(seen_at, [[6, 4], [4, 6]], atol=1e-12)


def test_a_flip_comes_after_the_rotation():
    plain = geometry.crop_affine(geometry.Square((10.0, 10.0), 9.0), 9, rotation_deg=90)
    flipped = geometry.crop_affine(geometry.Square((10.0, 10.0), 9.0), 9, rotation_deg=90, flip=True)
    crop = np.array([[1.0, 3.0]])
    np.testing.assert_allclose(
        geometry.apply_affine(flipped, crop), geometry.apply_affine(plain, np.array([[9 - 1 - 1.0, 3.0]])), atol=1e-12
    )


@quick
@hypothesis.given(st.integers(1, 400), coordinate, coordinate)
def test_flip_affine_maps_x_to_width_minus_1_minus_x(width, x, y):
    np.testing.assert_allclose(geometry.apply_affine(geometry.flip_affine(width), np.array([[x, y]]))[0], [width - 1 - x, y])


def test_flip_affine_is_what_reversing_the_columns_does():
    image = np.arange(12).reshape(2, 6)
    x, y = geometry.apply_affine(geometry.flip_affine(6), np.array([[4.0, 1.0]]))[0]
    assert image[:, ::-1][int(y), int(x)] == image[1, 4]


@quick
@hypothesis.given(st.floats(0.1, 10), coordinate)
def test_resize_affine_keeps_the_edges_of_the_image(factor, width):
    edges = geometry.apply_affine(geometry.resize_affine(factor), np.array([[-0.5, -0.5], [width - 0.5, 3.5]]))
    np.testing.assert_allclose(edges, [[-0.5, -0.5], [factor * width - 0.5, factor * 4 - 0.5]], atol=1e-9)


def test_resize_affine_by_hand():
    # Halving: output pixel 0 averages input pixels 0 and 1, whose middle is 0.5.
    np.testing.assert_allclose(geometry.apply_affine(geometry.resize_affine(0.5), np.array([[0.5, 2.5]])), [[0, 1]])


@quick
@hypothesis.given(affines(), affines(), coordinate, coordinate)
def test_compose_applies_the_inner_affine_first(outer, inner, x, y):
    point = np.array([[x, y]])
    one_by_one = geometry.apply_affine(outer, geometry.apply_affine(inner, point))
    np.testing.assert_allclose(geometry.apply_affine(geometry.compose(outer, inner), point), one_by_one, rtol=1e-9, atol=1e-6)


@quick
@hypothesis.given(affines(), coordinate, coordinate)
def test_invert_undoes_an_affine(affine, x, y):
    there = geometry.apply_affine(affine, np.array([[x, y]]))
    np.testing.assert_allclose(geometry.apply_affine(geometry.invert(affine), there), [[x, y]], atol=1e-6)


def test_invert_refuses_a_singular_affine():
    with pytest.raises(np.linalg.LinAlgError):
        geometry.invert(np.array([[1.0, 1.0, 0.0], [2.0, 2.0, 0.0]]))


def test_apply_affine_broadcasts_one_affine_a_face():
    two = np.stack([geometry.resize_affine(2.0), geometry.flip_affine(10)])
    points = np.array([[[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, 4.0]]])
    expected = [[[2.5, 4.5], [6.5, 8.5]], [[8, 2], [6, 4]]]
    np.testing.assert_allclose(geometry.apply_affine(two, points), expected)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("rotation", [0.0, 25.0, -70.0])
def test_opencv_samples_with_our_affine_as_the_convention_says(rotation, flip):
    # An image that is a linear function of its coordinates: bilinear sampling must return that function's own values.
    y, x = np.mgrid[:80, :100].astype(np.float32)
    affine = geometry.crop_affine(geometry.Square((48.0, 41.0), 24.0), 16, rotation_deg=rotation, flip=flip)
    crop = cv2.warpAffine(2 * x + 3 * y, affine, (16, 16), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    crop_y, crop_x = np.mgrid[:16, :16]
    seen = geometry.apply_affine(affine, np.stack([crop_x, crop_y], axis=-1).reshape(-1, 2).astype(np.float64))
    # cv2 rounds coordinates to 1/32 px: at most (2 + 3) / 64 off.
    np.testing.assert_allclose(crop.reshape(-1), 2 * seen[:, 0] + 3 * seen[:, 1], atol=5 / 64 + 0.01)


def test_opencv_resize_follows_the_same_convention():
    row = np.tile(np.arange(40, dtype=np.float32), (4, 1))
    resized = cv2.resize(row, (20, 2), interpolation=cv2.INTER_LINEAR)
    back = geometry.apply_affine(geometry.invert(geometry.resize_affine(0.5)), np.stack([np.arange(20.0)] * 2, axis=-1))
    np.testing.assert_allclose(resized[0], back[:, 0], atol=1e-4)
