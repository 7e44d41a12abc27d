"""Batch norm against Flax's own: values, statistics, gradients, devices."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmkd.models import batch_norm
from lmkd.models.batch_norm import BatchNorm

SHAPES = [(4, 3, 5, 6), (7, 6)]


def drawn(shape, seed=0):
    rng = np.random.default_rng(seed)
    channels = shape[-1]
    x = (3.0 * rng.standard_normal(shape) + rng.standard_normal(channels)).astype(np.float32)
    params = {
        "scale": rng.uniform(0.5, 2, channels).astype(np.float32),
        "bias": rng.standard_normal(channels).astype(np.float32),
    }
    statistics = {"mean": np.ones(channels, np.float32), "var": np.full(channels, 2.0, np.float32)}
    return jnp.asarray(x), {"params": params, "batch_stats": statistics}


def weighed(norm, variables, x):
    """A number that depends on every output differently; its gradients, the output and the new statistics."""
    weights = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)

    def total(params, x):
        y, changed = norm.apply({**variables, "params": params}, x, mutable=["batch_stats"])
        return jnp.sum(y.astype(jnp.float32) * weights), (y, changed["batch_stats"])

    gradients, (y, statistics) = jax.grad(total, argnums=(0, 1), has_aux=True)(variables["params"], x)
    return {"gradients": gradients, "y": y, "statistics": statistics}


def assert_close(ours, theirs, tolerance):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        a, b = (np.asarray(v, np.float32) for v in (a, b))
        np.testing.assert_allclose(a, b, atol=tolerance * max(np.abs(b).max(), 1.0))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 2e-6), (jnp.bfloat16, 1e-2)])
def test_a_training_step_gives_what_flax_gives(shape, dtype, tolerance):
    x, variables = drawn(shape)
    x = x.astype(dtype)
    theirs = nn.BatchNorm(False, momentum=0.8, epsilon=1e-3, dtype=dtype)
    assert_close(weighed(BatchNorm(False, 0.8, 1e-3, dtype), variables, x), weighed(theirs, variables, x), tolerance)


@pytest.mark.parametrize("way", [batch_norm._means_by_product, batch_norm._means_by_reduction])  # on CPU; elsewhere
@pytest.mark.parametrize("shape", SHAPES)
def test_both_ways_to_a_mean_are_numpy_s(shape, way):
    x, _ = drawn(shape)
    wanted = [np.asarray(v, np.float64).reshape(-1, shape[-1]).mean(0) for v in (x, x * x)]
    found = way(x, x * x)
    assert [mean.shape for mean in found] == [(1,) * (len(shape) - 1) + shape[-1:]] * 2
    np.testing.assert_allclose([mean.reshape(-1) for mean in found], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_evaluation_uses_the_running_statistics_and_keeps_them(shape):
    x, variables = drawn(shape)
    ours, changed = BatchNorm(True).apply(variables, x, mutable=["batch_stats"])
    np.testing.assert_allclose(ours, nn.BatchNorm(True, epsilon=1e-5).apply(variables, x), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(changed["batch_stats"]["mean"], variables["batch_stats"]["mean"])


def test_first_variables_are_flax_s_and_follow_no_batch():
    x, _ = drawn((4, 3, 5, 6))
    ours, theirs = (n.init(jax.random.key(0), x) for n in (BatchNorm(False), nn.BatchNorm(False)))
    assert_close(ours, theirs, 0.0)


def test_devices_share_their_statistics_and_gradients():
    x, variables = drawn((2, 4, 3, 3, 5))
    alone = weighed(BatchNorm(False), variables, x.reshape(8, 3, 3, 5))
    weights = np.random.default_rng(1).standard_normal((8, 3, 3, 5)).astype(np.float32).reshape(x.shape)

    def one_device(norm):
        def total(params, x, weights):
            given = {**variables, "params": params}
            y, changed = norm.apply(given, x, mutable=["batch_stats"])
            return jnp.sum(y * weights), (y, changed["batch_stats"])

        def run(x, weights):
            (of_params, of_x), (y, statistics) = jax.grad(total, argnums=(0, 1), has_aux=True)(variables["params"], x, weights)
            return jax.lax.psum(of_params, "devices"), of_x, y, statistics

        return jax.pmap(run, axis_name="devices")(x, weights)

    ours, theirs = (
        one_device(BatchNorm(False, axis_name="devices")),
        one_device(nn.BatchNorm(False, momentum=0.9, axis_name="devices")),
    )
    assert_close(ours, theirs, 3e-6)
    of_params, of_x, y, statistics = jax.tree.map(np.asarray, ours)
    np.testing.assert_allclose(y.reshape(8, 3, 3, 5), alone["y"], atol=1e-5)
    np.testing.assert_allclose(of_x.reshape(8, 3, 3, 5), alone["gradients"][1], atol=1e-5)
    np.testing.assert_allclose(of_params["scale"][0], alone["gradients"][0]["scale"], rtol=1e-5)
    np.testing.assert_allclose(statistics["var"][1], alone["statistics"]["var"], rtol=1e-5)


def test_a_gradient_has_a_gradient():
    x, variables = drawn((5, 6))

    def penalty(norm):
        def of(x):
            return jnp.sum(jnp.sin(norm.apply(variables, x, mutable=["batch_stats"])[0]))

        return jax.grad(lambda x: jnp.sum(jax.grad(of)(x) ** 2))(x)

    np.testing.assert_allclose(penalty(BatchNorm(False)), penalty(nn.BatchNorm(False)), rtol=1e-4, atol=1e-4)
