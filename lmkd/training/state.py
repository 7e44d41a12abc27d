"""The training state: everything that a step changes and a checkpoint keeps."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lmkd.distill.base import TermVariables
from lmkd.training import vectors


class Optimizers(NamedTuple):
    """One Optax transform a group, each clipping inside its group; every critic is a group of its own."""

    student: optax.GradientTransformation
    adapters: optax.GradientTransformation
    critics: optax.GradientTransformation


@flax.struct.dataclass
class TrainState:
    """State of one stage.

    Attributes:
      step: int32 [], updates of the student done.
      params: float32 parameters of the network.
      batch_stats: float32 running statistics of its batch norms.
      terms: term name -> `TermVariables` of the terms that own some: adapters, critics, states.
      opt_state: {"student", "adapters", "critics": {term name: ...}}, states of the Optax transforms, whose moments are
        vectors (`lmkd.training.vectors`).
      ema: None, or {"params", "batch_stats"} averaged over steps.
      key: typed PRNG key; a step's randomness is this key folded with `step`.
    """

    step: Any
    params: Any
    batch_stats: Any
    terms: dict[str, TermVariables]
    opt_state: dict[str, Any]
    ema: Any
    key: Any


def create(
    variables: Any, optimizers: Optimizers, *, seed: int, ema: bool, terms: Mapping[str, TermVariables] | None = None
) -> TrainState:
    """Returns the state before the first step."""
    params, stats, terms = variables["params"], variables.get("batch_stats", {}), dict(terms or {})
    opt_state = jax.jit(functools.partial(_opt_state, optimizers))(params, adapters(terms), critics(terms))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=stats,
        terms=terms,
        opt_state=opt_state,
        # A copy: a donated buffer may not appear twice in the state.
        ema=jax.tree.map(np.array, {"params": params, "batch_stats": stats}) if ema else None,
        key=jax.random.key(seed),
    )


def _opt_state(optimizers: Optimizers, params, adapters, critics) -> dict[str, Any]:
    return {
        "student": optimizers.student.init(vectors.joined(params)),
        "adapters": optimizers.adapters.init(vectors.joined(adapters)),
        "critics": {name: optimizers.critics.init(joined_critic(critic)) for name, critic in critics.items()},
    }


def joined_critic(critic: Any) -> dict[str, Any]:
    """Returns a critic as vectors: one part, whose layers nobody holds apart."""
    return vectors.joined({"critic": critic})


def with_moments(state: TrainState, change: Callable[[Any, Any, vectors.Join], Any]) -> TrainState:
    """Returns the state with change(an optimiser's state, the parameters it is of, how these are joined) for each optimiser."""
    kept = state.opt_state
    changed = {
        "student": change(kept["student"], state.params, vectors.joined),
        "adapters": change(kept["adapters"], adapters(state.terms), vectors.joined),
        "critics": {
            name: change(kept["critics"][name], critic, joined_critic) for name, critic in critics(state.terms).items()
        },
    }
    return dataclasses.replace(state, opt_state=changed)


def adapters(terms: Mapping[str, TermVariables]) -> dict[str, Any]:
    """The adapters' parameters by term: one group."""
    return {name: own.adapter for name, own in terms.items() if own.adapter}


def critics(terms: Mapping[str, TermVariables]) -> dict[str, Any]:
    """The critics' parameters by term: each its own group."""
    return {name: own.critic for name, own in terms.items() if own.critic}


def with_parts(terms: Mapping[str, TermVariables], **parts: Mapping[str, Any]) -> dict[str, TermVariables]:
    """Returns the terms' variables with some replaced: with_parts(terms, critic={"adversarial": ...})."""
    new = dict(terms)
    for part, by_name in parts.items():
        new |= {name: new[name]._replace(**{part: value}) for name, value in by_name.items()}
    return new


def inference_variables(state: TrainState) -> dict[str, Any]:
    """Returns the variables to predict with: the average where one is kept, else the current ones."""
    if state.ema is not None:
        return dict(state.ema)
    return {"params": state.params, "batch_stats": state.batch_stats}
