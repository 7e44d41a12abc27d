"""Parameters as vectors: there and back, and the same numbers as an optimiser's that sees every array."""

import jax
import numpy as np
import optax
import pytest

from lmkd.training import step, vectors


def tree(seed):
    draw = np.random.default_rng(seed).normal
    return {
        "backbone": {
            "b": {"kernel": draw(size=(3, 3, 2, 4)).astype(np.float32), "bias": draw(size=4).astype(np.float32)},
            "a": {"kernel": draw(size=(1, 1, 4, 2)).astype(np.float32), "temperature": draw(size=()).astype(np.float32)},
        },
        "head": draw(size=(2, 3)).astype(np.float32),
        "bare": {},
    }


def test_vectors_hold_the_tree_s_arrays_in_its_order():
    one, found = tree(0), vectors.joined(tree(0))
    a, b = one["backbone"]["a"], one["backbone"]["b"]
    np.testing.assert_array_equal(found["backbone"]["kernels"], np.concatenate([a["kernel"].ravel(), b["kernel"].ravel()]))
    np.testing.assert_array_equal(found["backbone"]["others"], np.concatenate([a["temperature"].ravel(), b["bias"]]))
    assert {name: set(part) for name, part in found.items()} == {
        "backbone": {"kernels", "others"},
        "head": {"kernels"},
        "bare": set(),
    }


def test_what_was_joined_is_parted_again():
    back = vectors.parted(vectors.joined(tree(0)), tree(1))
    assert jax.tree.structure(back) == jax.tree.structure(tree(0))
    jax.tree.map(np.testing.assert_array_equal, back, tree(0))


def test_an_update_is_that_of_an_optimiser_that_sees_every_array():
    def chain(mask):
        return optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(0.1, weight_decay=0.3, mask=mask))

    ours, whole = chain(vectors.are_kernels), chain(lambda params: jax.tree.map(lambda p: p.ndim > 1, params))
    params = expected = tree(0)
    mine, theirs = ours.init(vectors.joined(params)), whole.init(expected)
    for seed in (1, 2):
        gradient = tree(seed)
        params, mine, norm = jax.jit(lambda g, s, p: step.updated(ours, vectors.joined(g), 4.0, s, p))(gradient, mine, params)
        mean = jax.tree.map(lambda g: g / 4.0, gradient)
        updates, theirs = whole.update(mean, theirs, expected)
        expected = optax.apply_updates(expected, updates)
        assert float(norm) == pytest.approx(float(optax.tree.norm(mean)), rel=1e-6)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), params, expected)


def test_a_state_in_trees_is_gathered():
    params = tree(0)
    joined = optax.adam(0.1).init(vectors.joined(params))
    in_trees = optax.adam(0.1).init(params)
    assert jax.tree.structure(vectors.shapes_in_trees(joined, params, vectors.joined)) == jax.tree.structure(in_trees)
    moved = optax.adam(0.1).update(tree(1), in_trees)[1]
    wanted = optax.adam(0.1).update(vectors.joined(tree(1)), joined)[1]
    jax.tree.map(np.testing.assert_array_equal, vectors.gathered(moved, params, vectors.joined), wanted)
