"""What is kept apart: the same values, computed once on CPU, and nothing changed elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmkd.models.apart import apart, relu

NO_INLINING = 'inlineable = "false"'


def read_twice(keep):
    """A function of a square matrix whose minima are read twice: as they are, and crosswise."""

    def function(x):
        kept = keep(jnp.minimum(x, 0.5))
        return kept + 1, 3 * kept.T @ x

    return function


@pytest.mark.parametrize(("keep", "times"), [(lambda x: x, 2), (apart(lambda x: 2 * x), 1)])
def test_what_several_read_is_computed_once_on_cpu(keep, times):
    text = jax.jit(read_twice(keep)).lower(jnp.ones((64, 64))).compile().as_text()
    assert text.count(" minimum(") == times


@pytest.mark.parametrize(("platform", "marked"), [("cpu", True), ("cuda", False), ("tpu", False)])
def test_only_cpu_keeps_anything_apart(platform, marked):
    traced = jax.jit(read_twice(relu)).trace(jnp.ones((8, 8)))
    assert (NO_INLINING in traced.lower(lowering_platforms=(platform,)).as_text()) == marked


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_relu_and_its_gradient_are_jax_s(dtype):
    x = jnp.asarray([-2.0, -0.0, 0.0, 1e-30, 3.0, jnp.inf], dtype)
    dy = jnp.asarray([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], dtype)
    (ours, pull), (theirs, pull_theirs) = jax.vjp(jax.jit(relu), x), jax.vjp(jax.nn.relu, x)
    for a, b in ((ours, theirs), (pull(dy)[0], pull_theirs(dy)[0])):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_relu_has_a_second_derivative():
    second = jax.grad(lambda x: jax.grad(lambda x: jnp.sum(relu(x) ** 3))(x).sum())(jnp.asarray([-1.0, 2.0]))
    np.testing.assert_allclose(second, [0.0, 12.0])


def test_what_this_process_decides_is_traced_once_and_kept_apart():
    traced = []

    def doubled(x):
        traced.append(x.shape)
        return {"twice": 2 * x}

    text = jax.jit(apart(doubled, here=True)).lower(jnp.ones((64, 64))).as_text()
    assert len(traced) == 1 and (NO_INLINING in text) == (jax.default_backend() == "cpu")
    np.testing.assert_array_equal(apart(doubled, here=True)(jnp.ones(3))["twice"], np.full(3, 2.0))
