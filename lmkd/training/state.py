"""The training state: everything that a step changes and a checkpoint keeps."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax


@flax.struct.dataclass
class TrainState:
    """State of one stage.

    Attributes:
      step: int32 [], optimiser updates done.
      params: float32 parameters of the network.
      batch_stats: float32 running statistics of its batch norms.
      opt_state: state of the Optax transform.
      ema: None, or {"params", "batch_stats"} averaged over steps.
      key: typed PRNG key; a step's randomness is this key folded with `step`.
    """

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any
    key: Any


def create(variables: Any, optimizer: optax.GradientTransformation, *, seed: int, ema: bool) -> TrainState:
    """Returns the state before the first step."""
    params, stats = variables["params"], variables.get("batch_stats", {})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=stats,
        opt_state=optimizer.init(params),
        # A copy: a donated buffer may not appear twice in the state.
        ema=jax.tree.map(jnp.copy, {"params": params, "batch_stats": stats}) if ema else None,
        key=jax.random.key(seed),
    )


def inference_variables(state: TrainState) -> dict[str, Any]:
    """Returns the variables to predict with: the average where one is kept, else the current ones."""
    if state.ema is not None:
        return dict(state.ema)
    return {"params": state.params, "batch_stats": state.batch_stats}
