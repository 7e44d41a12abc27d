"""Schedules and optimisers against numbers by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmkd.training import optimisers, vectors

OPTIONS = {"weight_decay": 0.0, "clip_norm": 0.0, "momentum": 0.0, "b2": 0.999}


def rates(kind, steps, **options):
    at = optimisers.schedule(kind, **options)
    return [float(at(s)) for s in steps]


def test_warm_up_is_linear_and_never_zero():
    found = rates("constant", range(5), learning_rate=1.0, total_steps=10, warmup_steps=4)
    assert found == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


def test_cosine_ends_at_its_final_fraction():
    found = rates("cosine", (4, 7, 10), learning_rate=1.0, total_steps=10, warmup_steps=4, final_fraction=0.2)
    assert found == pytest.approx([1.0, 0.6, 0.2])


def test_steps_count_from_the_start_of_training():
    options = {"learning_rate": 1.0, "total_steps": 100, "warmup_steps": 5, "boundaries": (30, 50)}
    assert rates("step", (29, 31, 49, 51), **options) == pytest.approx([1.0, 0.1, 0.1, 0.01])


def test_parts_that_rest_neither_move_nor_count_in_the_gradient_s_norm():
    whole = optimisers.optimiser("sgd", lambda s: 1.0, **(OPTIONS | {"clip_norm": 5.0, "weight_decay": 0.1}))
    optimizer = optimisers.sparing(whole, ("head",))
    params = {"backbone": {"kernels": jnp.zeros(2)}, "head": {"kernels": jnp.ones(1)}}
    gradients = {"backbone": {"kernels": jnp.asarray([3.0, 4.0])}, "head": {"kernels": jnp.full(1, 1000.0)}}
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    np.testing.assert_allclose(updates["backbone"]["kernels"], [-3.0, -4.0])
    np.testing.assert_array_equal(updates["head"]["kernels"], 0.0)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_weight_decay_spares_norms_and_biases(name):
    optimizer = optimisers.optimiser(name, lambda s: 0.1, **(OPTIONS | {"weight_decay": 0.5}))
    params = vectors.joined({"layer": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}})
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    np.testing.assert_allclose(updates["layer"]["kernels"], np.full(4, -0.05), rtol=1e-6)
    np.testing.assert_array_equal(updates["layer"]["others"], np.zeros(2))


def test_clipping_bounds_the_gradient_norm():
    optimizer = optimisers.optimiser("sgd", lambda s: 1.0, **(OPTIONS | {"clip_norm": 1.0}))
    params = {"layer": {"kernels": jnp.zeros(2)}}
    updates, _ = optimizer.update({"layer": {"kernels": jnp.array([3.0, 4.0])}}, optimizer.init(params), params)
    np.testing.assert_allclose(updates["layer"]["kernels"], [-0.6, -0.8], rtol=1e-6)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="adamw"):
        optimisers.optimiser("adamm", lambda s: 1.0, **OPTIONS)
    with pytest.raises(ValueError, match="cosine"):
        optimisers.schedule("cosin", learning_rate=1.0, total_steps=1, warmup_steps=0)
