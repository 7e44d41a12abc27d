import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmkd.models.blocks import Bottleneck, InvertedResidual, SqueezeExcite, round_channels


# MobileNetV2's _make_divisible by hand: nearest multiple of 8, halves up, at least 8, one more if a tenth or more is lost.
@pytest.mark.parametrize(
    ("channels", "expected"), [(1, 8), (12, 16), (11.2, 16), (18, 24), (20, 24), (22.4, 24), (44.8, 48), (134.4, 136)]
)
def test_round_channels(channels, expected):
    assert round_channels(channels) == expected


def test_residual_only_where_it_fits():
    x = jnp.ones((1, 4, 4, 6))

    def with_a_silent_branch(block):
        shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), x, False))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
        return jax.jit(lambda v, x: block.apply(v, x, False))(zeros, x)

    np.testing.assert_array_equal(with_a_silent_branch(InvertedResidual(6, 2)), x)
    np.testing.assert_array_equal(with_a_silent_branch(InvertedResidual(6, 2, stride=2)), np.zeros((1, 2, 2, 6)))
    np.testing.assert_array_equal(with_a_silent_branch(InvertedResidual(8, 2)), np.zeros((1, 4, 4, 8)))


def test_bottleneck_shortcut():
    def shapes(block, channels):
        return jax.eval_shape(lambda: block.init(jax.random.key(0), jnp.zeros((1, 4, 4, channels)), False))["params"]

    assert "shortcut" not in shapes(Bottleneck(2), 8)
    assert shapes(Bottleneck(2), 4)["shortcut"]["conv"]["kernel"].shape == (1, 1, 4, 8)
    assert shapes(Bottleneck(2, stride=2), 8)["shortcut"]["conv"]["kernel"].shape == (1, 1, 8, 8)


def test_squeeze_excite_by_hand():
    x = jnp.asarray([[1.0, 3.0], [2.0, 4.0], [3.0, 5.0], [2.0, 4.0]]).reshape(1, 2, 2, 2)  # means 2 and 4
    params = {
        "reduce": {"kernel": jnp.asarray([1.0, 0.5]).reshape(1, 1, 2, 1), "bias": jnp.asarray([-1.0])},  # 2 + 2 - 1 = 3
        "expand": {"kernel": jnp.asarray([1.0, -1.0]).reshape(1, 1, 1, 2), "bias": jnp.asarray([0.0, 0.5])},
    }
    y = SqueezeExcite(1).apply({"params": params}, x)
    silu = 3 / (1 + np.exp(-3))
    gates = 1 / (1 + np.exp(-np.array([silu, 0.5 - silu])))
    np.testing.assert_allclose(y, np.asarray(x) * gates.reshape(1, 1, 1, 2), rtol=1e-6)
