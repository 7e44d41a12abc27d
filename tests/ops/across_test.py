"""Sums and means over a mapped axis: NumPy's over several devices, and nothing at all on one."""

import jax
import numpy as np
import pytest

from lmkd.ops import across


def mapped(function, x):
    """`function` of each row, under an axis of as many devices."""
    return jax.vmap(lambda row: function(row, "devices"), axis_name="devices")(x)


@pytest.mark.parametrize(("function", "numpy_s"), [(across.total, np.sum), (across.mean, np.mean)])
def test_every_device_gets_what_all_have(function, numpy_s):
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    found = mapped(lambda row, axis: function({"a": row, "b": 2 * row}, axis), x)
    np.testing.assert_allclose(found["a"], np.broadcast_to(numpy_s(x, axis=0), x.shape))
    np.testing.assert_allclose(found["b"], 2 * found["a"])


def test_all_arrays_are_one_message():
    def sums(row):
        tree = {"gradient": row.reshape(2, 2), "loss": row[0], "states": {}}
        return across.total(tree, "devices"), across.mean({}, "devices")

    traced = jax.make_jaxpr(sums, axis_env=[("devices", 2)])(np.ones(4, np.float32))
    assert str(traced).count("psum") == 1 and traced.out_avals[0].shape == (2, 2) and traced.out_avals[1].shape == ()


@pytest.mark.parametrize("function", [across.total, across.mean])
def test_one_device_asks_nobody(function):
    x = np.ones((1, 4), np.float32)
    np.testing.assert_array_equal(mapped(function, x), x)
    np.testing.assert_array_equal(function(x, None), x)
    asked = jax.pmap(lambda row: function(row, "devices"), axis_name="devices", devices=jax.devices()[:1])
    assert "all_reduce" not in asked.lower(x).as_text()
