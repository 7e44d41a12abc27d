"""Residual blocks that several backbones share, and the rule by which their channels are rounded.

    x = Bottleneck(64, stride=2, dtype=dtype, norm=norm)(x, train)                          # ResNet, HRNet's stage 1
    x = InvertedResidual(24, expansion=6, activation=nn.relu6, norm=norm)(x, train)         # MobileNetV2
    x = InvertedResidual(24, expansion=6, size=5, squeeze=4, activation=nn.silu)(x, train)  # EfficientNet

Layer for layer those of torchvision, whose weights they take (`lmkd.models.published`).
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lmkd.models import layers
from lmkd.models.layers import Conv, ConvNorm, DepthwiseConvNorm

EXPANSION = 4


class Bottleneck(nn.Module):
    """Residual block 1x1 -> 3x3 (of `stride`) -> 1x1 of `width`, `width`, 4 `width` channels; a 1x1 shortcut if needed.

    He et al., "Deep Residual Learning for Image Recognition", 2015, arXiv 1512.03385, section 4.1. The stride stands on the
    3x3 convolution, as in the published PyTorch networks (there: on the first 1x1).
    """

    width: int
    stride: int = 1
    dtype: DTypeLike = jnp.float32
    norm: Callable = layers.batch_norm()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 c2"]:
        policy: dict[str, Any] = {"dtype": self.dtype, "norm": self.norm}
        channels = EXPANSION * self.width
        y = ConvNorm(self.width, size=1, name="conv1", **policy)(x, train)
        y = ConvNorm(self.width, stride=self.stride, name="conv2", **policy)(y, train)
        y = ConvNorm(channels, size=1, activation=None, name="conv3", **policy)(y, train)
        if x.shape[-1] != channels or self.stride > 1:
            x = ConvNorm(channels, size=1, stride=self.stride, activation=None, name="shortcut", **policy)(x, train)
        return layers.activated(y + x, nn.relu, train)


class SqueezeExcite(nn.Module):
    """Channels weighed by what the whole map says: global mean, biased 1x1 to `width`, SiLU, biased 1x1, sigmoid.

    Hu et al., "Squeeze-and-Excitation Networks", 2017, arXiv 1709.01507, equations 2 and 3, with EfficientNet's SiLU.
    """

    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        means = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32)
        y = nn.silu(Conv(self.width, size=1, use_bias=True, dtype=self.dtype, name="reduce")(means))
        return x * nn.sigmoid(Conv(x.shape[-1], size=1, use_bias=True, dtype=self.dtype, name="expand")(y))


class InvertedResidual(nn.Module):
    """1x1 to `expansion` times the channels, depthwise, 1x1 to `features` without activation; added to x where it fits.

    Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018, arXiv 1801.04381, figure 4. The first 1x1
    is left out at expansion 1.

    Attributes:
      features: output channels.
      expansion: inner channels a channel of x.
      size: of the depthwise kernel.
      stride: of the depthwise convolution.
      squeeze: channels of x a channel of the squeeze-and-excitation that follows it; None has none.
      activation: after the first two convolutions.
      dtype: of the computation.
      norm: constructor from `layers.batch_norm`.
    """

    features: int
    expansion: int = 6
    size: int = 3
    stride: int = 1
    squeeze: int | None = None
    activation: Callable = nn.relu6
    dtype: DTypeLike = jnp.float32
    norm: Callable = layers.batch_norm()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 c2"]:
        policy: dict[str, Any] = {"dtype": self.dtype, "norm": self.norm}
        channels = x.shape[-1]
        y = x
        if self.expansion > 1:
            y = ConvNorm(self.expansion * channels, 1, activation=self.activation, name="expand", **policy)(y, train)
        y = DepthwiseConvNorm(self.size, self.stride, self.activation, name="spatial", **policy)(y, train)
        if self.squeeze:
            y = SqueezeExcite(max(1, channels // self.squeeze), dtype=self.dtype, name="squeeze")(y)
        y = ConvNorm(self.features, 1, activation=None, name="project", **policy)(y, train)
        return x + y if self.stride == 1 and channels == self.features else y


def round_channels(channels: float, multiple: int = 8) -> int:
    """Rounds to the nearest `multiple` (halves up, at least one), but never down by more than a tenth.

    The published rule of MobileNetV2 and EfficientNet (`_make_divisible`).
    """
    rounded = max(multiple, int(channels + multiple / 2) // multiple * multiple)
    return rounded + multiple if rounded < 0.9 * channels else rounded
