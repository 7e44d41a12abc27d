"""A network's first variables, drawn with NumPy by each parameter's own name.

`model.init` would do, but compiling its hundreds of random draws takes XLA minutes on a laptop, and what it draws depends on
the order of the layers. Here each tensor has a generator of its own, from the seed and its name: no compilation, and a layer
keeps its first weights when another one is added. The distributions are those of the modules' own initialisers.
"""

import zlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lmkd.models.heads import FINAL_STDDEV

_CONSTANT = {"scale": 1.0, "var": 1.0, "bias": 0.0, "mean": 0.0, "sigma": 1.0}
_CONSTANT |= {"logit_scale": float(np.log(10.0)), "q_bias": 0.0, "v_bias": 0.0}  # Swin V2's attention


def initial_variables(model: nn.Module, side_px: int, *, seed: int) -> dict[str, Any]:
    """Returns {"params", "batch_stats"} of float32 NumPy arrays for crops of `side_px`.

    Kernels are He-normal by fan-out (He et al. 2015, arXiv 1502.01852, equation 14), the heads' last one N(0, 0.001);
    layers named "depthwise" have a fan-out of 9 a channel; norms start at scale 1, bias 0, mean 0, variance 1; norms
    after a residual branch, named "post_...", at scale 0 (Liu et al. 2022, arXiv 2111.09883). Deviation: Swin V2's own
    dense kernels start from a truncated normal of 0.02.

    Raises:
      ValueError: a parameter's name has no rule here.
    """
    return drawn(shapes(model, side_px), seed=seed)


def shapes(model: nn.Module, side_px: int) -> dict[str, Any]:
    """Returns {"params", "batch_stats"} of shapes for crops of `side_px`; nothing is computed."""
    image = jax.ShapeDtypeStruct((1, side_px, side_px, 3), jnp.uint8)
    return dict(jax.eval_shape(model.init, jax.random.key(0), image))


def drawn(shapes: Any, *, seed: int) -> Any:
    """Returns the pytree of dicts with each leaf's shape filled by the rule for its name.

    Beyond a network's own: spectral norms (flax's `nn.SpectralNorm`) start at u from N(0, 1), sigma 1.
    """
    return jax.tree_util.tree_map_with_path(lambda path, leaf: _draw(path, leaf, seed), shapes)


def _draw(path: Any, leaf: Any, seed: int) -> np.ndarray:
    names = [entry.key for entry in path]
    rng = np.random.default_rng([seed, zlib.crc32("/".join(names).encode())])
    kind = names[-1].rpartition("/")[2]  # nn.SpectralNorm's own are "<layer>/kernel/u" and "<layer>/kernel/sigma", each one key
    if kind == "scale" and names[-2].startswith("post_"):
        return np.zeros(leaf.shape, np.float32)
    if kind in _CONSTANT:
        return np.full(leaf.shape, _CONSTANT[kind], np.float32)
    if kind == "u":
        return rng.standard_normal(leaf.shape).astype(np.float32)
    if kind != "kernel":
        raise ValueError(f"no rule for the first value of parameter {'/'.join(names)}: add one to {__name__}")
    # Each channel of a depthwise kernel [3, 3, 1, c] is a network of its own: c is no part of its fan-out.
    fan_out = int(np.prod(leaf.shape[:-2])) * (1 if names[-2] == "depthwise" else leaf.shape[-1])
    stddev = FINAL_STDDEV if names[-2] == "final" else np.sqrt(2.0 / fan_out)
    return (stddev * rng.standard_normal(leaf.shape)).astype(np.float32)
