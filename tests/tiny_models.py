"""Landmarkers small enough to compile in a moment."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from lmkd.models import layers
from lmkd.models.landmarker import Landmarker
from lmkd.models.readout import Heatmaps
from lmkd.ops import heatmaps


class TinyBackbone(nn.Module):
    """Two strided convolutions; a batch norm where `norm` is set."""

    norm: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(4, (3, 3), (2, 2))(x)
        x = nn.BatchNorm(use_running_average=not train, axis_name=self.axis_name)(x) if self.norm else x
        return [nn.Conv(4, (3, 3), (2, 2))(nn.tanh(x))], {}


class TinyHead(nn.Module):
    """A 1x1 convolution to `points` maps."""

    points: int = 3

    @nn.compact
    def __call__(self, maps, train):
        return nn.Conv(self.points, (1, 1))(maps[0]), {"features": maps[0]}


def tiny(norm: bool = False, axis_name: str | None = None, *, points: int = 3) -> Landmarker:
    """Returns a landmarker of stride 4."""
    return Landmarker(TinyBackbone(norm, axis_name), TinyHead(points), Heatmaps(lambda h: heatmaps.argmax(h, sigma_cells=1.0)))


class PatchBackbone(nn.Module):
    """A single strided convolution, with the options that a config's backbone takes: stages compile in a moment."""

    width: int = 4
    dtype: DTypeLike = jnp.float32
    norm: Callable = layers.batch_norm()

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(self.width, (4, 4), (4, 4), use_bias=False, dtype=self.dtype)(x)
        return [self.norm(use_running_average=not train, name="bn")(x)], {}
