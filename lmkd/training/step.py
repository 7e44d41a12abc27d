"""THE train step. Teachers, students and everything else train through this one function, under one parallel map."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lmkd.distill.base import TermInputs
from lmkd.distill.recipe import Recipe
from lmkd.models.landmarker import Landmarker
from lmkd.ops import heatmaps as codec
from lmkd.training.parallel import AXIS
from lmkd.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """What the step needs to know besides its objects.

    Attributes:
      sigma_cells: sigma of the drawn targets, in heatmap cells.
      micro_batches: gradient accumulation: a device's share comes as [micro_batches, b, ...] and makes one update.
      ema_decay: decay of the parameter average (0: none is kept).
      local_norm: batch norms use each device's own statistics; the running ones are averaged before they are returned.
    """

    sigma_cells: float
    micro_batches: int = 1
    ema_decay: float = 0.0
    local_norm: bool = False


def make_train_step(
    model: Landmarker, recipe: Recipe, optimizer: optax.GradientTransformation, rate: Callable, options: StepOptions
) -> Callable[[TrainState, dict[str, Any]], tuple[TrainState, dict[str, Any]]]:
    """Returns (state, batch) -> (state, metrics), to be mapped with axis_name `parallel.AXIS`.

    Gradients are sums over counted faces, added up over micro-batches and devices and divided by the summed count once: exact
    under padding, and the same for any split of the same faces over devices.
    """

    def loss_sum(params, batch_stats, batch, step, key):
        variables = {"params": params, "batch_stats": batch_stats}
        outputs, changed = model.apply(variables, batch["image"], train=True, mutable=["batch_stats"])
        inputs = term_inputs(outputs, batch, sigma_cells=options.sigma_cells, stride=model.stride, key=key)
        sums = recipe.sums(inputs, step)
        return sums.total, (sums, changed["batch_stats"])

    gradient = jax.grad(loss_sum, has_aux=True)

    def over_micro_batches(state, batch, key):
        if options.micro_batches == 1:
            return gradient(state.params, state.batch_stats, batch, state.step, key)

        def add(carry, part):
            total, batch_stats, index = carry
            part_key = jax.random.fold_in(key, index)
            grads, (sums, batch_stats) = gradient(state.params, batch_stats, part, state.step, part_key)
            return (jax.tree.map(jnp.add, total, (grads, sums)), batch_stats, index + 1), None

        first = jax.tree.map(lambda x: x[0], batch)
        shapes = jax.eval_shape(gradient, state.params, state.batch_stats, first, state.step, key)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (shapes[0], shapes[1][0]))
        (total, batch_stats, _), _ = jax.lax.scan(add, (zeros, state.batch_stats, 0), batch)
        return total[0], (total[1], batch_stats)

    def train_step(state: TrainState, batch: dict[str, Any]) -> tuple[TrainState, dict[str, Any]]:
        key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), jax.lax.axis_index(AXIS))
        grads, (sums, batch_stats) = over_micro_batches(state, batch, key)
        grads, sums = jax.lax.psum((grads, sums), AXIS)  # the one reduction; AXIS is the pmap's axis_name
        if options.local_norm:
            batch_stats = jax.lax.pmean(batch_stats, AXIS)
        count = jnp.maximum(sums.count, 1.0)
        grads = jax.tree.map(lambda g: g / count, grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = dataclasses.replace(
            state,
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            ema=_averaged(state, params, batch_stats, options.ema_decay),
        )
        metrics = {f"loss/{name}": value / count for name, value in sums.terms.items()}
        metrics |= {
            "loss": sums.total / count,
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": rate(state.step),
        }
        return new, metrics

    return train_step


def term_inputs(outputs: Any, batch: dict[str, Any], *, sigma_cells: float, stride: float, key: Any) -> TermInputs:
    """Draws the targets on the device and gathers what terms look at."""
    grid = outputs.heatmaps.shape[1:3]
    points = batch["landmarks_px"]
    cells = codec.cells_from_px(points, stride)
    limit = jnp.asarray([grid[1], grid[0]], jnp.float32).reshape(1, 1, 2) - 0.5
    inside = jnp.all((cells >= -0.5) & (cells <= limit), axis=-1)
    counts = batch["visible"] * inside
    targets = codec.encode(points, batch["visible"], grid=grid, stride=stride, sigma_cells=sigma_cells)
    return TermInputs(outputs, batch, targets, counts, stride, key)


def _averaged(state: TrainState, params: Any, batch_stats: Any, decay: float) -> Any:
    """Exponential average with the usual warm-up: min(decay, (1 + t) / (10 + t))."""
    if state.ema is None:
        return None
    t = state.step.astype(jnp.float32)
    keep = jnp.minimum(decay, (1.0 + t) / (10.0 + t))
    now = {"params": params, "batch_stats": batch_stats}
    return jax.tree.map(lambda old, new: keep * old + (1.0 - keep) * new, state.ema, now)
