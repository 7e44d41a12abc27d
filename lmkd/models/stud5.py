"""Stud5: five plain blocks, the student of compact landmark distillation.

    backbone = Stud5()                         # 3,912,576 parameters on grey images
    maps, taps = backbone.apply(variables, image, train=False)

Shukla & Huang 2021: each block is one biased 3x3 convolution, batch norm, ReLU and 2x2 max pooling. With global pooling and
a dense layer of 136 outputs the paper counts 3,982,344 parameters, which this backbone has to the last one.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lmkd.models import layers
from lmkd.models.layers import ConvNorm


class Stud5(nn.Module):
    """The Stud5 backbone. The input's channels are free: 1 in the paper.

    Attributes:
      widths: channels of the five blocks.
      dtype: of the computation.
      norm: constructor from `layers.batch_norm`, of the same dtype.
    """

    widths: tuple[int, int, int, int, int] = (64, 128, 256, 512, 512)
    dtype: DTypeLike = jnp.float32
    norm: Callable = layers.batch_norm()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> tuple[tuple, dict]:
        """Runs the backbone.

        Args:
          x: images [b, S, S, c], normalised.
          train: uses and updates batch statistics (collection "batch_stats").

        Returns:
          The outputs of blocks 2 to 5, [b, S/4, S/4, 128] to [b, S/32, S/32, 512], and the taps by name: "stem" (block 1, at
          1/2) and "stage1" to "stage4", the maps.
        """
        policy: dict[str, Any] = {"dtype": self.dtype, "norm": self.norm}
        taps = {}
        for n, width in enumerate(self.widths):
            name = f"stage{n}" if n else "stem"
            x = ConvNorm(width, use_bias=True, name=name, **policy)(x, train)
            x = taps[name] = layers.max_pool(x, 2)
        return tuple(taps[f"stage{n}"] for n in (1, 2, 3, 4)), taps
