import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmkd.ops import heatmaps

DECODERS = sorted(heatmaps.ROUND_TRIP_CELLS)
REFINING = ("dark", "local_soft_argmax")
H, W = 20, 26  # not square: rows and columns cannot be swapped unnoticed
MARGIN = 4  # cells: the widest window (radius 3) about the peak of a point so far inside stays on the grid
SLACK = 2e-3  # float32 ties: a point half-way between two cells may fall to either

encoded = jax.jit(
    lambda px, grid, stride, sigma: heatmaps.encode(px, grid=grid, stride=stride, sigma_cells=sigma),
    static_argnames=("grid", "stride", "sigma"),
)
batched = jax.jit(lambda name, maps, sigma: getattr(heatmaps, name)(maps, sigma_cells=sigma), static_argnames=("name", "sigma"))


def drawn(points_cells, sigma, grid=(H, W), stride=4.0):
    """Maps of points given in cells, through pixels as training does."""
    px = (np.asarray(points_cells, np.float64) + 0.5) * stride - 0.5
    return encoded(jnp.asarray(px, jnp.float32), grid, stride, sigma)


def test_encode_matches_the_formula_by_hand():
    # Stride 4: pixel (9.5, 5.5) is cell (2, 1); sigma 1.
    maps = heatmaps.encode(jnp.array([[[9.5, 5.5]]]), grid=(4, 6), stride=4, sigma_cells=1.0)
    assert maps.shape == (1, 4, 6, 1) and maps.dtype == jnp.float32
    assert maps[0, 1, 2, 0] == 1.0
    np.testing.assert_allclose(maps[0, 1, 3, 0], math.exp(-0.5), rtol=1e-6)
    np.testing.assert_allclose(maps[0, 3, 0, 0], math.exp(-0.5 * (2**2 + 2**2)), rtol=1e-6)


def test_encode_is_the_gaussian_of_the_subpixel_centre():
    rng = np.random.default_rng(3)
    px, stride, sigma = rng.uniform(0, 60, (2, 5, 2)), 4.0, 1.5
    u, v = (px[..., 0] + 0.5) / stride - 0.5, (px[..., 1] + 0.5) / stride - 0.5
    y, x = np.mgrid[:12, :15]
    expected = np.exp(
        -((x[None, :, :, None] - u[:, None, None]) ** 2 + (y[None, :, :, None] - v[:, None, None]) ** 2) / (2 * sigma**2)
    )
    maps = heatmaps.encode(jnp.asarray(px, jnp.float32), grid=(12, 15), stride=stride, sigma_cells=sigma)
    np.testing.assert_allclose(maps, expected, atol=2e-6)


def test_invisible_and_nan_points_have_empty_maps_and_spare_their_neighbours():
    points = jnp.array([[[30.0, 20.0], [30.0, 20.0], [jnp.nan, 20.0], [30.0, jnp.nan], [jnp.inf, 1.0]]])
    visible = jnp.array([[1.0, 0.0, 1.0, 1.0, 1.0]])
    maps = heatmaps.encode(points, visible, grid=(H, W), stride=4.0, sigma_cells=1.5)
    assert np.isfinite(maps).all()
    np.testing.assert_array_equal(np.asarray(maps.max(axis=(1, 2))[0] > 0), [True, False, False, False, False])
    alone = heatmaps.encode(points[:, :1], None, grid=(H, W), stride=4.0, sigma_cells=1.5)
    np.testing.assert_array_equal(maps[..., 0], alone[..., 0])


def test_a_nan_point_does_not_poison_gradients():
    def total(points):
        return heatmaps.encode(points, grid=(6, 6), stride=4.0, sigma_cells=1.5).sum()

    gradient = jax.grad(total)(jnp.array([[[jnp.nan, 3.0], [5.0, 3.0]]]))
    assert np.isfinite(gradient).all() and np.abs(gradient[0, 1]).max() > 0


def test_points_far_outside_the_grid_leave_next_to_nothing():
    maps = drawn([[(-0.5 - 3 * 1.5, 10.0), (W - 0.5 + 3 * 1.5, 10.0), (10.0, 1e6)]], 1.5)
    assert float(maps.max()) < math.exp(-0.5 * 3**2)


def test_pixels_and_cells_are_inverse_and_follow_the_convention():
    # Stride 4 cells average pixels 0..3, whose centre is 1.5.
    np.testing.assert_allclose(heatmaps.px_from_cells(jnp.array([0.0, 1.0]), 4), [1.5, 5.5])
    np.testing.assert_allclose(heatmaps.cells_from_px(jnp.array([[-0.5, 95.5]]), 4), [[-0.5, 23.5]])
    points = jnp.array([[[3.2, 77.1]]])
    np.testing.assert_allclose(heatmaps.px_from_cells(heatmaps.cells_from_px(points, 3.0), 3.0), points, rtol=1e-6)


@pytest.mark.parametrize("name", DECODERS)
@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(
    x=st.floats(MARGIN - 0.5, W - 0.5 - MARGIN),
    y=st.floats(MARGIN - 0.5, H - 0.5 - MARGIN),
    sigma=st.sampled_from([1.0, 1.3, 1.5, 1.8, 2.0]),
)
def test_round_trip_in_the_interior(name, x, y, sigma):
    decoded = batched(name, drawn([[(x, y)]], sigma), sigma)
    bound = heatmaps.ROUND_TRIP_CELLS[name][0]
    assert np.abs(decoded.points_cells[0, 0] - np.array([x, y])).max() <= bound + SLACK


@pytest.mark.parametrize("sigma", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("name", DECODERS)
def test_round_trip_at_the_border(name, sigma):
    rng = np.random.default_rng(5)
    near = np.concatenate([rng.uniform(-0.5, MARGIN, 100), -0.5 + rng.uniform(-MARGIN, 0, 100) + [W] * 100])
    along = rng.uniform(-0.5, H - 0.5, 200)
    sides = np.stack([near, along], axis=-1)
    near_y = np.where(near < MARGIN, near, near - W + H)
    top_and_bottom = np.stack([rng.uniform(-0.5, W - 0.5, 200), near_y], axis=-1)
    points = np.concatenate([sides, top_and_bottom, [(-0.5, -0.5), (W - 0.5, H - 0.5)]])[None]
    decoded = batched(name, drawn(points, sigma), sigma)
    error = np.abs(decoded.points_cells - points)
    assert error.max() <= heatmaps.ROUND_TRIP_CELLS[name][1] + SLACK


def test_the_stated_bounds_are_those_of_the_specification():
    assert heatmaps.ROUND_TRIP_CELLS["argmax"][0] == 0.5
    assert heatmaps.ROUND_TRIP_CELLS["quarter"][0] == 0.25
    assert heatmaps.ROUND_TRIP_CELLS["dark"][0] == heatmaps.ROUND_TRIP_CELLS["local_soft_argmax"][0] == 0.1


@pytest.mark.parametrize("name", DECODERS)
def test_the_docstring_states_the_constants(name):
    row = next(line for line in heatmaps.__doc__.splitlines() if line.startswith(f"| {name} "))
    stated = tuple(float(cell) for cell in row.split("|")[2:4])
    assert stated == heatmaps.ROUND_TRIP_CELLS[name]


@pytest.mark.parametrize("name", DECODERS)
def test_x_is_the_column_and_y_the_row(name):
    maps = np.zeros((1, H, W, 1), np.float32)
    maps[0, 4, 17, 0] = 0.5
    decoded = batched(name, jnp.asarray(maps), 1.5)
    np.testing.assert_allclose(decoded.points_cells[0, 0], [17, 4], atol=1e-5)
    assert decoded.confidence[0, 0] == 0.5


@pytest.mark.parametrize("name", DECODERS)
def test_faces_and_landmarks_are_decoded_one_by_one(name):
    points = np.random.default_rng(7).uniform(1, 18, (3, 5, 2))
    maps = drawn(points, 1.5)
    together = batched(name, maps, 1.5)
    assert together.points_cells.shape == (3, 5, 2) and together.confidence.shape == (3, 5)
    for b in range(3):
        for k in range(5):
            alone = batched(name, maps[b : b + 1, :, :, k : k + 1], 1.5)
            np.testing.assert_allclose(alone.points_cells[0, 0], together.points_cells[b, k], atol=1e-5)


@pytest.mark.parametrize("name", DECODERS)
def test_an_empty_map_gives_a_finite_point_without_confidence(name):
    decoded = batched(name, jnp.zeros((2, H, W, 3)), 1.5)
    np.testing.assert_array_equal(decoded.points_cells, np.zeros((2, 3, 2)))
    np.testing.assert_array_equal(decoded.confidence, np.zeros((2, 3)))


@pytest.mark.parametrize("name", DECODERS)
def test_a_negative_map_is_decoded_to_its_peak_cell(name):
    maps = np.full((1, H, W, 1), -1.0, np.float32)
    maps[0, 0, 3, 0] = -0.25
    decoded = batched(name, jnp.asarray(maps), 1.5)
    np.testing.assert_array_equal(decoded.points_cells[0, 0], [3, 0])
    assert decoded.confidence[0, 0] == -0.25


@pytest.mark.parametrize("name", DECODERS)
def test_confidence_is_the_value_of_the_peak_cell(name):
    maps = 0.4 * drawn([[(6.3, 9.2)]], 1.5)
    expected = 0.4 * math.exp(-(0.3**2 + 0.2**2) / (2 * 1.5**2))
    np.testing.assert_allclose(batched(name, maps, 1.5).confidence[0, 0], expected, rtol=1e-4)


@pytest.mark.parametrize("name", REFINING)
def test_scaling_a_map_does_not_move_its_point(name):
    maps = drawn([[(6.3, 9.2), (-0.2, 8.4)]], 1.5)
    np.testing.assert_allclose(batched(name, maps * 0.05, 1.5).points_cells, batched(name, maps, 1.5).points_cells, atol=1e-4)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (3, 2)])
def test_tiny_grids_decode(name, grid):
    decoded = batched(name, drawn([[(0.0, 0.0)]], 1.5, grid=grid), 1.5)
    np.testing.assert_allclose(decoded.points_cells[0, 0], [0, 0], atol=max(0.25, heatmaps.ROUND_TRIP_CELLS[name][1]))


@pytest.mark.parametrize("name", REFINING)
def test_noise_moves_interior_points_little(name):
    rng = np.random.default_rng(11)
    points = rng.uniform(MARGIN, 23 - MARGIN, (8, 68, 2))
    clean = drawn(points, 1.5, grid=(24, 24))
    noisy = clean + 0.02 * jnp.asarray(rng.standard_normal(clean.shape), jnp.float32)
    error = np.linalg.norm(batched(name, noisy, 1.5).points_cells - points, axis=-1)
    assert error.mean() < 0.15
    assert error.max() < 0.5


@pytest.mark.parametrize("name", REFINING)
@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(seed=st.integers(0, 2**31))
def test_nothing_refines_by_more_than_the_clamp(name, seed):
    rng = np.random.default_rng(seed)
    maps = jnp.asarray(rng.standard_normal((2, H, W, 9)) * rng.choice([0, 1e-6, 1, 1e4], (2, H, W, 9)), jnp.float32)
    moved = batched(name, maps, 1.5).points_cells - batched("argmax", maps, 1.5).points_cells
    assert np.isfinite(moved).all()
    assert np.abs(moved).max() <= heatmaps.MAX_OFFSET_CELLS


def test_dark_solves_for_a_slanted_gaussian_exactly():
    # A Gaussian whose axes are turned against the grid needs the mixed second derivative; the log is exactly quadratic.
    centre, precision = np.array([10.3, 8.8]), np.array([[0.5, 0.2], [0.2, 0.35]])
    y, x = np.mgrid[:H, :W]
    d = np.stack([x, y], axis=-1) - centre
    maps = np.exp(-0.5 * np.einsum("hwi,ij,hwj->hw", d, precision, d))[None, :, :, None]
    decoded = batched("dark", jnp.asarray(maps, jnp.float32), 1.5)
    np.testing.assert_allclose(decoded.points_cells[0, 0], centre, atol=1e-3)


def test_bfloat16_maps_are_decoded_in_float32():
    maps = drawn([[(6.3, 9.2)]], 1.5).astype(jnp.bfloat16)
    decoded = batched("local_soft_argmax", maps, 1.5)
    assert decoded.points_cells.dtype == jnp.float32
    np.testing.assert_allclose(decoded.points_cells[0, 0], [6.3, 9.2], atol=0.02)
