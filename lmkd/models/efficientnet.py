"""EfficientNet: maps at 1/4, 1/8, 1/16 and 1/32 of the image.

    backbone = EfficientNet()                                  # B0: 4,007,548 parameters
    backbone = EfficientNet(width=1.2, depth=1.4)              # B3: 10,696,232
    backbone = EfficientNet(width=1.2, depth=1.4, top=False)   # for a head on the maps, without the last 1x1 convolution
    maps, taps = backbone.apply(variables, image, train=False)

Tan & Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019, arXiv 1905.11946, table 1. Layer
for layer torchvision's (tests/models/efficientnet_test.py), without its pooling and classifier, dropout and stochastic depth.
Batch norm's epsilon is torchvision's 1e-5 for B0 to B4 (1e-3 in TensorFlow and for B5 to B7: their weights would not fit).
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lmkd.models import layers
from lmkd.models.blocks import InvertedResidual, round_channels
from lmkd.models.layers import ConvNorm
from lmkd.models.published import PublishedNames, conv_norm, layer

# Each stage's rows of table 1, by the number torchvision gives them: number, expansion, kernel, stride, channels, blocks.
_STAGES = (
    ((1, 1, 3, 1, 16, 1), (2, 6, 3, 2, 24, 2)),
    ((3, 6, 5, 2, 40, 2),),
    ((4, 6, 3, 2, 80, 3), (5, 6, 5, 1, 112, 3)),
    ((6, 6, 5, 2, 192, 4), (7, 6, 3, 1, 320, 1)),
)
_BLOCK = r"stage\d/group(\d)_block(\d+)/"
_FIRST, _OTHER = r"stage1/group(1)_block(\d+)/", r"stage\d/group(?!1)(\d)_block(\d+)/"
_FEATURES = r"features.\1.\2.block."
PUBLISHED_NAMES = PublishedNames(
    rules=(
        *conv_norm("stem", "features.0.0", "features.0.1"),
        # The first group has no expansion, so its other layers stand one place earlier.
        *conv_norm(_FIRST + "spatial", _FEATURES + "0.0", _FEATURES + "0.1"),
        *layer(_FIRST + "squeeze/reduce", _FEATURES + "1.fc1"),
        *layer(_FIRST + "squeeze/expand", _FEATURES + "1.fc2"),
        *conv_norm(_FIRST + "project", _FEATURES + "2.0", _FEATURES + "2.1"),
        *conv_norm(_OTHER + "expand", _FEATURES + "0.0", _FEATURES + "0.1"),
        *conv_norm(_OTHER + "spatial", _FEATURES + "1.0", _FEATURES + "1.1"),
        *layer(_OTHER + "squeeze/reduce", _FEATURES + "2.fc1"),
        *layer(_OTHER + "squeeze/expand", _FEATURES + "2.fc2"),
        *conv_norm(_OTHER + "project", _FEATURES + "3.0", _FEATURES + "3.1"),
        *conv_norm("top", "features.8.0", "features.8.1"),
    ),
    elsewhere=r"(classifier|features\.8)\.",
)
"""Those of torchvision. Groups are its features.1 to features.7."""


class Stage(nn.Module):
    """Inverted residuals with squeeze-and-excitation by `rows`, scaled by `width` and `depth`."""

    rows: tuple[tuple[int, int, int, int, int, int], ...]
    width: float
    depth: float
    dtype: DTypeLike = jnp.float32
    norm: Callable = layers.batch_norm()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 c2"]:
        policy: dict[str, Any] = {"squeeze": 4, "activation": nn.silu, "dtype": self.dtype, "norm": self.norm}
        for number, expansion, size, stride, channels, blocks in self.rows:
            features = round_channels(channels * self.width)
            for k in range(math.ceil(blocks * self.depth)):
                name = f"group{number}_block{k}"
                x = InvertedResidual(features, expansion, size, 1 if k else stride, name=name, **policy)(x, train)
        return x


class EfficientNet(nn.Module):
    """The EfficientNet backbone, B0 by default. The input's channels are free.

    Attributes:
      width: multiplies every number of channels, rounded to multiples of 8 (`blocks.round_channels`); B3 has 1.2.
      depth: multiplies the number of blocks in each of the seven groups, rounded up; B3 has 1.4.
      top: applies the last 1x1 convolution (four times the channels: 1280 for B0, 1536 for B3) to the last map.
      dtype: of the computation.
      norm: constructor from `layers.batch_norm`, of the same dtype.
    """

    width: float = 1.0
    depth: float = 1.0
    top: bool = True
    dtype: DTypeLike = jnp.float32
    norm: Callable = layers.batch_norm()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> tuple[tuple, dict]:
        """Runs the backbone.

        Args:
          x: images [b, S, S, c], normalised.
          train: uses and updates batch statistics (collection "batch_stats").

        Returns:
          The maps at 1/4 (24 channels for B0), 1/8 (40), 1/16 (112) and 1/32 (1280 of `top`, or 320), and the taps by name:
          "stem", "stage1" to "stage4" (before `top`) and, with it, "top".
        """
        policy: dict[str, Any] = {"dtype": self.dtype, "norm": self.norm}
        stem = ConvNorm(round_channels(32 * self.width), stride=2, activation=nn.silu, name="stem", **policy)
        x = stem(x, train)
        taps = {"stem": x}
        for n, rows in enumerate(_STAGES, start=1):
            x = taps[f"stage{n}"] = Stage(rows, self.width, self.depth, name=f"stage{n}", **policy)(x, train)
        if self.top:
            x = taps["top"] = ConvNorm(4 * x.shape[-1], 1, activation=nn.silu, name="top", **policy)(x, train)
        return (*(taps[f"stage{n}"] for n in (1, 2, 3)), x), taps
