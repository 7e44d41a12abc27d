"""A layer's own parameters, found without tracing how they begin.

kernel = parameter(self, "kernel", he_normal, (3, 3, 16, 32))      # inside a compact __call__
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import ScopeParamShapeError


def parameter(module: nn.Module, name: str, initialiser: Callable, shape: tuple[int, ...]) -> jax.Array | np.ndarray:
    """Returns `module.param(name, initialiser, shape, jnp.float32)`.

    Flax traces the initialiser at every call to compare its shape with that of the parameter which is there: a fifth of what
    tracing HRNet-W18's training step took. The shape is known here.

    Raises:
      ScopeParamShapeError: as `module.param`, the parameter has another shape.
    """
    if not module.has_variable("params", name):
        return module.param(name, initialiser, shape, jnp.float32)
    value: jax.Array | np.ndarray = module.get_variable("params", name)
    if value.shape != shape:
        raise ScopeParamShapeError(name, "/".join(module.path), value.shape, shape)
    return value
