"""Readouts: what a head gives becomes heatmaps, points and confidence. The only place that knows heatmaps from coordinates.

    reading = Heatmaps(decode).read(logits, side_px=256)      # a head that draws maps [b, h, w, K]
    reading = Coordinates().read(fractions, side_px=256)      # a head that gives points [b, K, 2]

A head names its readout (class attribute `readout`). Terms, critics, evaluation, export and prediction see `Reading` alone.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from lmkd.ops.heatmaps import encode, px_from_cells


class Reading(NamedTuple):
    """What a readout makes of a head's output.

    Attributes:
      heatmaps: float32 [b, h, w, K], one map a point, in cells of the readout's stride.
      landmarks_px: float32 [b, K, 2], points (x, y) in crop pixels.
      confidence: float32 [b, K], in the decoder's own unit.
    """

    heatmaps: Array
    landmarks_px: Array
    confidence: Array


@dataclasses.dataclass(frozen=True)
class Heatmaps:
    """Reads points off maps. Gradients flow through the maps alone.

    Attributes:
      decode: heatmaps -> (points_cells [b, K, 2] as (x, y), confidence [b, K]).
      stride: crop pixels a heatmap cell.
      softmax_sigma_cells: None leaves the head's maps as they are. A number takes them as logits: the heatmaps become
        their softmax over positions times 2 pi sigma^2, so that a Gaussian of this sigma still has peak 1 and decoders,
        targets and distillation terms see one kind of map.
    """

    decode: Callable
    stride: int = 4
    softmax_sigma_cells: float | None = None

    @classmethod
    def of(cls, *, sigma_cells: float, decode: Callable, softmax: bool) -> "Heatmaps":
        """Builds the readout from what an experiment says of heatmaps."""
        return cls(decode, softmax_sigma_cells=sigma_cells if softmax else None)

    def read(self, raw: Float[Array, "b h w k"], side_px: int) -> Reading:
        """Decodes a head's maps."""
        if self.softmax_sigma_cells is None:
            return self._decoded(raw)
        return self._decoded(nn.softmax(raw, axis=(1, 2)) * (2 * np.pi * self.softmax_sigma_cells**2))

    def averaged(self, straight: Reading, mirrored: Reading, flip: tuple[int, ...], side_px: int) -> Reading:
        """Averages the heatmaps of an image and of its mirror (points renamed by `flip`), then decodes."""
        # No one-cell shift, unlike the published flip tests: here pixel x goes to S - 1 - x, and cell u, whose centre
        # is pixel s (u + 0.5) - 0.5, goes to S - 1 - (s (u + 0.5) - 0.5) = s ((w - 1 - u) + 0.5) - 0.5: exactly the
        # centre of cell w - 1 - u. The shift of other codes makes up for cells that they place at pixel s u.
        unmirrored = jnp.take(mirrored.heatmaps[:, :, ::-1], np.asarray(flip), axis=-1)
        return self._decoded((straight.heatmaps + unmirrored) / 2)

    def _decoded(self, heatmaps) -> Reading:
        # Decoders are made for reading, not for training: most have no gradient, DARK's can be infinite.
        cells, confidence = jax.lax.stop_gradient(self.decode(heatmaps))
        return Reading(heatmaps, px_from_cells(cells, self.stride), confidence)


@dataclasses.dataclass(frozen=True)
class Coordinates:
    """Takes points as they come, gradients too; its heatmaps are Gaussians drawn at them, for whoever looks at maps.

    Attributes:
      sigma_cells: of the drawn Gaussians.
      stride: crop pixels a heatmap cell.
    """

    sigma_cells: float = 1.5
    stride: int = 4

    @classmethod
    def of(cls, *, sigma_cells: float, decode: Callable, softmax: bool) -> "Coordinates":
        """Builds the readout from what an experiment says of heatmaps: points need no decoder."""
        return cls(sigma_cells)

    def read(self, raw: Float[Array, "b k 2"], side_px: int) -> Reading:
        """Turns points from fractions of the crop, (0, 0) at its centre, into pixels. Confidence is 1: there is none."""
        return self._drawn((raw + 0.5) * side_px - 0.5, side_px)

    def averaged(self, straight: Reading, mirrored: Reading, flip: tuple[int, ...], side_px: int) -> Reading:
        """Averages the points of an image and of its mirror (points renamed by `flip`)."""
        points = jnp.take(mirrored.landmarks_px, np.asarray(flip), axis=1)
        unmirrored = jnp.stack([side_px - 1 - points[..., 0], points[..., 1]], axis=-1)
        return self._drawn((straight.landmarks_px + unmirrored) / 2, side_px)

    def _drawn(self, points_px, side_px: int) -> Reading:
        grid = (side_px // self.stride,) * 2
        ones = jnp.ones(points_px.shape[:2], jnp.float32)
        maps = encode(points_px, ones, grid=grid, stride=self.stride, sigma_cells=self.sigma_cells)
        return Reading(maps, points_px, ones)
