"""THE exported function: uint8 crops in; points, heatmaps and confidence out.

    graph = of(model, variables, image_px=96, flip=None)
    graph.run(crops_u8)["landmarks_px"]                      # [b, K, 2], (x, y) in crop pixels

Normalising the pixels and decoding the heatmaps are inside, since that is where users of exported files lose pixels; so is the
flip test where it is asked for. Batch norms are folded (`lmkd.models.folding`).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from lmkd.models import folding, landmarker
from lmkd.models.landmarker import Landmarker
from lmkd.models.layers import DepthwiseConv
from lmkd.models.readout import Reading

INPUT = "crops"
OUTPUTS = Reading._fields
"""Names of the outputs, in the order in which a file without names for them has them."""


class Graph(NamedTuple):
    """What is exported.

    Attributes:
      model: the landmarker, its norms folded.
      variables: its weights, NumPy float32.
      image_px: S, side of the input.
      flip: the scheme's flip permutation where crops are also run mirrored and averaged; None runs them once.
    """

    model: Landmarker
    variables: dict[str, Any]
    image_px: int
    flip: tuple[int, ...] | None

    def run(self, crops: Shaped[Array | np.ndarray, "b s s 3"], *, grouped: bool = False) -> dict[str, Array]:
        """Runs the network on crops uint8 [b, S, S, 3] and returns its outputs by name.

        Args:
          crops: uint8 RGB.
          grouped: writes depthwise convolutions as one grouped convolution, which other runtimes have a fast one of.
        """
        weights = jax.tree.map(jnp.asarray, self.variables)
        predict = functools.partial(landmarker.predict, self.model, weights, crops, flip_permutation=self.flip)
        if not grouped:
            return predict()._asdict()
        with nn.intercept_methods(_grouped_depthwise):
            return predict()._asdict()


def of(model: Landmarker, variables: Mapping[str, Any], *, image_px: int, flip: tuple[int, ...] | None) -> Graph:
    """Returns the graph of a landmarker; `flip` is its scheme's flip permutation, or None."""
    return Graph(*folding.fold(model, variables), image_px, flip)


def reading(outputs: Mapping[str, Any]) -> Reading:
    """Returns a runtime's outputs by name as a `Reading` of NumPy arrays."""
    arrays: list[Any] = [np.asarray(outputs[name]) for name in OUTPUTS]
    return Reading(*arrays)


def _grouped_depthwise(next_function: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
    layer = context.module
    if not isinstance(layer, DepthwiseConv) or context.method_name != "__call__":
        return next_function(*args, **kwargs)
    (x,) = args
    channels, border = x.shape[-1], layer.size // 2
    return jax.lax.conv_general_dilated(
        x,
        jnp.asarray(layer.get_variable("params", "kernel")),
        window_strides=(layer.stride, layer.stride),
        padding=[(border, border)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
    )
