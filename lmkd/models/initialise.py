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

_CONSTANT = {"scale": 1.0, "var": 1.0, "bias": 0.0, "mean": 0.0}


def initial_variables(model: nn.Module, side_px: int, *, seed: int) -> dict[str, Any]:
    """Returns {"params", "batch_stats"} of float32 NumPy arrays for crops of `side_px`.

    Kernels are He-normal by fan-out (He et al. 2015, arXiv 1502.01852, equation 14), the heads' last one N(0, 0.001); norms
    start at scale 1, bias 0, mean 0, variance 1.

    Raises:
      ValueError: a parameter's name has no rule here.
    """
    image = jax.ShapeDtypeStruct((1, side_px, side_px, 3), jnp.uint8)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    return jax.tree_util.tree_map_with_path(lambda path, leaf: _draw(path, leaf, seed), dict(shapes))


def _draw(path: Any, leaf: Any, seed: int) -> np.ndarray:
    names = [entry.key for entry in path]
    if names[-1] in _CONSTANT:
        return np.full(leaf.shape, _CONSTANT[names[-1]], np.float32)
    if names[-1] != "kernel":
        raise ValueError(f"no rule for the first value of parameter {'/'.join(names)}: add one to {__name__}")
    fan_out = int(np.prod(leaf.shape[:-2])) * leaf.shape[-1]
    stddev = FINAL_STDDEV if names[-2] == "final" else np.sqrt(2.0 / fan_out)
    rng = np.random.default_rng([seed, zlib.crc32("/".join(names).encode())])
    return (stddev * rng.standard_normal(leaf.shape)).astype(np.float32)
