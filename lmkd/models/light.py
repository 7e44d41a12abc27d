"""A light heatmap head for plain baselines: four laterals, one sum.

head = Light(num_points=98, channels=64)
logits, taps = head.apply(variables, maps, train=False)
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lmkd.models import layers
from lmkd.models.heads import last_maps
from lmkd.models.layers import Conv
from lmkd.models.readout import Heatmaps


class Light(nn.Module):
    """1x1 laterals of every map to `channels`, enlarged to the highest resolution, summed, batch norm and ReLU, 1x1.

    Ours: the top-down sum of a feature pyramid (Lin et al. 2017, arXiv 1612.03144, section 3) without its 3x3 convolutions, so
    that a baseline is its backbone and next to nothing else. Maps are enlarged after their lateral, which costs the least.

    Attributes:
      num_points: K.
      channels: of the laterals and their sum.
    """

    num_points: int
    channels: int = 64
    dtype: DTypeLike = jnp.float32
    norm: Callable = layers.batch_norm()
    readout: ClassVar[type] = Heatmaps

    @nn.compact
    def __call__(
        self, maps: Sequence[Float[Array, "b _ _ _"]], train: bool
    ) -> tuple[Float[Array, "b h w k"], dict[str, Array]]:
        size = maps[0].shape[1], maps[0].shape[2]
        laterals = [Conv(self.channels, size=1, dtype=self.dtype, name=f"lateral{n}")(x) for n, x in enumerate(maps, 1)]
        summed: Any = sum(layers.upsample(x, size) for x in laterals)
        features = layers.activated(self.norm(use_running_average=not train, name="bn")(summed), nn.relu, train)
        return last_maps(self.num_points, self.dtype)(features), {"features": features}
