"""Folded networks give what they gave: every batch norm of the house is found, and none is left."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_checkpoint import with_moved_norms
from tiny_models import PatchBackbone, TinyHead, tiny

from lmkd.configs.variants import TINY
from lmkd.core import plugins, schemes
from lmkd.models import deconvolution, folding, heads, initialise, layers, light
from lmkd.models.landmarker import Landmarker
from lmkd.models.readout import Heatmaps
from lmkd.ops import heatmaps

SIDE = 64
DECODE = Heatmaps(lambda maps: heatmaps.argmax(maps, sigma_cells=1.0))
LINES = schemes.get("300w68").lines


def network(backbone, head, backbone_options=None, head_options=None):
    """A tiny landmarker of 68 points, and its variables with norms as after training."""
    backbone, head = plugins.resolve("lmkd.models", backbone), plugins.resolve("lmkd.models", head)
    model = Landmarker(backbone(**(backbone_options or {})), head(num_points=68, **(head_options or {})), DECODE)
    return model, with_moved_norms(initialise.initial_variables(model, SIDE, seed=0), seed=0)


def norms(tree, path=()):
    """The paths of all batch norms in "batch_stats"."""
    if "var" in tree:
        return [path]
    return [found for name, inner in tree.items() for found in norms(inner, (*path, name))]


NETWORKS = {
    "hrnet": ("hrnet.HRNet", "heads.V2p", TINY["hrnet.HRNet"] | {"block": "separable"}, TINY["heads.V2p"]),
    "mobilenet": ("mobilenet_v2.MobileNetV2", "light.Light", {"width": 0.1}, {"channels": 8}),
    "shufflenet": ("shufflenet_v2.ShuffleNetV2", "heads.V2", {"width": 0.5}, {}),
    "mobilevit": ("mobilevit_v2.MobileViTV2", "light.Light", {}, {"channels": 8}),
    "resnet": ("resnet.ResNet50", "deconvolution.Deconvolutions", TINY["resnet.ResNet50"], {"channels": 8}),
    "stud5": (
        "stud5.Stud5", "anisotropic.AnisotropicAttention", TINY["stud5.Stud5"],
        {"edges": LINES, "enlarge": "deconvolution", "channels": 8},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_every_norm_of_the_house_is_folded(name):
    model, variables = network(*NETWORKS[name])
    before = norms(variables["batch_stats"])
    _, weights = folding.fold(model, variables)
    assert len(before) > 5 and list(weights) == ["params"]
    flat = folding._flat(weights["params"])
    assert not [path for path in before if (*path, "scale") in flat]
    assert all((*path, "bias") in flat for path in before)


class Blocks(nn.Module):
    """Every block of the house that has a norm, once; two maps."""

    norm: Callable = layers.batch_norm()

    @nn.compact
    def __call__(self, x, train):
        x = layers.ConvNorm(4, stride=2, use_bias=True, norm=self.norm)(x, train)
        x = layers.DepthwiseConvNorm(stride=2, norm=self.norm)(x, train)
        return [x, layers.SeparableConvNorm(6, stride=2, norm=self.norm)(x, train)], {}


@pytest.mark.parametrize(
    "head",
    [heads.V2(5), heads.V2p(5, 4, levels=2), light.Light(5, 4), deconvolution.Deconvolutions(5, 4)],
    ids=["concatenated", "pyramid", "summed laterals", "transposed"],
)
def test_folded_blocks_give_what_they_gave(head):
    model = Landmarker(Blocks(), head, DECODE)
    variables = with_moved_norms(initialise.initial_variables(model, 16, seed=0), seed=0)
    variables["params"]["head"]["final"]["kernel"] *= 1000
    image = np.random.default_rng(1).integers(0, 256, (1, 16, 16, 3), np.uint8)
    (folded, weights), features = folding.fold(model, variables), []
    for net, own in ((model, variables), (folded, jax.tree.map(jnp.asarray, weights))):
        outputs = jax.jit(net.apply)(own, image)
        features.append((outputs.heatmaps, outputs.taps["features"]))
    for expected, found in zip(*features, strict=True):
        assert float(expected.std()) > 0.1
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_norm_by_hand():
    assert folding.feeding(("x", "bn"), {("x", "bn", "bias"): 0, ("x", "conv", "kernel"): 0, ("y", "conv", "k"): 0}) == [
        ("x", "conv")
    ]
    model = Landmarker(PatchBackbone(width=1), TinyHead(1), DECODE)
    zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
    params = {
        "backbone": {"Conv_0": {"kernel": np.zeros((4, 4, 3, 1), np.float32)}, "bn": {"scale": 6 * one, "bias": 5 * one}},
        "head": {"Conv_0": {"kernel": np.ones((1, 1, 1, 1), np.float32), "bias": zero}},
    }
    statistics = {"backbone": {"bn": {"mean": 7 * one, "var": (4 - 1e-5) * one}}}
    folded, weights = folding.fold(model, {"params": params, "batch_stats": statistics})
    # "Conv_0" is in no rule: a = 6 / sqrt(4) = 3 stays beside b = 5 - 3 * 7.
    assert weights["params"]["backbone"]["bn"] == {"scale": pytest.approx([3.0]), "bias": pytest.approx([-16.0])}
    maps = folded.apply(weights, np.zeros((1, 8, 8, 3), np.uint8)).heatmaps
    np.testing.assert_allclose(maps, -16.0, rtol=1e-6)


def test_norms_made_otherwise_stay_as_they_are():
    model = tiny(norm=True)
    variables = with_moved_norms(initialise.initial_variables(model, 16, seed=0), seed=0)
    folded, weights = folding.fold(model, variables)
    assert folded.backbone == model.backbone
    for part in variables:
        jax.tree.map(np.testing.assert_array_equal, weights[part], variables[part])
