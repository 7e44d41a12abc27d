import numpy as np
import pytest
import torch_reference
from torch_reference import parameters, shapes_of

from lmkd.core.errors import UserError
from lmkd.models.mobilenet_v2 import MobileNetV2

CLASSIFIER = 1280 * 1000 + 1000


def test_equals_torchvision():
    torch_reference.assert_backbone_equals(MobileNetV2(), "mobilenet_v2")


def test_equals_torchvision_at_half_the_width():
    torch_reference.assert_backbone_equals(MobileNetV2(width=0.5), "mobilenet_v2_x0_5")


def test_parameters():
    assert parameters(MobileNetV2()) == 3_504_872 - CLASSIFIER  # torchvision.models.mobilenet_v2
    # The last convolution has 320 x 1280 weights and 2 x 1280 of batch norm.
    assert parameters(MobileNetV2(top=False)) == 3_504_872 - CLASSIFIER - 320 * 1280 - 2 * 1280


def test_maps_and_taps():
    maps, taps, _ = shapes_of(MobileNetV2(), 64)
    assert maps == [(2, 16, 16, 24), (2, 8, 8, 32), (2, 4, 4, 96), (2, 2, 2, 1280)]
    assert [taps[f"stage{n}"] for n in (1, 2, 3)] == maps[:3]
    assert taps["stage4"] == (2, 2, 2, 320) and taps["top"] == maps[3] and taps["stem"] == (2, 32, 32, 32)
    maps, taps, _ = shapes_of(MobileNetV2(top=False), 64)
    assert maps[3] == taps["stage4"] == (2, 2, 2, 320) and "top" not in taps


@pytest.mark.parametrize(
    ("width", "channels"), [(0.35, [8, 16, 32, 1280]), (0.75, [24, 24, 72, 1280]), (1.4, [32, 48, 136, 1792])]
)
def test_widths_round_as_published(width, channels):
    # By hand: 24, 32, 96 and 1280 times the width, to the nearest multiple of 8, one up if that loses more than a tenth
    # (0.75 * 24 = 18 would lose two of them at 16; 0.75 * 1280 stays 1280).
    maps, _, _ = shapes_of(MobileNetV2(width=width), 32)
    assert [m[-1] for m in maps] == channels


def test_published_weights_without_the_last_convolution():
    reference = torch_reference.load("mobilenet_v2_x0_5")
    net = MobileNetV2(width=0.5, top=False)
    variables = torch_reference.backbone_variables(net, reference.state, reference.images)
    kernel = variables["params"]["stage2"]["block5"]["spatial"]["depthwise"]["kernel"]
    there = reference.state["features.5.conv.1.0.weight"]
    assert kernel.shape == (3, 3, 1, 96)
    np.testing.assert_array_equal(kernel[0, 2, 0], there[:, 0, 0, 2])  # [y, x, 1, c] from [c, 1, y, x]
    del reference.state["features.7.conv.2.weight"]
    with pytest.raises(UserError, match="missing: features.7.conv.2.weight .for backbone/stage3/block7/project/conv/kernel"):
        torch_reference.backbone_variables(net, reference.state, reference.images)
