"""The landmarker: pixels in, heatmaps and points out.

    model = Landmarker(HRNet(width=18), V2(num_points=98), Heatmaps(decode))
    variables = model.init(key, image_u8)
    heatmaps, landmarks_px, taps, confidence = model.apply(variables, image_u8)
    heatmaps, landmarks_px, confidence = predict(model, variables, image_u8, flip_permutation=scheme.flip)

Normalising the pixels is the model's first layer. `taps` is the only way a distillation term reaches inside.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Shaped

from lmkd.core.errors import unknown
from lmkd.models.readout import Coordinates, Heatmaps, Reading

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in a grey pixel (ITU-R BT.601, as OpenCV and Pillow have it)."""
COLOURS = ("rgb", "grey")
PARTS = ("backbone", "head")


class Outputs(NamedTuple):
    """What a landmarker returns.

    Attributes:
      heatmaps: float32 [b, h, w, K], one map a point, in cells of the model's stride; a coordinate model's are drawn.
      landmarks_px: float32 [b, K, 2], points (x, y) in crop pixels.
      taps: name -> feature map [b, h, w, c] in the compute dtype: the backbone's, the head's ("features", before its last
        layer), and "logits", what the head gave.
      confidence: float32 [b, K], in the decoder's own unit.
    """

    heatmaps: Array
    landmarks_px: Array
    taps: dict[str, Array]
    confidence: Array | None = None


class Landmarker(nn.Module):
    """Pixel normalisation, backbone, head and readout. Parameters stand under "backbone" and "head".

    Attributes:
      backbone: module (x [b, S, S, c], train) -> (maps from the highest resolution to the lowest, taps).
      head: module (maps, train) -> (raw: logits [b, h, w, K], or points [b, K, 2]; taps, "features" among them).
      readout: what is made of `raw`.
      mean: of the pixels, RGB in 0..255; ImageNet's by default.
      std: as `mean`.
      colour: "rgb", or "grey": one channel, the luma of normalised pixels.
      frozen: parts ("backbone", "head") that get no gradients and run in evaluation mode while the rest trains.
      dtype: of the normalised image; backbone and head have their own.
    """

    backbone: nn.Module
    head: nn.Module
    readout: Heatmaps | Coordinates
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    colour: str = "rgb"
    frozen: tuple[str, ...] = ()
    dtype: DTypeLike = jnp.float32

    @property
    def stride(self) -> int:
        """Crop pixels a heatmap cell."""
        return self.readout.stride

    def __call__(self, image: Shaped[Array | np.ndarray, "b s s 3"], train: bool = False) -> Outputs:
        """Runs the network.

        Args:
          image: RGB crops [b, S, S, 3], uint8 or float, 0..255.
          train: uses batch statistics and updates the running ones (collection "batch_stats"), but of frozen parts.

        Returns:
          `Outputs`.
        """
        maps, taps = self.backbone(self._normalised(image), train and "backbone" not in self.frozen)
        if "backbone" in self.frozen:
            maps, taps = jax.lax.stop_gradient((maps, taps))
        raw, of_head = self.head(maps, train and "head" not in self.frozen)
        with jax.named_scope("readout"):
            read = self.readout.read(raw, image.shape[1])
        return Outputs(read.heatmaps, read.landmarks_px, {**taps, **of_head, "logits": raw}, read.confidence)

    def _normalised(self, image):
        if self.colour not in COLOURS:
            raise unknown("colour", self.colour, COLOURS, "model.colour")
        mean, std = (np.reshape(np.asarray(v, np.float32), (1, 1, 1, 3)) for v in (self.mean, self.std))
        x = (jnp.asarray(image, jnp.float32) - mean) / std
        if self.colour == "grey":
            x = jnp.sum(x * np.reshape(np.asarray(LUMA, np.float32), (1, 1, 1, 3)), axis=-1, keepdims=True)
        return x.astype(self.dtype)


def predict(
    model: Landmarker,
    variables: dict,
    image: Shaped[Array | np.ndarray, "b s s 3"],
    *,
    flip_permutation: tuple[int, ...] | None = None,
) -> Reading:
    """Runs a landmarker in evaluation mode, with or without the flip test.

    Args:
      model: the landmarker.
      variables: its parameters and statistics.
      image: RGB crops [b, S, S, 3], uint8 or float, 0..255.
      flip_permutation: K indices, the point that stands at i after a mirroring (`Scheme.flip`). What the readout makes of
        the image and of its mirror is averaged: heatmaps before they are decoded, or points. None runs the image alone.

    Returns:
      Heatmaps float32 [b, h, w, K], points [b, K, 2] in crop pixels, confidences [b, K].
    """
    if flip_permutation is None:
        return _read(model.apply(variables, image))
    both = _read(model.apply(variables, jnp.concatenate([image, image[:, :, ::-1]])))
    straight, mirrored = (Reading(*parts) for parts in zip(*(jnp.split(x, 2) for x in both), strict=True))
    return model.readout.averaged(straight, mirrored, flip_permutation, image.shape[1])


def _read(outputs) -> Reading:
    return Reading(outputs.heatmaps, outputs.landmarks_px, outputs.confidence)
