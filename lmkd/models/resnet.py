"""ResNet-50: maps at 1/4, 1/8, 1/16 and 1/32 of the image.

    backbone = ResNet50()                                  # 23,508,032 parameters on RGB, 23,501,760 on grey images
    slim = ResNet50(width=16, blocks=(1, 1, 1, 1))
    maps, taps = backbone.apply(variables, image, train=False)

He et al., "Deep Residual Learning for Image Recognition", 2015, arXiv 1512.03385, table 1. Layer for layer torchvision's
(tests/models/resnet_test.py), which strides on the 3x3 convolutions; without its pooling and classifier.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lmkd.models import layers
from lmkd.models.blocks import Bottleneck
from lmkd.models.layers import ConvNorm
from lmkd.models.published import PublishedNames, conv_norm

PUBLISHED_NAMES = PublishedNames(
    rules=(
        *conv_norm("stem", "conv1", "bn1"),
        *conv_norm(r"stage(\d)/block(\d+)/conv(\d)", r"layer\1.\2.conv\3", r"layer\1.\2.bn\3"),
        *conv_norm(r"stage(\d)/block(\d+)/shortcut", r"layer\1.\2.downsample.0", r"layer\1.\2.downsample.1"),
    ),
    elsewhere=r"fc\.",
)
"""Those of torchvision, which timm and most published checkpoints share."""


class Stage(nn.Module):
    """`blocks` Bottlenecks, of which the first has the stride."""

    width: int
    blocks: int
    stride: int
    dtype: DTypeLike = jnp.float32
    norm: Callable = layers.batch_norm()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 c2"]:
        for k in range(self.blocks):
            stride = self.stride if k == 0 else 1
            x = Bottleneck(self.width, stride, dtype=self.dtype, norm=self.norm, name=f"block{k}")(x, train)
        return x


class ResNet50(nn.Module):
    """The ResNet-50 backbone. The input's channels are free: 3, or 1 for grey images.

    Attributes:
      width: channels of the stem and inner ones of stage 1; stage N has 2^(N - 1) times as many inside, 4 times that outside.
      blocks: Bottlenecks in stages 1 to 4; (3, 4, 23, 3) is ResNet-101.
      dtype: of the computation.
      norm: constructor from `layers.batch_norm`, of the same dtype.
    """

    width: int = 64
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    dtype: DTypeLike = jnp.float32
    norm: Callable = layers.batch_norm()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> tuple[tuple, dict]:
        """Runs the backbone.

        Args:
          x: images [b, S, S, c], normalised.
          train: uses and updates batch statistics (collection "batch_stats").

        Returns:
          The maps [b, S/4, S/4, 4 W], [b, S/8, S/8, 8 W], [b, S/16, S/16, 16 W], [b, S/32, S/32, 32 W], and the taps by
          name: "stem" (before pooling) and "stage1" to "stage4", the maps.
        """
        policy: dict[str, Any] = {"dtype": self.dtype, "norm": self.norm}
        x = ConvNorm(self.width, size=7, stride=2, name="stem", **policy)(x, train)
        taps = {"stem": x}
        x = layers.max_pool(x, 3)
        for n, blocks in enumerate(self.blocks, start=1):
            stage = Stage(self.width * 2 ** (n - 1), blocks, 1 if n == 1 else 2, name=f"stage{n}", **policy)
            x = taps[f"stage{n}"] = stage(x, train)
        return tuple(taps[f"stage{n}"] for n in range(1, len(self.blocks) + 1)), taps
