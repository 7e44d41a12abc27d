"""The landmarker: pixels in, heatmaps and points out.

    model = Landmarker(HRNet(width=18), V2(num_points=98), decode=decode)
    variables = model.init(key, image_u8)
    heatmaps, landmarks_px, taps = model.apply(variables, image_u8)
    heatmaps, landmarks_px, confidence = predict(model, variables, image_u8, flip_permutation=scheme.flip)

Normalising the pixels is the model's first layer. `taps` is the only way a distillation term reaches inside.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped

from lmkd.ops.heatmaps import px_from_cells

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


class Outputs(NamedTuple):
    """What a landmarker returns.

    Attributes:
      heatmaps: float32 [b, h, w, K], one map a point, in cells of the model's stride.
      landmarks_px: float32 [b, K, 2], decoded points (x, y) in crop pixels.
      taps: name -> feature map [b, h, w, c] in the compute dtype: the backbone's, and "features" before the last layer.
    """

    heatmaps: Array
    landmarks_px: Array
    taps: dict[str, Array]


class Landmarker(nn.Module):
    """Pixel normalisation, backbone, head and decoder. Parameters stand under "backbone" and "head".

    Attributes:
      backbone: module (x [b, S, S, 3], train) -> (maps from the highest resolution to the lowest, taps).
      head: module (maps, train) -> (heatmaps float32 [b, h, w, K], features).
      decode: heatmaps -> (points_cells [b, K, 2] as (x, y), confidence [b, K]).
      stride: crop pixels a heatmap cell.
      mean: of the pixels, RGB in 0..255; ImageNet's by default.
      std: as `mean`.
      dtype: of the normalised image; backbone and head have their own.
      softmax_sigma_cells: None leaves the head's maps as they are. A number takes them as logits: the heatmaps become
        their softmax over positions times 2 pi sigma^2, so that a Gaussian of this sigma still has peak 1 and decoders,
        targets and distillation terms see one kind of map. The tap "logits" has the head's maps either way.
    """

    backbone: nn.Module
    head: nn.Module
    decode: Callable
    stride: int = 4
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    dtype: DTypeLike = jnp.float32
    softmax_sigma_cells: float | None = None

    def __call__(self, image: Shaped[Array | np.ndarray, "b s s 3"], train: bool = False) -> Outputs:
        """Runs the network.

        Args:
          image: RGB crops [b, S, S, 3], uint8 or float, 0..255.
          train: uses batch statistics and updates the running ones (collection "batch_stats").

        Returns:
          `Outputs`.
        """
        mean, std = (np.reshape(np.asarray(v, np.float32), (1, 1, 1, 3)) for v in (self.mean, self.std))
        x = (jnp.asarray(image, jnp.float32) - mean) / std
        maps, taps = self.backbone(x.astype(self.dtype), train)
        logits, features = self.head(maps, train)
        heatmaps = logits
        if self.softmax_sigma_cells is not None:
            heatmaps = nn.softmax(logits, axis=(1, 2)) * (2 * np.pi * self.softmax_sigma_cells**2)
        landmarks_px, _ = self.points(heatmaps)
        return Outputs(heatmaps, landmarks_px, {**taps, "features": features, "logits": logits})

    def points(self, heatmaps: Float[Array, "b h w k"]) -> tuple[Float[Array, "b k 2"], Float[Array, "b k"]]:
        """Decodes heatmaps into points [b, K, 2] in crop pixels and confidences [b, K]."""
        points_cells, confidence = self.decode(heatmaps)
        return px_from_cells(points_cells, self.stride), confidence


def predict(
    model: Landmarker,
    variables: dict,
    image: Shaped[Array | np.ndarray, "b s s 3"],
    *,
    flip_permutation: tuple[int, ...] | None = None,
) -> tuple[Float[Array, "b h w k"], Float[Array, "b k 2"], Float[Array, "b k"]]:
    """Runs a landmarker in evaluation mode, with or without the flip test.

    Args:
      model: the landmarker.
      variables: its parameters and statistics.
      image: RGB crops [b, S, S, 3], uint8 or float, 0..255.
      flip_permutation: K indices, the point that stands at i after a mirroring (`Scheme.flip`). The heatmaps of the
        image and of its mirror (mirrored back) are averaged before they are decoded. None runs the image alone.

    Returns:
      Heatmaps float32 [b, h, w, K], points [b, K, 2] in crop pixels, confidences [b, K].
    """
    if flip_permutation is None:
        heatmaps = _heatmaps(model, variables, image)
    else:
        both = jnp.concatenate([image, image[:, :, ::-1]])
        straight, mirrored = jnp.split(_heatmaps(model, variables, both), 2)
        # No one-cell shift, unlike the published flip tests: here pixel x goes to S - 1 - x, and cell u, whose centre
        # is pixel s (u + 0.5) - 0.5, goes to S - 1 - (s (u + 0.5) - 0.5) = s ((w - 1 - u) + 0.5) - 0.5: exactly the
        # centre of cell w - 1 - u. The shift of other codes makes up for cells that they place at pixel s u.
        unmirrored = jnp.take(mirrored[:, :, ::-1], np.asarray(flip_permutation), axis=-1)
        heatmaps = (straight + unmirrored) / 2
    return heatmaps, *model.points(heatmaps)


def _heatmaps(model, variables, image):
    return model.apply(variables, image).heatmaps
