import pytest
import torch_reference
from torch_reference import parameters, shapes_of

from lmkd.models.efficientnet import EfficientNet

B0, B3 = EfficientNet(), EfficientNet(width=1.2, depth=1.4)


@pytest.mark.parametrize(("net", "name"), [(B0, "efficientnet_b0"), (B3, "efficientnet_b3")], ids=["B0", "B3"])
def test_equals_torchvision(net, name):
    torch_reference.assert_backbone_equals(net, name)


def test_parameters():
    # torchvision.models.efficientnet_b0 and efficientnet_b3, less their classifiers.
    assert parameters(B0) == 5_288_548 - (1280 * 1000 + 1000)
    assert parameters(B3) == 12_233_232 - (1536 * 1000 + 1000)


def test_maps_and_taps():
    maps, taps, variables = shapes_of(B0, 64)
    assert maps == [(2, 16, 16, 24), (2, 8, 8, 40), (2, 4, 4, 112), (2, 2, 2, 1280)]
    assert [taps[f"stage{n}"] for n in (1, 2, 3)] == maps[:3]
    assert taps["stage4"] == (2, 2, 2, 320) and taps["top"] == maps[3] and taps["stem"] == (2, 32, 32, 32)
    assert variables["params"]["stage2"]["group3_block0"]["squeeze"]["reduce"] == {"kernel": (1, 1, 144, 6), "bias": (6,)}
    maps, taps, _ = shapes_of(EfficientNet(top=False), 64)
    assert maps[3] == taps["stage4"] == (2, 2, 2, 320) and "top" not in taps


def test_depth_rounds_up():
    _, _, variables = shapes_of(EfficientNet(width=0.25, depth=1.1), 32)
    blocks = sorted(variables["params"]["stage3"])
    assert blocks == [f"group{g}_block{k}" for g in (4, 5) for k in range(4)]  # 3 * 1.1 rounded up
