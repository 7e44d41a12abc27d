"""The critic against NumPy: its layers, its spectral norms, what it sees of the image, and that faces do not see each other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmkd.distill.critics import Critic, image_on_grid
from lmkd.models import initialise

WIDTHS = (4, 8)
RNG = np.random.default_rng(0)
MAPS = RNG.uniform(size=(3, 8, 8, 2)).astype(np.float32)


def drawn(critic: Critic, maps=MAPS, seed: int = 0):
    return initialise.drawn(jax.eval_shape(critic.init, jax.random.key(0), jnp.asarray(maps)), seed=seed)


def by_numpy(params, maps, scale):
    """2 x 2 patches times a matrix, LeakyReLU, 2 x 2 means, a 3 x 3 convolution, LeakyReLU, the mean, a dense layer."""
    b, side = len(maps), maps.shape[1] // 2
    x = np.zeros((b, side, side, WIDTHS[0]))
    kernel = params["conv_0"]["kernel"][0, 0]
    for y in range(side):
        for z in range(side):
            patch = scale * maps[:, 2 * y : 2 * y + 2, 2 * z : 2 * z + 2].reshape(b, -1).astype(np.float64)
            x[:, y, z] = patch @ kernel + params["conv_0"]["bias"]
    first = x = np.where(x > 0, x, 0.2 * x)
    x = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    side = x.shape[1]
    kernel = params["conv_1"]["kernel"]
    x = sum(padded[:, i : i + side, j : j + side] @ kernel[i, j] for i in range(3) for j in range(3)) + params["conv_1"]["bias"]
    second = x = np.where(x > 0, x, 0.2 * x)
    return x.mean(axis=(1, 2)) @ params["final"]["kernel"][0, 0, :, 0] + params["final"]["bias"][0], (first, second)


def test_layers_are_what_they_say():
    critic = Critic(WIDTHS, spectral_norm=False, map_scale=3.0)
    params = drawn(critic)["params"]
    params["conv_1"]["bias"] += 0.1
    params["final"]["kernel"] *= 1000.0
    scores, features = jax.jit(critic.apply)({"params": params}, MAPS)
    expected, layers = by_numpy(params, MAPS, 3.0)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(features, layers, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_power_iterations_find_the_largest_singular_value():
    critic = Critic(WIDTHS, map_scale=1.0)
    variables = drawn(critic)
    largest = {}
    for name, layer in variables["params"].items():
        values = np.linalg.svd(layer["kernel"].reshape(-1, layer["kernel"].shape[-1]).astype(np.float64), compute_uv=False)
        largest[name] = values[0]
        assert values[0] > 1.2 or name == "final"  # or dividing by it would go unnoticed
    update = jax.jit(functools.partial(critic.apply, update_stats=True, mutable=["batch_stats"]))
    for _ in range(60):
        (scores, _), changed = update(variables, MAPS)
        variables = {**variables, **changed}
    for name, value in largest.items():
        found = variables["batch_stats"][f"norm_{name}"][f"{name}/kernel/sigma"]
        np.testing.assert_allclose(found, value, rtol=1e-3, err_msg=name)
    params = {k: {**v, "kernel": v["kernel"] / largest[k]} for k, v in variables["params"].items()}
    np.testing.assert_allclose(scores, by_numpy(params, MAPS, 1.0)[0], rtol=2e-3, atol=1e-4)


def test_statistics_do_not_depend_on_the_faces_so_that_devices_agree():
    critic = Critic(WIDTHS)
    variables = drawn(critic)
    step = jax.pmap(
        lambda v, maps: critic.apply(v, maps, update_stats=True, mutable=["batch_stats"])[1],
        axis_name="batch", in_axes=(None, 0), devices=jax.devices()[:2],
    )  # fmt: skip
    found = step(variables, np.stack([MAPS, 2 * MAPS[::-1]]))["batch_stats"]
    assert jax.tree.structure(found) == jax.tree.structure(variables["batch_stats"])
    for now, before in zip(jax.tree.leaves(found), jax.tree.leaves(variables["batch_stats"]), strict=True):
        np.testing.assert_array_equal(now[0], now[1])
        assert now.shape == (2, *before.shape) and now.dtype == np.float32
    u = found["norm_conv_1"]["conv_1/kernel/u"]
    assert (u[0] != variables["batch_stats"]["norm_conv_1"]["conv_1/kernel/u"]).any()


def test_first_values_have_rules():
    ours = drawn(Critic(WIDTHS), np.zeros((1, 8, 8, 68), np.float32))
    stats = ours["batch_stats"]["norm_conv_1"]
    assert stats["conv_1/kernel/sigma"] == 1.0
    assert 0.3 < np.abs(stats["conv_1/kernel/u"]).mean() < 1.6 and np.unique(stats["conv_1/kernel/u"]).size == 8
    assert float(ours["params"]["conv_0"]["kernel"].std()) == pytest.approx(np.sqrt(2 / 4), rel=0.1)
    assert (np.abs(ours["params"]["final"]["kernel"]) < 0.01).all()


@pytest.mark.parametrize(
    ("grid", "sides"), [((8, 8), (4, 2, 1)), ((24, 24), (12, 6, 3)), ((64, 64), (32, 16, 8)), ((10, 7), None)]
)
def test_grids_of_any_size(grid, sides):
    critic = Critic()
    maps = jax.ShapeDtypeStruct((2, *grid, 5), jnp.float32)
    variables = jax.eval_shape(critic.init, jax.random.key(0), maps)
    scores, features = jax.eval_shape(critic.apply, variables, maps)
    assert scores.shape == (2,)
    expected = ((5, 4), (3, 2), (2, 1)) if sides is None else tuple((s, s) for s in sides)
    assert tuple(f.shape[1:] for f in features) == tuple((*s, c) for s, c in zip(expected, (32, 64, 128), strict=True))


def test_faces_do_not_see_each_other():
    critic = Critic(WIDTHS)
    variables = drawn(critic)
    jacobian = jax.jit(jax.jacobian(lambda maps: critic.apply(variables, maps)[0]))(MAPS)  # [b, b, h, w, k]
    sizes = np.abs(np.asarray(jacobian)).sum(axis=(2, 3, 4))
    assert (np.diag(sizes) > 0).all()
    np.testing.assert_array_equal(sizes - np.diag(np.diag(sizes)), 0.0)


def test_the_image_is_shrunk_with_antialiasing():
    grey = np.full((1, 16, 16, 3), 51, np.uint8)
    np.testing.assert_allclose(image_on_grid(jnp.asarray(grey), (4, 4)), 51 / 127.5 - 1, rtol=1e-5)
    stripes = np.zeros((1, 16, 16, 3), np.uint8)
    stripes[:, :, ::2] = 255
    shrunk = np.asarray(image_on_grid(jnp.asarray(stripes), (4, 4)))
    assert shrunk.shape == (1, 4, 4, 3)
    np.testing.assert_allclose(shrunk[:, :, 1:-1], 0.0, atol=0.01)  # sampling without it would give -1 or 1
    halves = np.zeros((1, 16, 16, 3), np.uint8)
    halves[:, 8:] = 255
    rows = np.asarray(image_on_grid(jnp.asarray(halves), (4, 4)))[0, :, 0, 0]
    np.testing.assert_allclose(rows, [-1, rows[1], -rows[1], 1], atol=1e-5)
    assert -1 < rows[1] < -0.5
