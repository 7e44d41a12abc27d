import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmkd.core.errors import UserError
from lmkd.models import layers
from lmkd.models.heads import V1, V2, V2p

RANDOM = np.random.default_rng(0)
MAPS = [jnp.asarray(RANDOM.normal(size=(2, 16 // 2**i, 16 // 2**i, 4 * 2**i)), jnp.float32) for i in range(4)]


@pytest.mark.parametrize(
    ("head", "channels"),
    [(V1(5), 4), (V2(5), 60), (V2(5, width=7), 7), (V2p(5, neck_channels=6), 6), (V2p(5, 6, levels=5), 6)],
)
def test_shapes(head, channels):
    run = functools.partial(head.init_with_output, jax.random.key(0), train=False)
    (heatmaps, taps), variables = jax.eval_shape(run, MAPS)
    assert heatmaps.shape == (2, 16, 16, 5)
    assert taps["features"].shape == (2, 16, 16, channels)
    assert variables["params"]["final"]["kernel"].shape == (1, 1, channels, 5)


def test_last_convolution_starts_small_and_ends_the_head():
    maps = [jnp.asarray(RANDOM.normal(size=(1, 2, 2, 64)), jnp.float32)]
    (heatmaps, taps), variables = V1(200).init_with_output(jax.random.key(0), maps, train=False)
    final = variables["params"]["final"]
    assert float(final["kernel"].std()) == pytest.approx(0.001, rel=0.05)
    assert not final["bias"].any()
    np.testing.assert_allclose(heatmaps, taps["features"] @ final["kernel"][0, 0] + 0.0, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("head", [V1, V2, V2p])
def test_heatmaps_are_float32_under_bfloat16(head):
    head = head(5, dtype=jnp.bfloat16, norm=layers.batch_norm(dtype=jnp.bfloat16))
    maps = [jnp.asarray(m, jnp.bfloat16) for m in MAPS]
    (heatmaps, taps), variables = jax.eval_shape(lambda: head.init_with_output(jax.random.key(0), maps, train=False))
    assert heatmaps.dtype == jnp.float32 and taps["features"].dtype == jnp.bfloat16
    assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_v1_reads_the_highest_branch_alone():
    head = V1(5)
    variables = head.init(jax.random.key(0), MAPS, train=False)
    _, taps = head.apply(variables, MAPS[:1], train=False)
    np.testing.assert_array_equal(taps["features"], MAPS[0])


def test_v2p_against_numpy():
    def conv3(x, kernel, bias):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        h, w = x.shape[1:3]
        taps = [(i, j) for i in range(3) for j in range(3)]
        return bias + sum(padded[:, i : i + h, j : j + w] @ kernel[i, j] for i, j in taps)

    def double(x):  # bilinear by 2: quarters of the nearer and the farther cell, the border held
        for axis in (1, 2):
            n = x.shape[axis]
            before, after = np.take(x, [0, *range(n - 1)], axis), np.take(x, [*range(1, n), n - 1], axis)
            x = np.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis + 1)
            x = x.reshape([2 * n if a == axis else s for a, s in enumerate(np.delete(x.shape, axis + 1))])
        return x

    maps = [RANDOM.normal(size=(1, 8, 8, 2)), RANDOM.normal(size=(1, 4, 4, 3))]
    head = V2p(2, neck_channels=4, levels=2)
    single_maps = [jnp.asarray(m, jnp.float32) for m in maps]
    shapes = jax.eval_shape(lambda: head.init(jax.random.key(0), single_maps, train=False))
    params = jax.tree.map(lambda p: RANDOM.normal(size=p.shape), shapes["params"])
    params["bn"]["scale"] = np.abs(params["bn"]["scale"])
    x = np.concatenate([maps[0], double(maps[1])], -1)
    x = x @ params["reduce"]["kernel"][0, 0] + params["reduce"]["bias"]
    pooled = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
    levels = [conv3(y, **params[f"level{i}"]) for i, y in enumerate((x, pooled))]
    x = (levels[0] + double(levels[1])) / np.sqrt(1 + 1e-5) * params["bn"]["scale"] + params["bn"]["bias"]
    expected = np.maximum(x, 0)
    statistics = {"bn": {"mean": np.zeros(4), "var": np.ones(4)}}
    variables = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), {"params": params, "batch_stats": statistics})
    _, taps = jax.jit(lambda v: head.apply(v, single_maps, train=False))(variables)
    np.testing.assert_allclose(taps["features"], expected, rtol=1e-4, atol=1e-4)


def test_v2p_says_which_sides_it_takes():
    with pytest.raises(UserError, match="5 levels.*multiples of 16, got 24x24.*multiples of 64"):
        V2p(5, levels=5).init(jax.random.key(0), [jnp.zeros((1, 24, 24, 4))], train=False)
