"""Optax transforms and learning-rate schedules by name, with named arguments only."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from lmkd.training import vectors

OPTIMISERS = ("adamw", "adam", "sgd")
SCHEDULES = ("cosine", "step", "constant")


def schedule(
    kind: str,
    *,
    learning_rate: float,
    total_steps: int,
    warmup_steps: int,
    boundaries: tuple[int, ...] = (),
    factor: float = 0.1,
    final_fraction: float = 0.0,
) -> Callable[[Any], Any]:
    """Returns step -> learning rate: linear warm-up from 0, then cosine, steps or constant.

    Args:
      kind: one of `SCHEDULES`.
      boundaries: steps at which "step" multiplies the rate by `factor`.
      final_fraction: "cosine" ends at this fraction of `learning_rate`.
    """
    if kind == "cosine":
        main = optax.cosine_decay_schedule(learning_rate, max(total_steps - warmup_steps, 1), final_fraction)
    elif kind == "step":
        main = optax.piecewise_constant_schedule(learning_rate, {max(b - warmup_steps, 0): factor for b in boundaries})
    elif kind == "constant":
        main = optax.constant_schedule(learning_rate)
    else:
        raise ValueError(f"schedule {kind!r} is not one of {SCHEDULES}")
    # The first update already moves: the rate at step 0 is 1 / warmup_steps of the full one.
    warm = optax.linear_schedule(learning_rate / max(warmup_steps, 1), learning_rate, max(warmup_steps - 1, 1))
    return optax.join_schedules([warm, main], [warmup_steps]) if warmup_steps else main


def optimiser(
    name: str,
    rate: Callable[[Any], Any],
    *,
    weight_decay: float,
    clip_norm: float,
    momentum: float,
    b2: float,
) -> optax.GradientTransformation:
    """Returns clipping (0 for none) and the named optimiser in one transform of `vectors.joined` parameters.

    Weight decay (decoupled, AdamW; L2 in the gradient for SGD) leaves out one-dimensional parameters: norms and biases.
    """
    if name == "adamw":
        main = optax.adamw(rate, b1=momentum, b2=b2, weight_decay=weight_decay, mask=vectors.are_kernels)
    elif name == "adam":
        main = optax.adam(rate, b1=momentum, b2=b2)
    elif name == "sgd":
        main = optax.chain(
            optax.add_decayed_weights(weight_decay, mask=vectors.are_kernels),
            optax.sgd(rate, momentum=momentum or None, nesterov=momentum > 0),
        )
    else:
        raise ValueError(f"optimiser {name!r} is not one of {OPTIMISERS}")
    return optax.chain(optax.clip_by_global_norm(clip_norm), main) if clip_norm > 0 else main


def sparing(transform: optax.GradientTransformation, parts: tuple[str, ...]) -> optax.GradientTransformation:
    """Returns the transform for parameters of which those under the top-level names `parts` rest: their gradients count in no
    norm, and nothing, weight decay included, changes them."""
    if not parts:
        return transform

    def frozen(params: Any) -> Any:
        return {name: jax.tree.map(lambda _, name=name: name in parts, part) for name, part in params.items()}

    resting = optax.masked(optax.set_to_zero(), frozen)
    return optax.chain(resting, transform, resting)
