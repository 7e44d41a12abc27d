"""ShuffleNetV2: maps at 1/4, 1/8, 1/16 and 1/32 of the image.

    backbone = ShuffleNetV2(width=0.5)                 # 341,792 parameters
    backbone = ShuffleNetV2(width=1.5, top=False)      # for a head on the maps, without the last 1x1 convolution
    maps, taps = backbone.apply(variables, image, train=False)

Ma et al., "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", 2018, arXiv 1807.11164, table 5. Layer
for layer torchvision's (tests/models/shufflenet_v2_test.py), without its pooling and classifier.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lmkd.core.errors import unknown
from lmkd.models import layers
from lmkd.models.layers import ConvNorm, DepthwiseConvNorm
from lmkd.models.published import PublishedNames, conv_norm

STEM = 24
CHANNELS = {
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}
"""Width -> channels of the stages at 1/8, 1/16 and 1/32, and of the last convolution."""
BLOCKS = (4, 8, 4)

_BLOCK = r"stage(\d)/block(\d+)/"
_BRANCH = r"stage\1.\2.branch"
PUBLISHED_NAMES = PublishedNames(
    rules=(
        *conv_norm("stem", "conv1.0", "conv1.1"),
        *conv_norm(_BLOCK + "shortcut_spatial", _BRANCH + "1.0", _BRANCH + "1.1"),
        *conv_norm(_BLOCK + "shortcut", _BRANCH + "1.2", _BRANCH + "1.3"),
        *conv_norm(_BLOCK + "conv1", _BRANCH + "2.0", _BRANCH + "2.1"),
        *conv_norm(_BLOCK + "spatial", _BRANCH + "2.3", _BRANCH + "2.4"),
        *conv_norm(_BLOCK + "conv2", _BRANCH + "2.5", _BRANCH + "2.6"),
        *conv_norm("top", "conv5.0", "conv5.1"),
    ),
    elsewhere=r"(fc|conv5)\.",
)
"""Those of torchvision."""


class ShuffleBlock(nn.Module):
    """Half the channels pass, half go through 1x1, depthwise 3x3, 1x1; then the halves are shuffled (figure 3 c).

    At stride 2 all channels go both ways, and the passing side has a depthwise and a 1x1 convolution of its own (figure 3 d).
    """

    features: int
    stride: int = 1
    dtype: DTypeLike = jnp.float32
    norm: Callable = layers.batch_norm()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 c2"]:
        policy: dict[str, Any] = {"dtype": self.dtype, "norm": self.norm}
        half = self.features // 2
        if self.stride == 1:
            passing, y = jnp.split(x, 2, axis=-1)
        else:
            y = x
            passing = DepthwiseConvNorm(stride=self.stride, activation=None, name="shortcut_spatial", **policy)(x, train)
            passing = ConvNorm(half, 1, name="shortcut", **policy)(passing, train)
        y = ConvNorm(half, 1, name="conv1", **policy)(y, train)
        y = DepthwiseConvNorm(stride=self.stride, activation=None, name="spatial", **policy)(y, train)
        y = ConvNorm(half, 1, name="conv2", **policy)(y, train)
        # Channels a0 a1 ... b0 b1 ... become a0 b0 a1 b1 ...
        return jnp.stack([passing, y], axis=-1).reshape(*y.shape[:3], self.features)


class Stage(nn.Module):
    """`blocks` shuffle blocks, of which the first halves the resolution."""

    features: int
    blocks: int
    dtype: DTypeLike = jnp.float32
    norm: Callable = layers.batch_norm()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 c2"]:
        for k in range(self.blocks):
            stride = 1 if k else 2
            x = ShuffleBlock(self.features, stride, dtype=self.dtype, norm=self.norm, name=f"block{k}")(x, train)
        return x


class ShuffleNetV2(nn.Module):
    """The ShuffleNetV2 backbone. The input's channels are free.

    Attributes:
      width: one of `CHANNELS`.
      top: applies the last 1x1 convolution (1024 or 2048 channels) to the last map.
      dtype: of the computation.
      norm: constructor from `layers.batch_norm`, of the same dtype.

    Raises:
      UserError: a width that was never published.
    """

    width: float = 1.0
    top: bool = True
    dtype: DTypeLike = jnp.float32
    norm: Callable = layers.batch_norm()

    def __post_init__(self):
        if self.width not in CHANNELS:
            raise unknown("width of ShuffleNetV2", str(self.width), map(str, CHANNELS))
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> tuple[tuple, dict]:
        """Runs the backbone.

        Args:
          x: images [b, S, S, c], normalised.
          train: uses and updates batch statistics (collection "batch_stats").

        Returns:
          The maps at 1/4 (24 channels, right after pooling), 1/8 (116 at width 1), 1/16 (232) and 1/32 (1024 of `top`, or
          464), and the taps by name: "stem" (before pooling), "stage1" to "stage4" (before `top`) and, with it, "top".
        """
        policy: dict[str, Any] = {"dtype": self.dtype, "norm": self.norm}
        *channels, last = CHANNELS[self.width]
        x = ConvNorm(STEM, stride=2, name="stem", **policy)(x, train)
        taps = {"stem": x}
        x = taps["stage1"] = layers.max_pool(x, 3)
        # Stages 2 to 4 are called so in the paper too.
        for n, (features, blocks) in enumerate(zip(channels, BLOCKS, strict=True), start=2):
            x = taps[f"stage{n}"] = Stage(features, blocks, name=f"stage{n}", **policy)(x, train)
        if self.top:
            x = taps["top"] = ConvNorm(last, 1, name="top", **policy)(x, train)
        return (*(taps[f"stage{n}"] for n in (1, 2, 3)), x), taps
