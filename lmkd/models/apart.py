"""Keeps XLA on CPU from computing an array again wherever it is read.

    @apart
    def turned(x):
        return jnp.transpose(x, (3, 1, 2, 0))

    y = relu(x)                                     # while training

XLA's fusion on CPU repeats element-wise operations inside each of their readers, however long the chain that leads there: a
residual block's output is computed anew from all blocks before it, once a reader, and a weight gradient's transposing copy
reads twenty arrays crosswise although the one it needs lies there already. `optimization_barrier` is taken away before fusion;
a call that may not be inlined is not, so what goes into it and what comes out exists once. Elsewhere, where a compiler chooses
its fusions well and needs to see the whole program, nothing is changed. Values are the same.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Array, Float


def apart(function: Callable[..., Any], *, here: bool = False) -> Callable[..., Any]:
    """Returns `function` of arrays as a computation of its own on CPU, and as it is elsewhere.

    Leave convolutions out of it: XLA on CPU rewrites them for its fast library in the outermost computation alone.

    Args:
      function: of pytrees of arrays.
      here: this process's devices decide, not the platform that is compiled for. A large function is then traced once, and not
        for every platform.
    """
    traced_once = jax.jit(function)  # for all arguments of one shape

    def on_cpu(*arguments: Any) -> Any:
        with set_xla_metadata(inlineable="false"):
            return traced_once(*arguments)

    def call(*arguments: Any) -> Any:
        if here:
            return (on_cpu if jax.default_backend() == "cpu" else function)(*arguments)
        return jax.lax.platform_dependent(*arguments, cpu=on_cpu, default=function)

    return call


@apart
def _kept_relu(x):
    return jnp.maximum(x, 0)


@jax.custom_vjp
def relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`jax.nn.relu`, whose result is kept and tells its gradient (0 at 0) which elements were positive."""
    return _kept_relu(x)


def _forward(x):
    y = _kept_relu(x)
    return y, y


def _backward(y, dy):
    return (jnp.where(y > 0, dy, jnp.zeros_like(dy)),)


relu.defvjp(_forward, _backward)
