import numpy as np
import pytest

from lmkd.core.errors import UserError
from lmkd.models import weights
from lmkd.models.published import PublishedNames, Rule, layer
from lmkd.models.stud5 import Stud5


def join(q, v):
    if q.shape != v.shape:
        raise ValueError("q and v differ")
    return np.concatenate([q, np.zeros_like(q), v])


NAMES = PublishedNames(
    (
        *layer(r"block(\d+)/dense", r"blocks.\1.fc"),
        Rule(r"block(\d+)/qkv/bias", (r"blocks.\1.qkv_bias",)),  # another release keeps it whole
        Rule(r"block(\d+)/qkv/bias", (r"blocks.\1.q_bias", r"blocks.\1.v_bias"), join),
    ),
    elsewhere=r"classifier\.",
    derived=r".*relative_position_index",
)


def variables():
    block = {"dense": {"kernel": np.zeros((3, 2)), "bias": np.zeros(2)}, "qkv": {"bias": np.zeros(6)}}
    return {"params": {"backbone": {"block4": block}, "head": {"final": {"kernel": np.ones((2, 5))}}}}


def state():
    return {
        "blocks.4.fc.weight": np.arange(6.0).reshape(2, 3),
        "blocks.4.fc.bias": np.array([7.0, 8.0]),
        "blocks.4.q_bias": np.array([1.0, 2.0]),
        "blocks.4.v_bias": np.array([3.0, 4.0]),
        "blocks.4.relative_position_index": np.zeros((9, 9)),
        "classifier.weight": np.zeros((1000, 2)),
    }


def test_transposes_joins_and_leaves_out():
    filled = weights.convert(state(), variables(), NAMES, backbone_only=True)["params"]
    block = filled["backbone"]["block4"]
    np.testing.assert_array_equal(block["dense"]["kernel"], [[0, 3], [1, 4], [2, 5]])  # [in, out] from [out, in]
    np.testing.assert_array_equal(block["dense"]["bias"], [7, 8])
    np.testing.assert_array_equal(block["qkv"]["bias"], [1, 2, 0, 0, 3, 4])
    np.testing.assert_array_equal(filled["head"]["final"]["kernel"], np.ones((2, 5)))


def test_the_first_rule_whose_tensors_are_there_is_taken():
    given = state()
    given["blocks.4.qkv_bias"] = np.arange(6.0)
    del given["blocks.4.q_bias"], given["blocks.4.v_bias"]
    filled = weights.convert(given, variables(), NAMES, backbone_only=True)["params"]
    np.testing.assert_array_equal(filled["backbone"]["block4"]["qkv"]["bias"], np.arange(6))


def test_problems_in_the_published_order_of_axes():
    given = state()
    given["blocks.4.fc.weight"] = np.zeros((2, 4))
    given["blocks.4.v_bias"] = np.zeros(3)
    del given["blocks.4.fc.bias"]
    with pytest.raises(UserError) as error:
        weights.convert(given, variables(), NAMES, backbone_only=True)
    assert set(str(error.value).splitlines()[1:]) == {
        "  - misshapen: blocks.4.fc.weight is [2, 4], the model needs [2, 3]",
        "  - missing: blocks.4.fc.bias (for backbone/block4/dense/bias)",
        "  - misshapen: blocks.4.q_bias is [2] and blocks.4.v_bias is [3]: q and v differ",
    }
    with pytest.raises(UserError) as error:
        weights.convert({**state(), "blocks.4.q_bias": np.zeros(3), "blocks.4.v_bias": np.zeros(3)}, variables(), NAMES)
    assert "v_bias is [3], which gives [9], the model needs [6]" in str(error.value)


def test_a_missing_variable_names_every_place_it_may_be_in():
    given = state()
    del given["blocks.4.v_bias"]
    with pytest.raises(UserError) as error:
        weights.convert(given, variables(), NAMES, backbone_only=True)
    assert "missing: blocks.4.qkv_bias or blocks.4.q_bias and blocks.4.v_bias (for backbone/block4/qkv/bias)" in str(
        error.value
    )
    assert "extra: blocks.4.q_bias [2]" in str(error.value)


def test_a_classifier_where_a_head_is_wanted_names_the_way_out():
    with pytest.raises(UserError, match="only the head differs: backbone_only=True"):
        weights.convert(state(), variables(), NAMES)


def test_a_backbone_without_a_table():
    with pytest.raises(UserError, match="backbone Stud5: no published weights are known for it"):
        weights.published_names(Stud5())
