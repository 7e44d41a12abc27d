import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_reference
from torch_reference import parameters, shapes_of

from lmkd.core.errors import UserError
from lmkd.models.shufflenet_v2 import ShuffleBlock, ShuffleNetV2

# torchvision.models.shufflenet_v2_x0_5 ... x2_0: width -> parameters, channels of the classifier's input
PUBLISHED = {0.5: (1_366_792, 1024), 1.0: (2_278_604, 1024), 1.5: (3_503_624, 1024), 2.0: (7_393_996, 2048)}


@pytest.mark.parametrize(("width", "name"), [(0.5, "shufflenet_v2_x0_5"), (1.0, "shufflenet_v2_x1_0")])
def test_equals_torchvision(width, name):
    torch_reference.assert_backbone_equals(ShuffleNetV2(width), name)


@pytest.mark.parametrize("width", PUBLISHED)
def test_parameters(width):
    whole, channels = PUBLISHED[width]
    assert parameters(ShuffleNetV2(width)) == whole - (channels * 1000 + 1000)


def test_maps_and_taps():
    maps, taps, _ = shapes_of(ShuffleNetV2(), 64)
    assert maps == [(2, 16, 16, 24), (2, 8, 8, 116), (2, 4, 4, 232), (2, 2, 2, 1024)]
    assert [taps[f"stage{n}"] for n in (1, 2, 3)] == maps[:3]
    assert taps["stage4"] == (2, 2, 2, 464) and taps["top"] == maps[3] and taps["stem"] == (2, 32, 32, 24)
    maps, taps, _ = shapes_of(ShuffleNetV2(top=False), 64)
    assert maps[3] == taps["stage4"] == (2, 2, 2, 464) and "top" not in taps


def test_the_passing_half_goes_to_the_even_channels():
    x = jnp.arange(2 * 2 * 8.0).reshape(1, 2, 2, 8)
    y, _ = ShuffleBlock(8).init_with_output(jax.random.key(0), x, False)
    np.testing.assert_array_equal(y[..., ::2], x[..., :4])


def test_an_unpublished_width():
    with pytest.raises(UserError, match=r"unknown width of ShuffleNetV2 '0.75'.*Allowed: 0.5, 1.0, 1.5, 2.0"):
        ShuffleNetV2(0.75)
