import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_reference

from lmkd.core.errors import UserError
from lmkd.models import layers
from lmkd.models.mobilevit_v2 import AttentionBlock, MobileViTV2, resize_corners, separable_attention

# timm 1.0.31, mobilevitv2_050 to _200: parameters of the whole network, and of its classifier of 1000 classes.
PUBLISHED = {
    0.5: (1_370_593, 257_000),
    0.75: (2_866_009, 385_000),
    1.0: (4_901_841, 513_000),
    1.25: (7_478_089, 641_000),
    1.5: (10_594_753, 769_000),
    1.75: (14_251_833, 897_000),
    2.0: (18_449_329, 1_025_000),
}
TINY = 0.125


@pytest.mark.parametrize("multiplier", PUBLISHED)
def test_parameters_are_the_published_ones(multiplier):
    whole, classifier = PUBLISHED[multiplier]
    assert torch_reference.parameters(MobileViTV2(multiplier)) == whole - classifier


def test_maps_equal_those_of_timm():
    # mobilevitv2_050 of timm 1.0.31 at 96 px: attention over 36, 9 and 4 patches. The last map, of 3 cells a side, is 4
    # there; its reference was brought to 3 by torch's interpolate(align_corners=True).
    torch_reference.assert_backbone_equals(MobileViTV2(0.5), "mobilevitv2_050")


def test_maps_and_taps():
    maps, taps, _ = torch_reference.shapes_of(MobileViTV2(TINY), 256)
    assert maps == [(2, 64, 64, 16), (2, 32, 32, 32), (2, 16, 16, 48), (2, 8, 8, 64)]
    assert taps == {f"stage{i}": shape for i, shape in enumerate(maps, start=1)}


@pytest.mark.parametrize("side", [32, 96, 224])
def test_maps_of_an_odd_side_keep_their_stride(side):
    maps, _, _ = torch_reference.shapes_of(MobileViTV2(TINY), side)
    assert [m[1:3] for m in maps] == [(side // s, side // s) for s in (4, 8, 16, 32)]


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_variables():
    net = MobileViTV2(TINY, dtype=jnp.bfloat16, norm=layers.batch_norm(dtype=jnp.bfloat16))
    image = jnp.zeros((1, 96, 96, 3), jnp.bfloat16)
    (maps, _), variables = jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), image, train=True))
    assert {m.dtype for m in maps} == {jnp.dtype(jnp.bfloat16)}
    assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_separable_attention_mixes_the_cells_two_apart():
    qkv = np.random.default_rng(0).normal(size=(1, 4, 4, 1 + 2 * 3)).astype(np.float32)
    expected = np.zeros((4, 4, 3))
    for y, x in np.ndindex(4, 4):
        places = [(i, j) for i in (y % 2, y % 2 + 2) for j in (x % 2, x % 2 + 2)]
        weights = np.exp([qkv[0, i, j, 0] for i, j in places])
        context = sum(w * qkv[0, i, j, 1:4] for w, (i, j) in zip(weights / weights.sum(), places, strict=True))
        expected[y, x] = np.maximum(qkv[0, y, x, 4:], 0) * context
    np.testing.assert_allclose(separable_attention(jnp.asarray(qkv))[0], expected, atol=1e-6)


def test_resizing_puts_corners_upon_corners():
    column = jnp.asarray([0.0, 3.0, 9.0])
    x = jnp.broadcast_to(column.reshape(1, 3, 1, 1), (1, 3, 3, 1))
    # Positions 0, 2/3, 4/3 and 2 of the three cells.
    np.testing.assert_allclose(resize_corners(x, 4)[0, :, 1, 0], [0, 2, 5, 9], atol=1e-6)
    np.testing.assert_allclose(resize_corners(x, 4)[0, 1, :, 0], [2, 2, 2, 2], atol=1e-6)
    one = jnp.full((1, 1, 1, 1), 7.0)
    assert (resize_corners(one, 2) == 7).all()
    assert resize_corners(resize_corners(one, 2), 1) == 7


def test_training_reaches_every_parameter_and_statistic_of_an_attention_block():
    block = AttentionBlock(depth=1)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 8)), jnp.float32)

    @jax.jit
    def run():
        variables = block.init(jax.random.key(0), x, train=False)

        def loss(params):
            y, updated = block.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
            return ((y - 1) ** 3).sum(), updated["batch_stats"]

        return variables["batch_stats"], *jax.grad(loss, has_aux=True)(variables["params"])

    first, gradients, trained = run()
    assert all(bool(g.any()) for g in jax.tree.leaves(gradients))
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), first, trained)))


@pytest.mark.parametrize("multiplier", [0, -1, 0.3])
def test_impossible_multipliers_are_refused(multiplier):
    with pytest.raises(UserError, match=f"multiplier {multiplier}: needs a positive multiple of 1/8"):
        MobileViTV2(multiplier)
