"""A distilled step against the sum of its parts: what teaching costs beyond what it must.

The whole step is the one that trains (`stages.Training.trainer`). Its parts are programs of their own, on the same crops:

- each teacher: its forward pass in evaluation mode, to heatmaps on the student's grid;
- the student: THE step again, with the terms that look at no teacher: forward, backward, update, average of parameters;
- the critics: their losses, gradients and updates, on given maps;
- each taught term: forward and backward from given maps to the student's maps, adapters and their update included.

`ratio` is the whole over teachers + student + critics; `ratio_with_terms` over all parts. A part returns less than the step
might make of it (no decoded points, no taps of a teacher), which makes the sum smaller; each part is dispatched by itself,
which makes it larger where an accelerator waits for the host.

Weights are freshly drawn and crops are noise: no time depends on them. Nothing has to be trained or prepared.
"""

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from lmkd import config as configs
from lmkd import stages
from lmkd.benchmarks.drawn import crops_of_noise, drawn, num_points, on_devices, stepping
from lmkd.benchmarks.rounds import Part, Timing, Topic, quartiles, table, timed
from lmkd.core.errors import UserError, unknown
from lmkd.distill.base import TermInputs
from lmkd.distill.recipe import Recipe, WeightedTerm
from lmkd.distill.teachers import look
from lmkd.ops import across
from lmkd.training import parallel, state, vectors
from lmkd.training.state import with_parts
from lmkd.training.step import updated, updated_critic

PARTS_OF_RATIO = ("teacher", "student", "critics")


def run(config: ConfigDict, *, stage: str, rounds: int, progress: Callable[[str], None] = lambda text: None) -> Topic:
    """Measures one stage's step.

    Args:
      config: an experiment with a stage that has teachers.
      stage: its name; "" is the last one of config.stages that has some.
      rounds: of all parts, after the first two calls.
      progress: told what goes on.

    Raises:
      UserError: the config cannot run, or the stage has nothing to compare.
    """
    configs.check(config)
    name = _chosen(config, stage)
    training = drawn(config, name)
    timings = timed(parts(training, config.stage[name].train.batch_size), rounds=rounds, progress=progress)
    figures = compared(timings)
    conditions = {
        "stage": name,
        "batch_size": config.stage[name].train.batch_size,
        "crop_px": training.crop_px,
        "image_px": {"student": training.options.image_px, **{k: t.image_px for k, t in training.networks.items()}},
        "dtype": jnp.dtype(training.net.dtype).name,
        "compilation_cache": jax.config.jax_compilation_cache_dir or "",  # type: ignore[attr-defined]
    }
    return Topic("a distilled step against the sum of its parts", conditions, _table(timings, figures), figures)


def parts(training: stages.Training, batch_size: int) -> list[Part]:
    """Returns the parts and, last, the whole step."""
    points = num_points(training)
    batch = on_devices(crops_of_noise(batch_size, training.crop_px, points))
    seen = on_devices(_maps(training, batch_size, points))
    own = Recipe(tuple(t for t in training.recipe.terms if not t.teachers))
    taught = [t for t in training.recipe.terms if t.teachers]
    found = [_teacher(training, name, batch, seen["student"].heatmaps.shape[2:4]) for name in training.networks]
    alone = training._replace(recipe=own, networks={}, frozen={}, first=_first(training, own))
    what = f"forward, backward, update under its own terms ({', '.join(own.names)})"
    found.append(Part("student", what, stepping(alone.trainer(), alone.first, batch)))
    if training.recipe.with_critic:
        found.append(_critics(training, seen))
    found += [_term(training, part, seen) for part in taught]
    whole = "teachers, critics, student and adapters under all terms"
    return [*found, Part("step", whole, stepping(training.trainer(), training.first, batch))]


def compared(timings: list[Timing]) -> dict[str, Any]:
    """Returns every figure: medians, quartiles, the sums of the parts' medians, and the whole's median over each.

    The quartiles of a ratio are those of the rounds' own ratios, which a machine's drift touches least.
    """
    *pieces, whole = timings
    counted = [t for t in pieces if t.name.split(" ")[0] in PARTS_OF_RATIO]
    figures: dict[str, Any] = {"parts": [t.figures() for t in pieces], "whole": whole.figures()}
    for suffix, chosen in (("", counted), ("_with_terms", pieces)):
        total = sum(t.median_ms for t in chosen)
        by_round = [w / sum(ms) for w, *ms in zip(whole.rounds_ms, *(t.rounds_ms for t in chosen), strict=True)]
        figures |= {
            f"sum{suffix}_ms": total,
            f"ratio{suffix}": whole.median_ms / total,
            f"ratio{suffix}_by_round_median": median(by_round),
            f"ratio{suffix}_by_round_quartiles": quartiles(by_round),
        }
    return figures


def _table(timings: list[Timing], figures: Mapping[str, Any]) -> str:
    def row(timing: Timing) -> list[str]:
        first = f"{timing.first_call_s:.1f}"
        return [timing.name, timing.what, first, f"{timing.median_ms:.1f}", timing.spread(), ""]

    def total(suffix: str, what: str) -> list[str]:
        low, high = figures[f"ratio{suffix}_by_round_quartiles"]
        ratio = f"{figures[f'ratio{suffix}']:.3f} ({low:.3f} to {high:.3f})"
        return ["sum", what, "", f"{figures[f'sum{suffix}_ms']:.1f}", "", ratio]

    header = ("part", "what it holds", "first call s", "median ms", "quartiles ms", "step / sum (quartiles)")
    sums = [total("", "teachers, student, critics"), total("_with_terms", "all parts, the taught terms among them")]
    return table(header, [*map(row, timings), *sums])


def _chosen(config: ConfigDict, stage: str) -> str:
    """The stage to measure."""
    taught = [name for name in config.stages if config.stage[name].teachers]
    if stage and stage not in taught:
        raise unknown("stage with teachers", stage, taught, "--stage")
    if not taught:
        raise UserError(f"no stage of {', '.join(config.stages)} has teachers: there is no distilled step to measure")
    chosen = stage or taught[-1]
    if config.stage[chosen].train.micro_batches > 1:
        raise UserError(
            f"config.stage.{chosen}.train.micro_batches: the parts are measured on a batch in one piece; set it to 1"
        )
    return chosen


def _maps(training: stages.Training, batch_size: int, num_points: int) -> dict[str, Any]:
    """What terms look at, of the right shapes and types, filled with numbers in [0, 1): `TermInputs` without what is static."""

    def see(variables, frozen, crops):
        seen = stages.terms_see(training.net, training.networks, training.options, variables, frozen, crops)
        return {name: value for name, value in seen._asdict().items() if name not in ("key", "stride", "variables")}

    variables = {"params": training.first.params, "batch_stats": training.first.batch_stats}
    crops = crops_of_noise(batch_size, training.crop_px, num_points)
    rng = np.random.default_rng(1)
    found = jax.tree.map(
        lambda leaf: rng.random(leaf.shape, np.float32).astype(leaf.dtype),
        jax.eval_shape(see, variables, training.frozen, crops),
    )
    ones = {name: np.ones_like(found["batch"][name]) for name in ("mask", "visible")}
    return found | {"batch": found["batch"] | ones, "counts": np.ones_like(found["counts"])}


def _first(training: stages.Training, recipe: Recipe) -> state.TrainState:
    """A first state with the variables of `recipe`'s terms alone; its arrays are nobody else's, since steps donate theirs."""
    first = training.first
    variables = {"params": first.params, "batch_stats": first.batch_stats}
    owned = {name: own for name, own in first.terms.items() if name in recipe.names}
    return state.create(variables, training.optimizers, seed=0, ema=first.ema is not None, terms=owned)


def _teacher(training: stages.Training, name: str, batch: Any, grid: tuple[int, int]) -> Part:
    networks, side = {name: training.networks[name]}, training.options.image_px

    def forward(frozen, batch):
        return look(networks, frozen, batch["image"], grid=grid, student_px=side)[name].heatmaps

    mapped, frozen = parallel.map_predict(forward), parallel.replicate({name: training.frozen[name]})
    return Part(f"teacher {name}", "forward, evaluation mode", lambda: mapped(frozen, batch))


def _critics(training: stages.Training, seen: Any) -> Part:
    """The step's first phase: every critic's gradient and update, as often as the step makes them."""
    recipe, optimizers = Recipe(training.recipe.with_critic), training.optimizers

    def once(terms, moments, inputs):
        def loss(values):
            sums, states = recipe.critic_sums(inputs, with_parts(terms, critic=values))
            return sums.total, (sums, states)

        grads, (sums, states) = jax.grad(loss, has_aux=True)(state.critics(terms))
        grads = {name: state.joined_critic(gradient) for name, gradient in grads.items()}
        grads, sums = across.total((grads, sums), parallel.AXIS)
        moved, moments = {}, dict(moments)
        for name, gradient in grads.items():
            critic = terms[name].critic
            moved[name], moments[name], _ = updated_critic(optimizers.critics, gradient, sums.count, moments[name], critic)
        kept = across.mean(states, parallel.AXIS)
        return with_parts(terms, critic=moved, state=kept), moments, sums.logs

    def update(terms_and_moments, seen, frozen, only):
        terms, moments = terms_and_moments
        for _ in range(training.options.critic_steps):
            terms, moments, logs = once(terms, moments, _inputs(training, seen))
        return (terms, moments), logs

    first = _first(training, recipe)
    mapped, nothing = parallel.map_train_step(update), parallel.replicate({})
    what = f"{training.options.critic_steps} update(s) of {', '.join(recipe.names)} on given maps"
    return Part(
        "critics", what, stepping(lambda s, b: mapped(s, b, nothing, nothing), (first.terms, first.opt_state["critics"]), seen)
    )


def _term(training: stages.Training, part: WeightedTerm, seen: Any) -> Part:
    """One taught term: its gradient for the student's maps that it looks at, and its adapter's update."""
    recipe, optimizer = Recipe((part,)), training.optimizers.adapters
    student, structure = jax.tree.flatten(seen["student"])

    def value(maps, terms, seen, step, only):
        """The weighted sum. Step and factor are arguments: XLA must not know that a weight is 0 at step 0."""
        inputs = _inputs(training, {**seen, "student": jax.tree.unflatten(structure, maps)})
        return recipe.sums(inputs, terms, step, only)[0].total

    def program(constants, batch):
        terms, moments, step, only = constants
        given, seen = batch

        def loss(chosen, adapters):
            maps = [chosen.get(n, leaf) for n, leaf in enumerate(given)]
            return value(maps, with_parts(terms, adapter=adapters), seen, step, only)

        chosen = {n: given[n] for n in reached}
        of_maps, of_adapters = jax.grad(loss, argnums=(0, 1))(chosen, state.adapters(terms))
        of_adapters = across.total(vectors.joined(of_adapters), parallel.AXIS)
        adapters, moments, _ = updated(optimizer, of_adapters, 1.0, moments, state.adapters(terms))
        return of_maps, adapters, moments

    first = _first(training, recipe)
    constants = parallel.replicate((first.terms, first.opt_state["adapters"], first.step, np.ones(1, np.float32)))
    others = {name: leaf for name, leaf in seen.items() if name != "student"}
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), (student, others))
    reached = _reached(lambda maps, seen: value(maps, first.terms, seen, 0, np.ones(1, np.float32)), *one)
    mapped = parallel.map_predict(program)
    adapter = ", adapter and its update" if state.adapters(first.terms) else ""
    what = f"forward and backward to the student's maps{adapter}, on given maps"
    return Part(f"term {part.name}", what, lambda: mapped(constants, (student, others)))


def _reached(function: Callable, leaves: list[Any], rest: Any) -> list[int]:
    """Which of `leaves` the function looks at: gradients of the others would be zeros that are written for nothing."""
    jaxpr = jax.make_jaxpr(function)(leaves, rest).jaxpr
    read = {id(variable) for equation in jaxpr.eqns for variable in equation.invars}
    return [n for n, variable in enumerate(jaxpr.invars[: len(leaves)]) if id(variable) in read]


def _inputs(training: stages.Training, seen: Any) -> TermInputs:
    return TermInputs(**seen, key=jax.random.key(0), stride=training.net.stride)
