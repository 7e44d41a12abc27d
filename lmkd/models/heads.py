"""Heads: from the backbone's branch maps to heatmaps.

    head = V2(num_points=98)
    logits, taps = head.apply(variables, maps, train=False)

All take the maps from the highest resolution to the lowest and return maps float32 [b, h, w, K] at the highest, and taps:
"features", the map just before the last 1x1 convolution. `readout` says what is made of the maps.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lmkd.core.errors import UserError
from lmkd.models import layers
from lmkd.models.layers import Conv, ConvNorm
from lmkd.models.readout import Heatmaps

FINAL_STDDEV = 0.001
"""Of the last convolution's first weights, as in the published code: the first heatmaps are close to zero."""


class V1(nn.Module):
    """The highest-resolution branch alone and a 1x1 convolution (Sun et al. 2019, arXiv 1902.09212).

    Pair it with `HRNet(all_outputs=False)`, which leaves out the parameters that only the other branches need.
    """

    num_points: int
    dtype: DTypeLike = jnp.float32
    norm: Callable = layers.batch_norm()
    readout: ClassVar[type] = Heatmaps

    @nn.compact
    def __call__(
        self, maps: Sequence[Float[Array, "b _ _ _"]], train: bool
    ) -> tuple[Float[Array, "b h w k"], dict[str, Array]]:
        return last_maps(self.num_points, self.dtype)(maps[0]), {"features": maps[0]}


class V2(nn.Module):
    """All branches brought to the highest resolution and concatenated, 1x1 + batch norm + ReLU, 1x1.

    Wang et al. 2020, arXiv 1908.07919, section 3.3 (HRNetV2), as the facial-landmark code has it: both convolutions
    have a bias.

    Attributes:
      num_points: K.
      width: channels between the two convolutions; None keeps the concatenation's (15 W).
    """

    num_points: int
    width: int | None = None
    dtype: DTypeLike = jnp.float32
    norm: Callable = layers.batch_norm()
    readout: ClassVar[type] = Heatmaps

    @nn.compact
    def __call__(
        self, maps: Sequence[Float[Array, "b _ _ _"]], train: bool
    ) -> tuple[Float[Array, "b h w k"], dict[str, Array]]:
        x = _concatenated(maps)
        mix = ConvNorm(self.width or x.shape[-1], size=1, use_bias=True, dtype=self.dtype, norm=self.norm, name="mix")
        features = mix(x, train)
        return last_maps(self.num_points, self.dtype)(features), {"features": features}


class V2p(nn.Module):
    """The pyramid neck of HRNetV2p, its levels brought back to 1/4 and summed into a heatmap head.

    Wang et al. 2020, arXiv 1908.07919, section 3.3 (HRNetV2p) with the layers of mmdetection's HRFPN: concatenation ->
    1x1 to `neck_channels` -> average-pooled to strides 1, 2, 4, ... -> a 3x3 convolution a level. Ours: the neck was
    made for detection, so there is no published way from its levels to heatmaps; here they are enlarged, summed, and
    pass batch norm and ReLU (as in V2) before the last 1x1.

    Attributes:
      num_points: K.
      neck_channels: channels of every level.
      levels: their number (HRFPN has 5). The highest resolution's side must be a multiple of 2 ** (levels - 1).
    """

    num_points: int
    neck_channels: int = 256
    levels: int = 4
    dtype: DTypeLike = jnp.float32
    norm: Callable = layers.batch_norm()
    readout: ClassVar[type] = Heatmaps

    @nn.compact
    def __call__(
        self, maps: Sequence[Float[Array, "b _ _ _"]], train: bool
    ) -> tuple[Float[Array, "b h w k"], dict[str, Array]]:
        _, height, width, _ = maps[0].shape
        factor = 2 ** (self.levels - 1)
        if height % factor or width % factor:
            raise UserError(
                f"head V2p: {self.levels} levels need maps whose sides are multiples of {factor}, "
                f"got {height}x{width} cells. Give fewer levels, or an image side in multiples of {4 * factor}."
            )
        level = Conv(self.neck_channels, size=1, use_bias=True, dtype=self.dtype, name="reduce")(_concatenated(maps))
        enlarged = []
        for i in range(self.levels):
            level = _halve(level) if i else level
            conv = Conv(self.neck_channels, use_bias=True, dtype=self.dtype, name=f"level{i}")
            enlarged.append(layers.upsample(conv(level), (height, width)))
        features = layers.activated(self.norm(use_running_average=not train, name="bn")(sum(enlarged)), nn.relu, train)
        return last_maps(self.num_points, self.dtype)(features), {"features": features}


def last_maps(channels: int, dtype: DTypeLike) -> Conv:
    """Returns a head's last layer, "final": a biased 1x1 convolution to float32 maps, whose first values are close to zero.

    Called inside the head's compact `__call__`, so that its parameters stand under the head. Maps are float32 even when the
    product's inputs are bfloat16: their peaks are compared to a fraction of a cell.
    """
    return Conv(
        channels,
        size=1,
        use_bias=True,
        dtype=dtype,
        output_dtype=jnp.float32,
        kernel_init=nn.initializers.normal(FINAL_STDDEV),
        name="final",
    )


def _concatenated(maps):
    size = maps[0].shape[1:3]
    return jnp.concatenate([layers.upsample(x, size) for x in maps], axis=-1)


def _halve(x):
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))
