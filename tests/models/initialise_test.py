"""First weights: the modules' own distributions, by name, without compiling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import tiny

from lmkd.models import heads, hrnet, initialise, landmarker
from lmkd.models.readout import Heatmaps
from lmkd.ops import heatmaps


@pytest.fixture(scope="module")
def network():
    backbone = hrnet.HRNet(width=8, modules=(1, 1, 1), blocks=1, stage1_width=8, stage1_blocks=1, stem_width=16)
    return landmarker.Landmarker(backbone, heads.V2(num_points=5), Heatmaps(lambda h: heatmaps.argmax(h, sigma_cells=1.0)))


def test_tree_is_the_module_s_own(network):
    ours = initialise.initial_variables(network, 64, seed=0)
    theirs = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3), jnp.uint8))
    assert jax.tree.map(np.shape, ours) == jax.tree.map(lambda x: x.shape, dict(theirs))
    assert {x.dtype for x in jax.tree.leaves(ours)} == {np.dtype(np.float32)}


def test_distributions_are_the_published_ones(network):
    variables = initialise.initial_variables(network, 64, seed=0)
    stem = variables["params"]["backbone"]["stem"]["conv2"]["conv"]["kernel"]  # 3 x 3, 16 -> 16
    assert float(stem.std()) == pytest.approx(np.sqrt(2 / (9 * 16)), rel=0.05)
    assert float(variables["params"]["head"]["final"]["kernel"].std()) == pytest.approx(0.001, rel=0.1)
    for collection, name, value in (("params", "scale", 1), ("params", "bias", 0), ("batch_stats", "var", 1)):
        leaves = [x for path, x in jax.tree.leaves_with_path(variables[collection]) if path[-1].key == name]
        assert leaves and all((x == value).all() for x in leaves)


def test_depthwise_kernels_have_a_fan_out_of_nine():
    shapes = {"conv1": {part: {"kernel": jnp.zeros((3, 3, 1, 400))} for part in ("depthwise", "conv")}}
    drawn = initialise.drawn(shapes, seed=0)["conv1"]
    assert float(drawn["depthwise"]["kernel"].std()) == pytest.approx(np.sqrt(2 / 9), rel=0.05)
    # By name, not by shape: a dense convolution of one channel has the same.
    assert float(drawn["conv"]["kernel"].std()) == pytest.approx(np.sqrt(2 / (9 * 400)), rel=0.05)


def test_a_tensor_depends_on_seed_and_name_alone(network):
    first, again, other = (initialise.initial_variables(network, 64, seed=s)["params"]["head"] for s in (0, 0, 1))
    np.testing.assert_array_equal(first["final"]["kernel"], again["final"]["kernel"])
    assert (first["final"]["kernel"] != other["final"]["kernel"]).all()


def test_a_parameter_without_a_rule_is_refused(monkeypatch):
    monkeypatch.setattr(initialise, "_CONSTANT", {})
    with pytest.raises(ValueError, match="no rule for the first value of parameter .*bias"):
        initialise.initial_variables(tiny(), 32, seed=0)
