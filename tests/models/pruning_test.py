"""A student cut out of a wider network: what is kept, and that dead channels can go without changing a number."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmkd.core.errors import UserError
from lmkd.models.hrnet import HRNet
from lmkd.models.pruning import prune

WIDE = dict(width=4, modules=(1, 1, 1), blocks=1, stage1_width=4, stage1_blocks=1, stem_width=8)
NARROW = {**WIDE, "width": 2, "stage1_width": 2, "stem_width": 6}


@functools.cache
def shapes_of(net):
    return jax.eval_shape(lambda k, x: net.init(k, x, False), jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


def first_values(net, seed):
    """A landmarker's variables with every tensor at random (signs of scales too) and a head."""
    shapes = shapes_of(net)
    random = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key in ("scale", "var"):
            value = random.uniform(0.5, 1.5, leaf.shape)
            return (value * random.choice([-1, 1], leaf.shape) if path[-1].key == "scale" else value).astype(np.float32)
        return random.normal(0, 0.3, leaf.shape).astype(np.float32)

    drawn = jax.tree_util.tree_map_with_path(draw, dict(shapes))
    head = {"final": {"kernel": random.normal(size=(1, 1, net.width, 5)).astype(np.float32)}}
    return {
        "params": {"backbone": drawn["params"], "head": head},
        "batch_stats": {"backbone": drawn["batch_stats"]},
    }


def stream_of(layer):
    """What a layer's channels are added to; the rules of `pruning`, written once more as patterns on the names."""
    if re.match(r"stage1/block\d+/(conv3|shortcut)$", layer):
        return "stage1"
    for pattern in (r"transition(\d)$", r"module\d+/branch(\d)_block\d+/conv2$", r"module\d+/fuse(\d)_\d$"):
        if found := re.search(pattern, layer):
            return f"branch{found[1]}"
    found = re.search(r"fuse(\d)_(\d)_step(\d)$", layer)
    if found and int(found[1]) - int(found[2]) - 1 == int(found[3]):
        return f"branch{found[1]}"
    return layer


def kill_surplus(variables, narrow, seed):
    """Zeroes channels at random places, the same in all of a stream, until as many live ones are left as `narrow` has.

    Every writer of a stream but the first is silent on one live channel too: by its own batch norm it would lose that.
    """
    random = np.random.default_rng(seed)
    live = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(narrow["params"]["backbone"]):
        *layer, part, name = [entry.key for entry in path]
        if name != "scale":
            continue
        parameters, statistics = (variables[c]["backbone"] for c in ("params", "batch_stats"))
        for key in (*layer, part):
            parameters, statistics = parameters[key], statistics[key]
        channels, stream = len(parameters["scale"]), stream_of("/".join(layer))
        silent = random.choice(live[stream], 1) if stream in live else []
        live.setdefault(stream, random.permutation(channels)[: len(leaf)])
        dead = np.setdiff1d(np.arange(channels), np.setdiff1d(live[stream], silent))
        for tensor in (parameters["scale"], parameters["bias"], statistics["mean"]):
            tensor[dead] = 0
    return live


def maps_of(net, variables, image):
    backbone = {collection: tree["backbone"] for collection, tree in variables.items()}
    return jax.jit(lambda v, x: net.apply(v, x, False)[0])(backbone, image)


@pytest.mark.parametrize(("block", "all_outputs"), [("basic", True), ("separable", False)])
def test_dead_channels_go_without_changing_a_number(block, all_outputs):
    wide, narrow = (HRNet(**options, block=block, all_outputs=all_outputs) for options in (WIDE, NARROW))
    variables, first = first_values(wide, 0), first_values(narrow, 1)
    live = kill_surplus(variables, first, 2)
    assert any((np.sort(places) != np.arange(len(places))).any() for places in live.values())
    pruned = prune(variables, first, source=wide, student=narrow)
    assert pruned.kept_as_drawn == ()
    image = np.random.default_rng(3).normal(size=(2, 32, 32, 3)).astype(np.float32)
    ours, theirs = maps_of(narrow, pruned.variables, image), maps_of(wide, variables, image)
    assert len(ours) == (4 if all_outputs else 1)
    for i, (small, large) in enumerate(zip(ours, theirs, strict=True)):
        places = np.sort(live[f"branch{i}"])
        assert float(small.std()) > 0.1
        np.testing.assert_allclose(small, large[..., places], rtol=1e-4, atol=1e-5)
        assert not np.delete(np.asarray(large), places, axis=-1).any()


@pytest.mark.parametrize("block", ["basic", "separable"])
def test_the_same_shape_gives_the_source_bit_by_bit_and_the_student_s_head(block):
    net = HRNet(**{**WIDE, "modules": (2, 1, 1), "blocks": 2, "stage1_blocks": 2}, block=block)
    variables, first = first_values(net, 0), first_values(net, 1)
    pruned = prune(variables, first, source=net, student=net)
    assert pruned.kept_as_drawn == ()
    for collection in ("params", "batch_stats"):
        ours, theirs = pruned.variables[collection]["backbone"], variables[collection]["backbone"]
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    np.testing.assert_array_equal(
        pruned.variables["params"]["head"]["final"]["kernel"], first["params"]["head"]["final"]["kernel"]
    )


def test_kept_channels_by_hand():
    wide, narrow = HRNet(**WIDE), HRNet(**{**WIDE, "stem_width": 2})
    variables = first_values(wide, 0)
    stem = variables["params"]["backbone"]["stem"]
    stem["conv1"]["bn"]["scale"][:] = [0.1, -3, 0.2, 0.3, 2, 0, 0, 1]
    stem["conv2"]["bn"]["scale"][:] = [1, 1, 5, 1, 1, 1, 1, 1]  # the first of equals
    taken = prune(variables, first_values(narrow, 1), source=wide, student=narrow).variables
    ours = taken["params"]["backbone"]["stem"]
    np.testing.assert_array_equal(ours["conv1"]["bn"]["scale"], np.float32([-3, 2]))
    np.testing.assert_array_equal(ours["conv1"]["conv"]["kernel"], stem["conv1"]["conv"]["kernel"][..., [1, 4]])
    np.testing.assert_array_equal(ours["conv2"]["conv"]["kernel"], stem["conv2"]["conv"]["kernel"][:, :, [1, 4]][..., [0, 2]])
    statistics = variables["batch_stats"]["backbone"]["stem"]["conv2"]["bn"]["var"]
    np.testing.assert_array_equal(taken["batch_stats"]["backbone"]["stem"]["conv2"]["bn"]["var"], statistics[[0, 2]])


def test_a_stream_keeps_what_all_its_layers_find_important():
    # Stage 1's output has two writers, conv3 and the shortcut: the sum of |scale| decides, not either alone.
    wide, narrow = HRNet(**WIDE), HRNet(**{**WIDE, "stage1_width": 2, "stem_width": 6})
    variables = first_values(wide, 0)
    block = variables["params"]["backbone"]["stage1"]["block0"]
    block["conv3"]["bn"]["scale"][:] = [9, 0, 0, 0, *[5] * 8, 0, 0, 0, 0]
    block["shortcut"]["bn"]["scale"][:] = [0, 8, 0, 0, *[-5] * 8, 0, 0, 0, 0]
    taken = prune(variables, first_values(narrow, 1), source=wide, student=narrow).variables["params"]["backbone"]
    kept = taken["stage1"]["block0"]
    np.testing.assert_array_equal(kept["shortcut"]["bn"]["scale"], np.full(8, -5, np.float32))
    np.testing.assert_array_equal(kept["conv3"]["bn"]["scale"], np.full(8, 5, np.float32))
    kernel = variables["params"]["backbone"]["stage2"]["transition1"]["conv"]["kernel"]
    np.testing.assert_array_equal(taken["stage2"]["transition1"]["conv"]["kernel"], kernel[:, :, 4:12])


def test_layers_that_the_source_lacks_stay_as_drawn_and_are_named():
    wide, narrow = HRNet(**WIDE, all_outputs=False), HRNet(**NARROW)
    first = first_values(narrow, 1)
    pruned = prune(first_values(wide, 0), first, source=wide, student=narrow)
    ways_up = {f"fuse{i}_{j}" for i in (1, 2, 3) for j in range(i + 1, 4)}
    ways_down = {f"fuse{i}_{j}_step{k}" for i in (1, 2, 3) for j in range(i) for k in range(i - j)}
    assert set(pruned.kept_as_drawn) == {f"backbone/stage4/module0/{name}" for name in ways_up | ways_down}
    ours, theirs = (v["params"]["backbone"]["stage4"]["module0"] for v in (pruned.variables, first))
    for name in ways_up | ways_down:
        jax.tree.map(np.testing.assert_array_equal, ours[name], theirs[name])
    assert (ours["fuse0_1"]["conv"]["kernel"] != theirs["fuse0_1"]["conv"]["kernel"]).all()


def test_fewer_modules_and_blocks_are_the_first_ones():
    wide = HRNet(**{**WIDE, "modules": (1, 2, 1), "blocks": 2, "stage1_blocks": 2})
    narrow = HRNet(**WIDE)
    variables = first_values(wide, 0)
    pruned = prune(variables, first_values(narrow, 1), source=wide, student=narrow)
    ours, theirs = pruned.variables["params"]["backbone"], variables["params"]["backbone"]
    assert pruned.kept_as_drawn == ()
    for name, layer in ours["stage3"]["module0"].items():
        jax.tree.map(np.testing.assert_array_equal, layer, theirs["stage3"]["module0"][name])
    assert {"branch0_block0", "branch2_block0"} < set(ours["stage3"]["module0"])
    jax.tree.map(np.testing.assert_array_equal, ours["stage1"]["block0"], theirs["stage1"]["block0"])


def test_streams_that_the_source_adds_without_a_convolution_share_their_importance():
    # Stem, stage 1 and branch 0 all 8 wide: no shortcut, no transition, one stream. The student puts convolutions between.
    wide = HRNet(**{**WIDE, "width": 8, "stage1_width": 2})
    narrow = HRNet(**{**WIDE, "width": 3, "stage1_width": 1, "stem_width": 5})
    variables = first_values(wide, 0)
    backbone = variables["params"]["backbone"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(backbone):
        if path[-1].key == "scale" and len(leaf) == 8:
            leaf[:] = 0
    backbone["stem"]["conv2"]["bn"]["scale"][[0, 3]] = 4, 1
    backbone["stage1"]["block0"]["conv3"]["bn"]["scale"][[5, 3]] = 3, 1
    backbone["stage4"]["module0"]["fuse0_2"]["bn"]["scale"][[7, 1]] = 2.5, 0.5
    pruned = prune(variables, first_values(narrow, 1), source=wide, student=narrow)
    assert pruned.kept_as_drawn == ("backbone/stage1/block0/shortcut", "backbone/stage2/transition0")
    ours = pruned.variables["params"]["backbone"]
    np.testing.assert_array_equal(ours["stem"]["conv2"]["bn"]["scale"], np.float32([4, 0, 1, 0, 0]))
    np.testing.assert_array_equal(ours["stage1"]["block0"]["conv3"]["bn"]["scale"], np.float32([0, 1, 3, 0]))
    np.testing.assert_array_equal(ours["stage4"]["module0"]["fuse0_2"]["bn"]["scale"], np.float32([0, 0, 2.5]))


def test_a_student_that_does_not_fit_is_refused_with_all_reasons():
    wide = HRNet(**WIDE)
    narrow = HRNet(width=8, modules=(1, 1, 1), blocks=1, stage1_width=5, stage1_blocks=1, stem_width=9, block="separable")
    with pytest.raises(UserError) as error:
        prune({}, {}, source=wide, student=narrow)
    for text in (
        "4 problems",
        "width: the student's 8 is wider than the source's 4",
        "stage1_width",
        "stem_width",
        "'separable'",
    ):
        assert text in str(error.value)


def test_a_student_that_joins_streams_which_the_source_keeps_apart_is_refused():
    wide, narrow = HRNet(**WIDE), HRNet(**{**WIDE, "stage1_width": 1})
    assert narrow.width == 4  # as wide as stage 1's output: no transition
    with pytest.raises(UserError, match="stage1_width or width: they make stage1 and branch0 of the student equally wide"):
        prune({}, {}, source=wide, student=narrow)


def test_variables_of_another_network_are_refused():
    wide, narrow = HRNet(**WIDE), HRNet(**NARROW)
    variables, first = first_values(wide, 0), first_values(narrow, 1)
    del variables["params"]["backbone"]["stage2"]
    first["batch_stats"]["backbone"]["stem"]["conv1"]["bn"]["mean"] = np.zeros(7)
    first["params"]["backbone"]["stem"]["conv3"] = {"bn": {"scale": np.zeros(6)}}
    with pytest.raises(UserError) as error:
        prune(variables, first, source=wide, student=narrow)
    assert "source params/backbone/stage2/transition1: missing" in str(error.value)
    mended = "student batch_stats/backbone/stem/conv1/bn/mean: channels (6,) in the network, shape (7,) in the variables"
    assert mended in str(error.value)
    assert "student params/backbone/stem/conv3/bn/scale: no such layer" in str(error.value)
