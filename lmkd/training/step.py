"""THE train step. Teachers, students and every distillation method train through this one function, under one parallel map.

Teachers forward in evaluation mode; critics updated on detached maps; then the student and the adapters against the updated
critics. Sums over counted faces through one psum a group, divided by the summed count once: exact under padding, and the same
for any split of the same faces over devices and micro-batches.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lmkd.distill.base import TermInputs
from lmkd.distill.recipe import Recipe
from lmkd.distill.teachers import Teacher, look, seen_at
from lmkd.models import attack
from lmkd.models.apart import apart
from lmkd.models.landmarker import Landmarker
from lmkd.ops import across
from lmkd.ops import heatmaps as codec
from lmkd.training import vectors
from lmkd.training.parallel import AXIS
from lmkd.training.state import Optimizers, TrainState, adapters, critics, joined_critic, with_parts


@dataclasses.dataclass(frozen=True)
class Attacks:
    """Training on attacked inputs: each face is attacked with probability `share`, within `epsilon` of 255, in `steps` steps.

    The student sees the attacked crop, its teachers the clean one (Goldblum et al. 2020, arXiv 1905.09747, equation 5).
    """

    share: float
    epsilon: float
    steps: int


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """What the step needs to know besides its objects.

    Attributes:
      sigma_cells: sigma of the drawn targets, in heatmap cells.
      image_px: side of the student's input; 0 takes the crops as they come.
      micro_batches: gradient accumulation: a device's share comes as [micro_batches, b, ...] and makes one update.
      ema_decay: decay of the parameter average (0: none is kept).
      local_norm: batch norms use each device's own statistics; the running ones are averaged before they are returned.
      critic_steps: updates of the critics for one of the student, on the same maps.
      attacks: None trains on the faces as they are.
    """

    sigma_cells: float
    image_px: int = 0
    micro_batches: int = 1
    ema_decay: float = 0.0
    local_norm: bool = False
    critic_steps: int = 1
    attacks: Attacks | None = None


class _Begun(NamedTuple):
    """The forward pass of one part: what terms see, the new statistics, and the way back to the student's parameters."""

    inputs: TermInputs
    batch_stats: Any
    pullback: Callable[[Any], Any]


def make_train_step(
    model: Landmarker,
    recipe: Recipe,
    optimizers: Optimizers,
    rate: Callable,
    options: StepOptions,
    teachers: Mapping[str, Teacher] | None = None,
) -> Callable[[TrainState, dict[str, Any], Mapping[str, Any], Any], tuple[TrainState, dict[str, Any]]]:
    """Returns (state, batch, frozen, only) -> (state, metrics), to be mapped with axis_name `parallel.AXIS`.

    `frozen` has the teachers' variables by name (arguments, not constants of the program). `only` f32 [terms] multiplies the
    terms' weights, in the order of `recipe.names`: ones to train, a single one to see the size of that term's gradient.
    """
    teachers = dict(teachers or {})

    def begin(params, batch_stats, part, frozen, key) -> _Begun:
        crops = part["image"]
        part = seen_at(part, options.image_px or crops.shape[1])
        if options.attacks:
            variables = {"params": params, "batch_stats": batch_stats}
            part = {**part, "image": _attacked(model, variables, part, options.attacks, key)}

        def forward(params):
            variables = {"params": params, "batch_stats": batch_stats}
            outputs, changed = model.apply(variables, part["image"], train=True, mutable=["batch_stats"])
            return outputs, changed["batch_stats"]

        outputs, pullback, changed = jax.vjp(forward, params, has_aux=True)
        taught = look(teachers, frozen, crops, grid=outputs.heatmaps.shape[1:3], student_px=part["image"].shape[1])
        inputs = term_inputs(outputs, part, sigma_cells=options.sigma_cells, stride=model.stride, key=key, teachers=taught)
        return _Begun(inputs, changed, pullback)

    def critic_gradient(terms, begun, step, only):
        def loss(values):
            sums, states = recipe.critic_sums(begun.inputs, with_parts(terms, critic=values))
            return sums.total, (sums, states)

        grads, (sums, states) = jax.grad(loss, has_aux=True)(critics(terms))
        return {name: joined_critic(of_critic) for name, of_critic in grads.items()}, sums, states

    def student_gradient(terms, begun, step, only):
        def loss(outputs, values):
            inputs = begun.inputs._replace(student=outputs)
            sums, states = recipe.sums(inputs, with_parts(terms, adapter=values), step, only)
            return sums.total, (sums, states)

        both = jax.grad(loss, argnums=(0, 1), has_aux=True)(begun.inputs.student, adapters(terms))
        (of_outputs, of_adapters), (sums, states) = both
        of_student = begun.pullback(of_outputs)[0]
        return {"student": vectors.joined(of_student), "adapters": vectors.joined(of_adapters)}, sums, states

    def train_step(state, batch, frozen, only):
        key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), jax.lax.axis_index(AXIS))
        # One part: critics and student share the forward pass. Several: a pass for the critics, then one for the student.
        shared = begin(state.params, state.batch_stats, batch, frozen, key) if options.micro_batches == 1 else None

        def gradient(work, terms, key):
            """Returns (summed gradients, as vectors, and their count, mean logs, the terms' variables with new states, batch
            statistics)."""
            if shared is not None:
                inputs = shared.inputs._replace(key=key)
                grads, sums, states = work(terms, shared._replace(inputs=inputs), state.step, only)
                terms, batch_stats = with_parts(terms, state=states), shared.batch_stats
            else:
                (grads, sums), terms, batch_stats = over_parts(work, terms, state, batch, frozen, key, only)
            grads, sums = across.total((grads, sums), AXIS)  # AXIS is the map's axis_name
            kept = across.mean({name: own.state for name, own in terms.items()}, AXIS)
            count = jnp.maximum(sums.count, 1.0)
            logs = {name: value / count for name, value in (sums.logs | {"loss": sums.total}).items()}
            return (grads, count), logs, with_parts(terms, state=kept), batch_stats

        terms, opt_state, metrics = state.terms, dict(state.opt_state), {}
        for n in range(options.critic_steps if recipe.with_critic else 0):
            summed, logs, new_terms, _ = gradient(critic_gradient, terms, jax.random.fold_in(key, n + 1))
            terms, opt_state["critics"], norms = _update_critics(
                recipe, optimizers, state.step, summed, terms, new_terms, opt_state["critics"]
            )
            metrics |= norms | {name: value for name, value in logs.items() if name != "loss"}
        (grads, count), logs, terms, batch_stats = gradient(student_gradient, terms, key)
        if options.local_norm:
            batch_stats = across.mean(batch_stats, AXIS)
        params, opt_state["student"], norm = updated(
            optimizers.student, grads["student"], count, opt_state["student"], state.params
        )
        metrics |= logs | {"grad_norm": norm, "learning_rate": rate(state.step)}
        if grads["adapters"]:
            new, opt_state["adapters"], metrics["grad_norm/adapters"] = updated(
                optimizers.adapters, grads["adapters"], count, opt_state["adapters"], adapters(terms)
            )
            terms = with_parts(terms, adapter=new)
        new_state = dataclasses.replace(
            state,
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            terms=terms,
            opt_state=opt_state,
            ema=_averaged(state, params, batch_stats, options.ema_decay),
        )
        return new_state, metrics

    def over_parts(work, terms, state, batch, frozen, key, only):
        """Adds a device's micro-batches up; statistics and states go from one to the next."""

        def one(carry, part):
            total, terms, batch_stats, index = carry
            begun = begin(state.params, batch_stats, part, frozen, jax.random.fold_in(key, index))
            grads, sums, states = work(terms, begun, state.step, only)
            terms = with_parts(terms, state=states)
            return (jax.tree.map(jnp.add, total, (grads, sums)), terms, begun.batch_stats, index + 1), None

        def first(terms, part):
            return work(terms, begin(state.params, state.batch_stats, part, frozen, key), state.step, only)[:2]

        shapes = jax.eval_shape(first, terms, jax.tree.map(lambda x: x[0], batch))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        (total, terms, batch_stats, _), _ = jax.lax.scan(one, (zeros, terms, state.batch_stats, 0), batch)
        return total, terms, batch_stats

    return train_step


def term_inputs(
    outputs: Any, batch: Mapping[str, Any], *, sigma_cells: float, stride: float, key: Any, teachers: Any = None
) -> TermInputs:
    """Draws the targets on the device and gathers what terms look at."""
    grid = outputs.heatmaps.shape[1:3]
    points = batch["landmarks_px"]
    cells = codec.cells_from_px(points, stride)
    limit = jnp.asarray([grid[1], grid[0]], jnp.float32).reshape(1, 1, 2) - 0.5
    inside = jnp.all((cells >= -0.5) & (cells <= limit), axis=-1)
    counts = batch["visible"] * inside
    targets = codec.encode(points, batch["visible"], grid=grid, stride=stride, sigma_cells=sigma_cells)
    return TermInputs(outputs, batch, targets, counts, stride, key, teachers or {})


def _attacked(model: Landmarker, variables: Any, batch: Mapping[str, Any], attacks: Attacks, key: Any) -> Any:
    """Returns the crops, a random share of them attacked against the network in evaluation mode."""
    chosen_key, attack_key = jax.random.split(jax.random.fold_in(key, 0x5EED))
    clean = batch["image"].astype(jnp.float32)

    def heatmaps(image):
        return model.apply(variables, image, train=False).heatmaps  # type: ignore[union-attr]

    attacked = attack.pgd(
        heatmaps, clean, batch["landmarks_px"], batch["visible"],
        epsilon=attacks.epsilon, steps=attacks.steps, stride=model.stride, key=attack_key,
    )  # fmt: skip
    chosen = jax.random.bernoulli(chosen_key, attacks.share, (len(clean),))
    return jnp.where(chosen.reshape(-1, 1, 1, 1), attacked, clean)


def updated(optimizer: optax.GradientTransformation, summed: Any, count: Any, opt_state: Any, params: Any) -> Any:
    """Returns (new parameters, the optimiser's new state, the mean gradient's norm); `summed` is the gradient as vectors.

    Apart: XLA on CPU compares every operation of a computation with every other, and nothing else reads these.
    """

    def update(summed, count, opt_state, before):
        grads = jax.tree.map(lambda g: g / count, summed)
        updates, opt_state = optimizer.update(grads, opt_state, before)
        return optax.apply_updates(before, updates), opt_state, optax.tree.norm(grads)

    before = vectors.joined(params)
    after, opt_state, norm = apart(update, here=True)(summed, count, opt_state, before)
    return vectors.parted(after, params), opt_state, norm


def updated_critic(optimizer: optax.GradientTransformation, summed: Any, count: Any, opt_state: Any, critic: Any) -> Any:
    """`updated` of a critic, whose gradient is as `state.joined_critic` joins it."""
    parts, opt_state, norm = updated(optimizer, summed, count, opt_state, {"critic": critic})
    return parts["critic"], opt_state, norm


def _update_critics(recipe: Recipe, optimizers: Optimizers, step, summed, terms, new_terms, opt_state):
    """Updates each critic on its own; before its term begins, a critic and its optimiser rest as they are.

    Returns (terms, the optimisers' states, norms to log).
    """
    (grads, count), kept, norms = summed, dict(opt_state), {}
    for part in recipe.with_critic:
        name = part.name
        critic, moments, norm = updated_critic(optimizers.critics, grads[name], count, kept[name], terms[name].critic)
        norms[f"grad_norm/{name}_critic"] = norm
        new = (new_terms[name]._replace(critic=critic), moments)
        awake = step >= part.schedule.begin
        chosen = jax.tree.map(lambda now, before, awake=awake: jnp.where(awake, now, before), new, (terms[name], kept[name]))
        terms, kept[name] = {**terms, name: chosen[0]}, chosen[1]
    return terms, kept, norms


def _averaged(state: TrainState, params: Any, batch_stats: Any, decay: float) -> Any:
    """Exponential average with the usual warm-up: min(decay, (1 + t) / (10 + t))."""
    if state.ema is None:
        return None
    t = state.step.astype(jnp.float32)
    keep = jnp.minimum(decay, (1.0 + t) / (10.0 + t))
    now = {"params": params, "batch_stats": batch_stats}

    def average(keep, before, now):
        return jax.tree.map(lambda old, new: keep * old + (1.0 - keep) * new, before, now)

    return apart(average, here=True)(keep, state.ema, now)
