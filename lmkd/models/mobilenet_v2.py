"""MobileNetV2: maps at 1/4, 1/8, 1/16 and 1/32 of the image.

    backbone = MobileNetV2()                           # 2,223,872 parameters
    backbone = MobileNetV2(width=0.5, top=False)       # for a head on the maps, without the last 1x1 convolution
    maps, taps = backbone.apply(variables, image, train=False)

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018, arXiv 1801.04381, table 2. Layer for layer
torchvision's (tests/models/mobilenet_v2_test.py), without its pooling and classifier.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lmkd.models import layers
from lmkd.models.blocks import InvertedResidual, round_channels
from lmkd.models.layers import ConvNorm
from lmkd.models.published import PublishedNames, conv_norm

# Each stage's rows of table 2: expansion t, channels c, blocks n, stride s. A stage ends where the resolution next falls.
_STAGES = (
    ((1, 16, 1, 1), (6, 24, 2, 2)),
    ((6, 32, 3, 2),),
    ((6, 64, 4, 2), (6, 96, 3, 1)),
    ((6, 160, 3, 2), (6, 320, 1, 1)),
)
_FEATURES = r"features.\1.conv."
PUBLISHED_NAMES = PublishedNames(
    rules=(
        *conv_norm("stem", "features.0.0", "features.0.1"),
        # The first block has no expansion, so its other layers stand one place earlier.
        *conv_norm(r"stage1/block(1)/spatial", _FEATURES + "0.0", _FEATURES + "0.1"),
        *conv_norm(r"stage1/block(1)/project", _FEATURES + "1", _FEATURES + "2"),
        *conv_norm(r"stage\d/block(\d+)/expand", _FEATURES + "0.0", _FEATURES + "0.1"),
        *conv_norm(r"stage\d/block(?!1/)(\d+)/spatial", _FEATURES + "1.0", _FEATURES + "1.1"),
        *conv_norm(r"stage\d/block(?!1/)(\d+)/project", _FEATURES + "2", _FEATURES + "3"),
        *conv_norm("top", "features.18.0", "features.18.1"),
    ),
    elsewhere=r"(classifier|features\.18)\.",
)
"""Those of torchvision. Blocks are numbered through, as there."""


class Stage(nn.Module):
    """Inverted residuals by `rows` (t, c, n, s), the channels times `width`, numbered from `first`."""

    rows: tuple[tuple[int, int, int, int], ...]
    first: int
    width: float
    dtype: DTypeLike = jnp.float32
    norm: Callable = layers.batch_norm()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 c2"]:
        policy: dict[str, Any] = {"dtype": self.dtype, "norm": self.norm}
        number = self.first
        for expansion, channels, blocks, stride in self.rows:
            for k in range(blocks):
                features = round_channels(channels * self.width)
                block = InvertedResidual(features, expansion, stride=1 if k else stride, name=f"block{number}", **policy)
                x = block(x, train)
                number += 1
        return x


class MobileNetV2(nn.Module):
    """The MobileNetV2 backbone. The input's channels are free.

    Attributes:
      width: multiplies every number of channels, rounded to multiples of 8 (`blocks.round_channels`); that of `top` only
        where it is above 1, as published.
      top: applies the last 1x1 convolution (1280 channels) to the last map.
      dtype: of the computation.
      norm: constructor from `layers.batch_norm`, of the same dtype.
    """

    width: float = 1.0
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
          The maps at 1/4 (24 channels at width 1), 1/8 (32), 1/16 (96) and 1/32 (1280 of `top`, or 320), and the taps by
          name: "stem", "stage1" to "stage4" (before `top`) and, with it, "top".
        """
        policy: dict[str, Any] = {"dtype": self.dtype, "norm": self.norm}
        stem = ConvNorm(round_channels(32 * self.width), stride=2, activation=nn.relu6, name="stem", **policy)
        x = stem(x, train)
        taps = {"stem": x}
        number = 1
        for n, rows in enumerate(_STAGES, start=1):
            x = taps[f"stage{n}"] = Stage(rows, number, self.width, name=f"stage{n}", **policy)(x, train)
            number += sum(blocks for _, _, blocks, _ in rows)
        if self.top:
            channels = round_channels(1280 * max(1.0, self.width))
            x = taps["top"] = ConvNorm(channels, 1, activation=nn.relu6, name="top", **policy)(x, train)
        return (*(taps[f"stage{n}"] for n in (1, 2, 3)), x), taps
