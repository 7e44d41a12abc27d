import torch_reference
from torch_reference import parameters, shapes_of

from lmkd.models.published import PublishedNames, conv_norm
from lmkd.models.stud5 import Stud5

# No implementation is published: the reference is a plain torch model of the paper's words, written for this test,
# blocks.N = Sequential(Conv2d(3, padding=1), BatchNorm2d, ReLU, MaxPool2d(2)).
NAMES = PublishedNames(
    (*conv_norm("stem", "blocks.0.0", "blocks.0.1"), *conv_norm(r"stage(\d)", r"blocks.\1.0", r"blocks.\1.1"))
)


def test_equals_a_plain_torch_model():
    torch_reference.assert_backbone_equals(Stud5(), "stud5", NAMES)


def test_parameters():
    # Shukla & Huang 2021: grey images, 136 outputs of one dense layer.
    assert parameters(Stud5(), channels=1) + 512 * 136 + 136 == 3_982_344


def test_maps_and_taps():
    # 7 x 7 x 512 at 224 px, as the paper says.
    maps, taps, variables = shapes_of(Stud5(), 224, channels=1)
    assert maps == [(2, 56, 56, 128), (2, 28, 28, 256), (2, 14, 14, 512), (2, 7, 7, 512)]
    assert [taps[f"stage{n}"] for n in (1, 2, 3, 4)] == maps
    assert taps["stem"] == (2, 112, 112, 64)
    assert variables["params"]["stage4"]["conv"] == {"kernel": (3, 3, 512, 512), "bias": (512,)}
