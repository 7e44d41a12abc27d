import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmkd.core.errors import UserError
from lmkd.models import initialise, layers
from lmkd.models.hrnet import BLOCKS, HRNet, Stage

TINY = dict(width=4, modules=(1, 1, 1), blocks=1, stage1_width=2, stage1_blocks=1, stem_width=4)
TAPS = {"stem", "stage1", *(f"stage{n}.{i}" for n in (2, 3, 4) for i in range(n))}


def shapes_of(net, side):
    """Shapes of (maps, taps) and of the variables, without running anything."""
    image = jnp.zeros((2, side, side, 3))
    (maps, taps), variables = jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), image, train=False))
    return [m.shape for m in maps], {n: t.shape for n, t in taps.items()}, jax.tree.map(lambda v: v.shape, variables)


def test_maps_and_taps():
    maps, taps, _ = shapes_of(HRNet(**TINY), 64)
    assert maps == [(2, 16, 16, 4), (2, 8, 8, 8), (2, 4, 4, 16), (2, 2, 2, 32)]
    assert set(taps) == TAPS
    assert taps["stem"] == (2, 16, 16, 4)
    assert taps["stage1"] == (2, 16, 16, 8)
    assert taps["stage3.2"] == (2, 4, 4, 16)
    assert [taps[f"stage4.{i}"] for i in range(4)] == maps


def test_bilinear_takes_any_side():
    # 112 px: 28, 14, 7 and 4 cells, of which 4 is no whole part of 28.
    maps, _, _ = shapes_of(HRNet(**TINY), 112)
    assert [m[1] for m in maps] == [28, 14, 7, 4]
    with pytest.raises(UserError, match="multiple of 32"):
        shapes_of(HRNet(**TINY, upsample="nearest"), 112)


def test_every_size_is_free():
    slim = HRNet(width=6, modules=(1, 2, 1), blocks=2, stage1_width=3, stage1_blocks=2, stem_width=10)
    _, taps, variables = shapes_of(slim, 32)
    params = variables["params"]
    assert taps["stem"][-1] == 10 and taps["stage1"][-1] == 12 and taps["stage4.3"][-1] == 48
    assert sorted(params["stage1"]) == ["block0", "block1"]
    assert params["stage1"]["block0"]["shortcut"]["conv"]["kernel"] == (1, 1, 10, 12)
    assert "shortcut" not in params["stage1"]["block1"]
    assert {"module0", "module1"} <= set(params["stage3"])
    assert {f"branch2_block{k}" for k in range(2)} <= set(params["stage3"]["module1"])


def test_a_branch_of_the_right_width_passes_the_transition_unchanged():
    same = HRNet(**{**TINY, "width": 8})  # stage 1 gives 4 * 2 = 8 channels
    _, _, variables = shapes_of(same, 32)
    assert "transition0" not in variables["params"]["stage2"]
    assert "transition1" in variables["params"]["stage2"]


def test_rematerialised_modules_have_the_same_variables_and_gradients():
    maps = [jax.random.normal(jax.random.key(1), (2, 8, 8, 4))]
    plain, again = (Stage((4, 8), 1, 1, "bilinear", rematerialise=remat) for remat in (False, True))
    variables, others = (jax.eval_shape(lambda n=n: n.init(jax.random.key(0), maps, False)) for n in (plain, again))
    assert others == variables
    variables = initialise.drawn(variables, seed=0)
    whole = HRNet(**TINY, rematerialise=True)
    assert shapes_of(whole, 32) == shapes_of(HRNet(**TINY), 32)

    def loss(net, params):
        found, updated = net.apply({**variables, "params": params}, maps, True, mutable=["batch_stats"])
        return sum(jnp.sum(jnp.sin(m)) for m in found), updated

    params = variables["params"]
    results = [jax.jit(jax.value_and_grad(functools.partial(loss, net), has_aux=True))(params) for net in (plain, again)]
    traced = [str(jax.make_jaxpr(lambda p, n=n: loss(n, p)[0])(params)) for n in (plain, again)]
    assert "remat" not in traced[0] and "remat" in traced[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *results)


def test_highest_output_alone_drops_only_the_last_exchange():
    maps, taps, variables = shapes_of(HRNet(**{**TINY, "modules": (1, 1, 2)}, all_outputs=False), 32)
    assert maps == [(2, 8, 8, 4)]
    assert [t for t in taps if t.startswith("stage4")] == ["stage4.0"]
    fusions = {m: {n for n in variables["params"]["stage4"][m] if n.startswith("fuse")} for m in ("module0", "module1")}
    assert fusions["module1"] == {"fuse0_1", "fuse0_2", "fuse0_3"}
    assert len(fusions["module0"]) == 6 + 3 + 2 * 2 + 3  # 6 up; down: 3 of one step, 2 of two, 1 of three


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_variables():
    net = HRNet(**TINY, dtype=jnp.bfloat16, norm=layers.batch_norm(dtype=jnp.bfloat16))
    image = jnp.zeros((2, 32, 32, 3))
    (maps, taps), variables = jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), image, train=True))
    assert {t.dtype for t in [*maps, *taps.values()]} == {jnp.dtype(jnp.bfloat16)}
    assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_separable_replaces_the_3x3_convolutions_of_the_fused_modules_alone():
    _, _, basic = shapes_of(HRNet(**TINY), 32)
    maps, _, separable = shapes_of(HRNet(**TINY, block="separable"), 32)
    assert maps == [(2, 8, 8, 4), (2, 4, 4, 8), (2, 2, 2, 16), (2, 1, 1, 32)]
    basic, separable = basic["params"], separable["params"]
    assert (separable["stem"], separable["stage1"]) == (basic["stem"], basic["stage1"])
    module = separable["stage2"]["module0"]
    assert separable["stage2"]["transition1"]["conv"]["kernel"] == (3, 3, 8, 8)
    assert module["fuse0_1"]["conv"]["kernel"] == (1, 1, 8, 4)
    for layer, c_in, c_out in (("conv1", 8, 8), ("conv2", 8, 8)):
        part = module["branch1_block0"][layer]
        assert part["depthwise"]["kernel"] == (3, 3, 1, c_in)
        assert part["pointwise"]["kernel"] == (1, 1, c_in, c_out)
    assert module["fuse1_0_step0"]["depthwise"]["kernel"] == (3, 3, 1, 4)
    assert module["fuse1_0_step0"]["pointwise"]["kernel"] == (1, 1, 4, 8)


@pytest.mark.parametrize("block", ["basic", "separable"])
def test_training_reaches_every_parameter_and_statistic_of_a_stage(block):
    # Two branches have all there is: both transitions, blocks, fusion up and down.
    stage = Stage((4, 8), modules=1, blocks=1, upsample="bilinear", conv=BLOCKS[block])
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 6)), jnp.float32)

    @jax.jit
    def run():
        variables = stage.init(jax.random.key(0), [x], train=False)

        def loss(params, train):
            maps, updated = stage.apply({**variables, "params": params}, [x], train=train, mutable=["batch_stats"])
            return sum(((m - 1) ** 2).sum() for m in maps), updated["batch_stats"]

        gradients, trained = jax.grad(loss, has_aux=True)(variables["params"], True)
        _, evaluated = loss(variables["params"], False)
        return variables["batch_stats"], gradients, trained, evaluated

    first, gradients, trained, evaluated = run()
    assert all(jax.tree.leaves(jax.tree.map(lambda g: bool(g.any()), gradients)))
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), first, trained)))
    jax.tree.map(np.testing.assert_array_equal, first, evaluated)


def test_what_is_alike_is_traced_once_in_training_and_stands_open_in_evaluation():
    net = HRNet(**(TINY | {"modules": (1, 2, 1), "blocks": 2}))
    image = jnp.zeros((2, 64, 64, 3))
    variables = jax.eval_shape(lambda: net.init(jax.random.key(0), image, train=False))

    def functions(train):
        apply = functools.partial(net.apply, train=train, mutable=["batch_stats"] if train else False)
        equations = jax.make_jaxpr(apply)(variables, image).eqns
        return [equation.params for equation in equations if "name" in equation.params]

    modules = [f["jaxpr"] for f in functions(True) if f["name"] == "core_fn"]  # Flax's name for what it has lifted
    assert len(modules) == 4 and len({id(module) for module in modules}) == 3  # stage 3's two are alike
    assert functions(False) == []  # converters want weights as constants, not as a function's arguments


def test_networks_of_another_policy_share_no_trace():
    """The second one's norm may lie where the first one's did: freed, were it not kept."""
    image = jnp.ones((2, 64, 64, 3))

    def running_mean(momentum):
        net = HRNet(**TINY, norm=layers.batch_norm(momentum=momentum))
        variables = net.init(jax.random.key(0), image, train=False)
        changed = net.apply(variables, image, train=True, mutable=["batch_stats"])[1]["batch_stats"]
        return np.asarray(changed["stage2"]["module0"]["branch0_block0"]["conv1"]["bn"]["var"]) - 1.0

    kept_less, kept_more = running_mean(0.5), running_mean(0.75)
    np.testing.assert_allclose(kept_less, 2 * kept_more, rtol=1e-4)
    assert layers.batch_norm(momentum=0.5) is layers.batch_norm(momentum=0.5)


def test_impossible_sizes_are_reported_together():
    with pytest.raises(UserError) as error:
        HRNet(width=0, modules=(1, 4), blocks=-1, upsample="cubic", block="seperable")
    for text in (
        "5 problems",
        "unknown block 'seperable'",
        "Did you mean 'separable'?",
        "width",
        "got 0",
        "three numbers",
        "got (1, 4)",
        "blocks",
        "bilinear, nearest",
    ):
        assert text in str(error.value)
