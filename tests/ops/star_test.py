"""Moments and principal axes of heatmaps: against NumPy, and finite where there is no axis, no spread or no map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkd.ops import star

RANDOM = np.random.default_rng(0)
FINITE = st.floats(-1, 1, allow_nan=False, width=32)


def matrix(xx, yy, xy):
    return np.array([[xx, xy], [xy, yy]], np.float64)


axes_of = jax.jit(star.principal_axes)
moments_of = jax.jit(lambda maps: star.moments(star.normalised(maps)[0]))


@settings(deadline=None, max_examples=100)
@given(a=FINITE, b=FINITE, c=FINITE, d=FINITE, log_scale=st.integers(-6, 2))
def test_principal_axes_are_numpy_s(a, b, c, d, log_scale):
    root = np.array([[a, b], [c, d]], np.float64) * 10.0**log_scale
    exact = root @ root.T  # positive semi-definite
    covariance = np.array([exact[0, 0], exact[1, 1], exact[0, 1]], np.float32)
    exact = matrix(*covariance.astype(np.float64))
    found = axes_of(jnp.asarray(covariance))
    values, vectors = np.linalg.eigh(exact)
    size = max(values[1], 1e-30)
    np.testing.assert_allclose(found.variances, np.maximum(values, 0), atol=4e-6 * size)
    axes = np.asarray(found.axes, np.float64)
    np.testing.assert_allclose(axes @ axes.T, np.eye(2), atol=1e-6)
    # Whatever the gap, the axes make the matrix diagonal; where there is a gap, they are NumPy's up to sign.
    np.testing.assert_allclose(axes @ exact @ axes.T, np.diag(values), atol=4e-6 * size)
    if values[1] - values[0] > 0.05 * size:
        assert abs(axes[0] @ vectors[:, 0]) == pytest.approx(1, abs=1e-5)
        assert abs(axes[1] @ vectors[:, 1]) == pytest.approx(1, abs=1e-5)


def test_known_axes():
    found = axes_of(jnp.array([[1.0, 4.0, 0.0], [4.0, 1.0, 0.0], [2.5, 2.5, 1.5]]))
    np.testing.assert_allclose(found.variances, [[1, 4]] * 3, rtol=1e-6)
    diagonal = np.sqrt(0.5)
    expected = [[[1, 0], [0, 1]], [[0, 1], [1, 0]], [[-diagonal, diagonal], [diagonal, diagonal]]]
    np.testing.assert_allclose(np.abs(found.axes), np.abs(expected), atol=1e-6)
    np.testing.assert_allclose(found.axes[2, 0] @ found.axes[2, 1], 0, atol=1e-6)
    assert found.axes[2, 1, 0] * found.axes[2, 1, 1] > 0 > found.axes[2, 0, 0] * found.axes[2, 0, 1]


def test_gradients_are_those_of_the_decomposition_where_variances_differ():
    direction, weights = np.array([0.3, -0.2, 0.5]), np.array([0.7, -1.1])

    def squares(covariance):
        """Something that depends on variances and axes but on no sign."""
        found = star.principal_axes(covariance)
        along = found.axes @ jnp.asarray(weights, jnp.float32)
        return jnp.sum(jnp.square(along) * jnp.array([2.0, 1.0]) + found.variances * jnp.array([1.0, 3.0]))

    def exact(covariance):
        values, vectors = np.linalg.eigh(matrix(*covariance))
        return np.sum((vectors.T @ weights) ** 2 * [2, 1] + values * [1, 3])

    point, step = np.array([5.0, 1.0, 0.4]), 1e-5
    slope = (exact(point + step * direction) - exact(point - step * direction)) / (2 * step)
    found = jax.jit(jax.grad(squares))(jnp.asarray(point, jnp.float32)) @ jnp.asarray(direction, jnp.float32)
    assert float(found) == pytest.approx(slope, rel=0.01)


@pytest.mark.parametrize("covariance", [(0, 0, 0), (1, 1, 0), (1e-12, 1e-12, 0), (1, 1, 1e-7), (3, 0, 0), (1, 1, 1)])
def test_gradients_are_finite_without_an_axis_or_a_variance(covariance):
    def everything(c):
        found = star.principal_axes(c)
        return jnp.sum(jnp.sqrt(found.variances + 1e-5)) + jnp.sum(found.axes @ jnp.array([0.3, 0.7]))

    value, gradient = jax.jit(jax.value_and_grad(everything))(jnp.asarray(covariance, jnp.float32))
    assert np.isfinite(value) and np.isfinite(gradient).all()
    np.testing.assert_allclose(np.linalg.norm(axes_of(jnp.asarray(covariance, jnp.float32)).axes, axis=-1), 1, rtol=1e-6)


def test_moments_are_numpy_s_weighted_covariance():
    maps = RANDOM.random(size=(1, 5, 4, 2)).astype(np.float32)
    found = moments_of(jnp.asarray(maps))
    rows, columns = np.meshgrid((2 * np.arange(5) + 1) / 5 - 1, (2 * np.arange(4) + 1) / 4 - 1, indexing="ij")
    for k in range(2):
        w = maps[0, :, :, k].ravel().astype(np.float64)
        points = np.stack([columns.ravel(), rows.ravel()])
        np.testing.assert_allclose(found.mean[0, k], points @ w / w.sum(), rtol=1e-5, atol=1e-6)
        cov = np.cov(points, aweights=w / w.sum())  # aweights: the same factor, 1 / (V1 - V2 / V1)
        np.testing.assert_allclose(found.covariance[0, k], [cov[0, 0], cov[1, 1], cov[0, 1]], rtol=1e-5, atol=1e-6)


def test_one_cell_stands_at_its_centre_without_a_spread():
    maps = jnp.zeros((1, 4, 4, 1)).at[0, 1, 3, 0].set(7.0)
    found = moments_of(maps)
    np.testing.assert_allclose(found.mean, [[[0.75, -0.25]]], atol=1e-6)
    np.testing.assert_allclose(found.covariance, np.zeros((1, 1, 3)), atol=1e-6)


def test_empty_and_negative_maps():
    maps = jnp.stack([jnp.zeros((3, 3)), -jnp.ones((3, 3)), jnp.full((3, 3), 2.0).at[0].set(-5.0)], axis=-1)[None]
    weights, empty = star.normalised(maps)
    np.testing.assert_array_equal(empty, [[1, 1, 0]])
    np.testing.assert_allclose(weights[0, :, :, 2], np.array([[0], [1], [1]]) / 6 * np.ones(3), rtol=1e-6)
    assert not np.asarray(weights[..., :2]).any()


@pytest.mark.parametrize("kind", ["empty", "one cell", "flat", "isotropic", "row"])
def test_gradients_through_degenerate_maps_are_finite(kind):
    grid = np.arange(8) - 3.5
    maps = {
        "empty": np.zeros((8, 8)),
        "one cell": np.eye(8)[2][:, None] * np.eye(8)[5],
        "flat": np.ones((8, 8)),
        "isotropic": np.exp(-0.5 * (grid[:, None] ** 2 + grid**2)),
        "row": np.eye(8)[2][:, None] * np.ones(8),
    }[kind]

    def everything(heatmaps):
        mean, covariance = star.moments(star.normalised(heatmaps)[0])
        found = star.principal_axes(covariance)
        along = jnp.einsum("bkij,bkj->bki", found.axes, 0.3 - mean)
        return jnp.sum(jnp.abs(along) / jnp.sqrt(found.variances + 1e-5)) + jnp.sum(found.variances)

    value, gradient = jax.jit(jax.value_and_grad(everything))(jnp.asarray(maps, jnp.float32)[None, :, :, None])
    assert np.isfinite(value) and np.isfinite(gradient).all()
