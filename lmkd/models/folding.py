"""Batch norm folded into the convolutions before it: an inference network without norms.

    folded, weights = fold(model, variables)
    folded.apply(weights, image_u8)             # what model.apply(variables, image_u8) gives, to rounding

In evaluation mode a batch norm is y = a x + b a channel, with a = scale / sqrt(var + eps), b = bias - a mean (Ioffe & Szegedy
2015, arXiv 1502.03167, algorithm 2). The convolutions that make x take a into their kernels and biases; b alone is left.

Where a norm stands behind a sum of convolutions (heads V2p and Light) each of them takes a: what lies between, enlarging by
interpolation, commutes with a factor a channel. A norm that no rule of `FED_BY` knows keeps a and b, one multiply-add: no
statistics are left. Networks make their norms by the attribute `norm`; a norm made otherwise stays what it is.
"""

import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lmkd.models.landmarker import PARTS, Landmarker

# (name of the norm, names of the layers beside it that it normalises): the first rule that finds such layers holds.
FED_BY = (
    (r"bn(\d+)", r"deconv\1"),  # Deconvolutions, AnisotropicAttention
    ("bn", "pointwise"),  # SeparableConvNorm: before "depthwise", which it has too
    ("bn", "conv"),  # ConvNorm
    ("bn", "depthwise"),  # DepthwiseConvNorm
    ("bn", r"level\d+"),  # V2p
    ("bn", r"lateral\d+"),  # Light
)

Path = tuple[str, ...]


class Shift(nn.Module):
    """What is left of a batch norm: y = x + bias, or scale x + bias where its parameters have a "scale".

    Attributes:
      use_running_average: as `BatchNorm` has it; nothing depends on it.
      dtype: of the result.
    """

    use_running_average: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        shape = (x.shape[-1],)
        if self.has_variable("params", "scale"):
            x = x * self.param("scale", nn.initializers.ones, shape, jnp.float32).reshape(1, 1, 1, -1)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        return (x + bias.reshape(1, 1, 1, -1)).astype(self.dtype)


def fold(model: Landmarker, variables: Mapping[str, Any]) -> tuple[Landmarker, dict[str, Any]]:
    """Returns a landmarker without batch norms, and its variables; only evaluation mode makes sense of it.

    Args:
      model: the landmarker.
      variables: its "params" and "batch_stats".

    Returns:
      The folded landmarker and its variables, NumPy arrays in float32; "batch_stats" holds what was not folded, if anything.
    """
    params, statistics = (_flat(variables.get(part, {})) for part in ("params", "batch_stats"))
    parts = {}
    for name in PARTS:
        part = parts[name] = getattr(model, name)
        if not callable(getattr(part, "norm", None)):
            continue
        epsilon = part.norm(use_running_average=True).epsilon
        parts[name] = part.clone(norm=_shift)
        for path in [path[:-1] for path in statistics if path[0] == name and path[-1] == "var"]:
            factor = params.pop((*path, "scale")) / np.sqrt(statistics.pop((*path, "var")) + epsilon)
            params[*path, "bias"] = params[*path, "bias"] - factor * statistics.pop((*path, "mean"))
            _scale(feeding(path, params), factor, params, otherwise=(*path, "scale"))
    weights = {"params": _nested(params)} | ({"batch_stats": _nested(statistics)} if statistics else {})
    return model.clone(**parts), weights


def feeding(norm: Path, params: Mapping[Path, Any]) -> list[Path]:
    """Returns the paths of the layers whose (summed) output the norm at path `norm` normalises; none where no rule fits."""
    *scope, name = norm
    beside = sorted({path[len(scope)] for path in params if path[: len(scope)] == tuple(scope)})
    for of_norm, of_layers in FED_BY:
        matched = re.fullmatch(of_norm, name)
        if matched is None:
            continue
        wanted = matched.expand(of_layers) if matched.re.groups else of_layers
        layers = [x for x in beside if re.fullmatch(wanted, x)]
        if layers:
            return [(*scope, x) for x in layers]
    return []


def _shift(use_running_average: bool, name: str) -> Shift:
    return Shift(use_running_average, name=name)


def _scale(layers: list[Path], factor: np.ndarray, params: dict[Path, np.ndarray], *, otherwise: Path) -> None:
    """Multiplies the layers' kernels and biases by a factor a channel; without layers, keeps it at `otherwise`."""
    if not layers:
        params[otherwise] = factor
    for layer in layers:
        for path in ((*layer, "kernel"), (*layer, "bias")):
            if path in params:  # the last axis of every kernel is the output channel, a depthwise one's too
                params[path] = params[path] * factor


def _flat(tree: Mapping[str, Any], path: Path = ()) -> dict[Path, np.ndarray]:
    """Arrays by path, in float64: what is folded is rounded once."""
    found: dict[Path, np.ndarray] = {}
    for name, value in tree.items():
        here = (*path, name)
        found |= _flat(value, here) if isinstance(value, Mapping) else {here: np.asarray(value, np.float64)}
    return found


def _nested(flat: Mapping[Path, np.ndarray]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = np.asarray(value, np.float32)
    return tree
