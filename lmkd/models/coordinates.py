"""Coordinate head: global pooling and one dense layer, from the lowest map to points.

points, taps = Pooled(num_points=68).apply(variables, maps, train=False)
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lmkd.models import layers
from lmkd.models.readout import Coordinates


class Pooled(nn.Module):
    """Global average pooling of the lowest map and a dense layer to 2 K numbers: points as fractions of the crop.

    (0, 0) is the crop's centre and 1 its side, so that first points, close to zero, lie in its middle.

    Attributes:
      num_points: K.
      dtype: of the computation; points are float32.
      norm: unused, there is nothing to normalise.
    """

    num_points: int
    dtype: DTypeLike = jnp.float32
    norm: Callable = layers.batch_norm()
    readout: ClassVar[type] = Coordinates

    @nn.compact
    def __call__(self, maps: Sequence[Float[Array, "b _ _ _"]], train: bool) -> tuple[Float[Array, "b k 2"], dict[str, Array]]:
        features = maps[-1]
        pooled = jnp.mean(features.astype(jnp.float32), axis=(1, 2))
        dense = nn.Dense(2 * self.num_points, kernel_init=nn.initializers.normal(0.01), name="final")
        return dense(pooled).reshape(-1, self.num_points, 2), {"features": features}
