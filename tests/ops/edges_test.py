import jax.numpy as jnp
import numpy as np

from lmkd.ops import edges

# Cells (x, y) of stride 4: pixel 4 u + 1.5.
CELLS = np.array([[1.0, 2.0], [5.0, 2.0], [5.0, 6.0], [1.0, 6.0]])
POINTS_PX = jnp.asarray(4 * CELLS + 1.5, jnp.float32)[None]


def drawn(*lines, points=POINTS_PX):
    return np.asarray(edges.encode(points, lines, grid=(8, 9), stride=4, sigma_cells=1.5))


def test_a_line_is_a_ridge_of_gaussians_that_ends_round():
    maps = drawn((0, 1))
    assert maps.shape == (1, 8, 9, 1)
    np.testing.assert_allclose(maps[0, 2, 1:6, 0], 1, rtol=1e-6)
    np.testing.assert_allclose(maps[0, 4, 3, 0], np.exp(-0.5 * 2**2 / 1.5**2), rtol=1e-5)
    # Beyond the last point (5, 2), the distance is that from the point: (8, 6) is 3 right and 4 down.
    np.testing.assert_allclose(maps[0, 6, 8, 0], np.exp(-0.5 * 25 / 1.5**2), rtol=1e-5)


def test_a_closed_line_repeats_its_first_point():
    open_, closed = drawn((0, 1, 2, 3), (0, 1, 2, 3, 0))[0].transpose(2, 0, 1)
    assert closed[4, 1] == 1 and open_[4, 1] < np.exp(-0.5 * 4 / 1.5**2) * 1.01
    # The nearest segment counts, not the sum of them: the middle is two cells from all four.
    np.testing.assert_allclose(closed[4, 3], np.exp(-0.5 * 4 / 1.5**2), rtol=1e-5)


def test_a_segment_of_no_length_is_a_point():
    points = jnp.broadcast_to(POINTS_PX[:, :1], (1, 2, 2))
    np.testing.assert_allclose(drawn((0, 1), points=points)[0, 5, 5, 0], np.exp(-0.5 * 25 / 1.5**2), rtol=1e-5)


def test_membership_and_problems():
    np.testing.assert_array_equal(edges.membership(((0, 1, 2, 0), (2, 3)), 5), [[1, 1, 1, 0, 0], [0, 0, 1, 1, 0]])
    assert edges.problems(((0, 1),), 2) == []
    assert edges.problems(((0,), (1, 7)), 5) == [
        "edges[0]: a line needs two points at least, got (0,)",
        "edges[1]: points [7] are outside of 0..4",
    ]
    assert "edges: needs one at least" in edges.problems(())[0]
