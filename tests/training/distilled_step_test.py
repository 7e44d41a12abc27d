"""The step with teachers, adapters and critics: who is updated by what, exact sums, and each term's share of the gradient.

The terms here are linear and written out, so that expectations follow by hand; the shipped ones have tests of their own.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_models import tiny

from lmkd.distill.base import TermInputs, TermOutput, TermVariables
from lmkd.distill.recipe import Recipe, Schedule, WeightedTerm
from lmkd.distill.teachers import Teacher
from lmkd.distill.terms.ground_truth import HeatmapMSE
from lmkd.models import initialise
from lmkd.training import parallel
from lmkd.training.shares import Trainer
from lmkd.training.state import Optimizers, create
from lmkd.training.step import Attacks, StepOptions, make_train_step

SIDE, POINTS = 16, 3


@dataclasses.dataclass(frozen=True)
class Lifted:
    """Mean squared distance from the student's features times an adapter to the teacher's."""

    source: ClassVar[str] = "made up"
    teachers: ClassVar[str] = "one"

    def init(self, key, inputs: TermInputs) -> TermVariables:
        width = inputs.student.taps["features"].shape[-1]
        return TermVariables(adapter={"kernel": jnp.zeros((width, inputs.teacher.taps["features"].shape[-1]))})

    def loss(self, inputs: TermInputs) -> TermOutput:
        lifted = inputs.student.taps["features"] @ inputs.variables.adapter["kernel"]
        return TermOutput(jnp.mean((lifted - inputs.teacher.taps["features"]) ** 2, axis=(1, 2, 3)))


@dataclasses.dataclass(frozen=True)
class Judge:
    """A linear critic on mean heatmaps; the student raises its score of it. Its state counts its updates."""

    source: ClassVar[str] = "made up"
    teachers: ClassVar[str] = "one"

    def init(self, key, inputs: TermInputs) -> TermVariables:
        return TermVariables(critic={"kernel": jnp.zeros((POINTS, 1))}, state={"mean": jnp.zeros(())})

    def _score(self, heatmaps, inputs):
        return (jnp.mean(heatmaps, axis=(1, 2)) @ inputs.variables.critic["kernel"])[:, 0]

    def loss(self, inputs: TermInputs) -> TermOutput:
        return TermOutput(-self._score(inputs.student.heatmaps, inputs))

    def critic_loss(self, inputs: TermInputs) -> TermOutput:
        real, fake = (self._score(maps, inputs) for maps in (inputs.teacher.heatmaps, inputs.student.heatmaps))
        state = {"mean": inputs.variables.state["mean"] + 1.0}
        return TermOutput(fake - real, state, {"fake_accuracy": (fake < real).astype(jnp.float32)})


def weighted(**weights) -> Recipe:
    """A recipe of the named terms with these weights."""
    kinds = {"truth": HeatmapMSE(), "lifted": Lifted(), "judge": Judge()}
    return Recipe(
        tuple(
            WeightedTerm(
                name, kinds[name], value if isinstance(value, Schedule) else Schedule(value), () if name == "truth" else ("t",)
            )
            for name, value in weights.items()
        )
    )


def batch_of(faces: int, seed: int = 0, side: int = SIDE) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (faces, side, side, 3), np.uint8),
        "landmarks_px": rng.uniform(2, side - 3, (faces, POINTS, 2)).astype(np.float32),
        "visible": np.ones((faces, POINTS), np.float32),
        "mask": np.ones(faces, np.float32),
    }


def pieces(recipe: Recipe, *, optimizers: Optimizers | None = None, norm=True, **options):
    """Returns (step, first state, the teachers' variables)."""
    optimizers = optimizers or Optimizers(optax.sgd(0.1), optax.sgd(0.2), optax.sgd(0.3))
    student, teacher = tiny(norm, parallel.AXIS), tiny(norm)
    step = make_train_step(
        student, recipe, optimizers, lambda s: jnp.float32(0.1), StepOptions(sigma_cells=1.0, image_px=SIDE, **options),
        {"t": Teacher(teacher, SIDE)},
    )  # fmt: skip
    image = jnp.zeros((1, SIDE, SIDE, 3), jnp.uint8)
    variables, frozen = (tiny(norm).init(jax.random.key(n), image) for n in (0, 1))
    owned = {
        "lifted": TermVariables(adapter={"kernel": jnp.asarray(np.random.default_rng(2).normal(size=(4, 4)), jnp.float32)}),
        "judge": TermVariables(
            critic={"kernel": jnp.asarray(np.random.default_rng(3).normal(size=(POINTS, 1)), jnp.float32)},
            state={"mean": jnp.zeros(())},
        ),
    }
    own = {name: value for name, value in owned.items() if name in recipe.names}
    return step, create(variables, optimizers, seed=0, ema=False, terms=own), {"t": frozen}


def on(devices, step, state, batch, frozen, *, terms, parts=1):
    """Runs one step over that many devices, all terms on."""
    mapped = jax.pmap(
        step, axis_name=parallel.AXIS, in_axes=(None, 0, None, None), out_axes=None, devices=jax.devices()[:devices]
    )
    share = len(batch["image"]) // devices // parts
    lead = (devices, parts, share) if parts > 1 else (devices, share)
    cut = {k: v.reshape(*lead, *v.shape[1:]) for k, v in batch.items()}
    return mapped(state, cut, frozen, np.ones(terms, np.float32))


def close(a, b, tolerance=2e-6):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance)


def equal(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.fixture(scope="module")
def judged():
    """A step with every kind of term on one device: (first state, new state, metrics, frozen, batch)."""
    recipe = weighted(truth=1.0, lifted=0.5, judge=2.0)
    step, state, frozen = pieces(recipe, norm=False)
    batch = batch_of(4)
    new, metrics = on(1, step, state, batch, frozen, terms=3)
    return state, new, metrics, frozen, batch


def means(maps):
    return np.asarray(maps).mean(axis=(1, 2))


def test_the_critic_is_updated_first_by_its_own_loss_and_rate(judged):
    state, new, metrics, frozen, batch = judged
    student = tiny().apply({"params": state.params}, batch["image"], train=True)
    teacher = tiny().apply(frozen["t"], batch["image"])
    gradient = (means(student.heatmaps) - means(teacher.heatmaps)).mean(axis=0)[:, None]
    before = np.asarray(state.terms["judge"].critic["kernel"])
    np.testing.assert_allclose(new.terms["judge"].critic["kernel"], before - 0.3 * gradient, atol=1e-6)
    assert float(metrics["grad_norm/judge_critic"]) == pytest.approx(np.linalg.norm(gradient), rel=1e-4)
    correct = (means(student.heatmaps) @ before < means(teacher.heatmaps) @ before).mean()
    assert float(metrics["judge/fake_accuracy"]) == pytest.approx(correct)
    assert float(new.terms["judge"].state["mean"]) == 1.0


def test_student_and_adapter_follow_the_weighted_sum_against_the_updated_critic(judged):
    state, new, metrics, frozen, batch = judged
    critic = np.asarray(new.terms["judge"].critic["kernel"])
    teacher = tiny().apply(frozen["t"], batch["image"])
    rows, columns = np.mgrid[:4, :4]
    x, y = np.moveaxis((batch["landmarks_px"] + 0.5) / 4 - 0.5, -1, 0)[..., None, None]
    targets = np.moveaxis(np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 2), 1, -1)

    def total(params, adapter):
        out = tiny().apply({"params": params}, batch["image"], train=True)
        truth = jnp.mean((out.heatmaps - targets) ** 2)
        lifted = jnp.mean((out.taps["features"] @ adapter - teacher.taps["features"]) ** 2)
        judge = -jnp.mean(jnp.mean(out.heatmaps, axis=(1, 2)) @ critic)
        return truth + 0.5 * lifted + 2.0 * judge

    adapter = state.terms["lifted"].adapter["kernel"]
    value, (of_params, of_adapter) = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(state.params, adapter)
    assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-4)
    close(new.params, jax.tree.map(lambda p, g: p - 0.1 * g, state.params, of_params))
    close(new.terms["lifted"].adapter["kernel"], adapter - 0.2 * of_adapter)


def test_a_critics_update_leaves_the_student_alone_and_the_other_way_round():
    recipe, batch = weighted(truth=1.0, judge=1.0), batch_of(4)
    step, state, frozen = pieces(recipe, optimizers=Optimizers(optax.set_to_zero(), optax.set_to_zero(), optax.sgd(1.0)))
    new, _ = on(1, step, state, batch, frozen, terms=2)
    assert equal(state.params, new.params) and not equal(state.terms["judge"].critic, new.terms["judge"].critic)
    step, state, frozen = pieces(recipe, optimizers=Optimizers(optax.sgd(1.0), optax.set_to_zero(), optax.set_to_zero()))
    new, _ = on(1, step, state, batch, frozen, terms=2)
    assert not equal(state.params, new.params) and equal(state.terms["judge"].critic, new.terms["judge"].critic)


def test_no_gradient_reaches_a_teacher():
    """The total's derivative by the teachers' variables is zero, whatever the terms do with the outputs."""
    recipe = weighted(lifted=1.0, judge=1.0)
    step, state, frozen = pieces(recipe, norm=False)
    batch = {k: v[None] for k, v in batch_of(2).items()}

    def loss(kernels):
        def run(b):
            return step(state, b, {"t": {"params": kernels}}, jnp.ones(2))[1]["loss"]

        return jnp.sum(jax.vmap(run, axis_name=parallel.AXIS)(batch))

    gradients = jax.tree.leaves(jax.jit(jax.grad(loss))(frozen["t"]["params"]))
    assert gradients and all(np.abs(g).max() == 0 for g in gradients)


@pytest.mark.parametrize("parts", [1, 2])
def test_two_devices_equal_one_with_every_kind_of_term(parts):
    recipe, batch = weighted(truth=1.0, lifted=0.5, judge=2.0), batch_of(8)
    options = {"norm": parts == 1, "micro_batches": parts}  # a batch norm's statistics are its micro-batch's
    one, m1 = on(1, *pieces(recipe, norm=parts == 1)[:2], batch, pieces(recipe, norm=parts == 1)[2], terms=3)
    step, state, frozen = pieces(recipe, **options)
    two, m2 = on(2, step, state, batch, frozen, terms=3, parts=parts)
    close(one.params, two.params)
    close(one.batch_stats, two.batch_stats)
    close({n: t._replace(state={}) for n, t in one.terms.items()}, {n: t._replace(state={}) for n, t in two.terms.items()})
    assert float(m1["loss"]) == pytest.approx(float(m2["loss"]), rel=1e-5)


def test_padding_changes_no_group():
    recipe, faces = weighted(truth=1.0, lifted=0.5, judge=2.0), batch_of(3)
    padded = {k: np.concatenate([v, v[:1]]) for k, v in faces.items()}
    padded["landmarks_px"][3], padded["mask"][3] = np.nan, 0
    plain, _ = on(1, *pieces(recipe, norm=False)[:2], faces, pieces(recipe, norm=False)[2], terms=3)
    two, _ = on(2, *pieces(recipe, norm=False)[:2], padded, pieces(recipe, norm=False)[2], terms=3)
    close((plain.params, plain.terms), (two.params, two.terms))


def test_critics_rest_until_their_term_begins():
    recipe = weighted(truth=1.0, judge=Schedule(1.0, begin=1, ramp=2))
    optimizers = Optimizers(optax.sgd(0.1), optax.sgd(0.1), optax.adam(0.1))
    step, state, frozen = pieces(recipe, optimizers=optimizers)
    asleep, metrics = on(1, step, state, batch_of(4), frozen, terms=2)
    assert equal((state.terms, state.opt_state["critics"]), (asleep.terms, asleep.opt_state["critics"]))
    assert float(metrics["loss"]) == pytest.approx(float(metrics["loss/truth"]))
    awake, metrics = on(1, step, asleep, batch_of(4), frozen, terms=2)
    assert not equal(asleep.terms, awake.terms)
    assert float(metrics["loss"]) == pytest.approx(float(metrics["loss/truth"] + 0.5 * metrics["loss/judge"]), rel=1e-5)


def test_several_critic_steps_are_several_updates():
    step, state, frozen = pieces(weighted(truth=1.0, judge=1.0), critic_steps=3)
    once, _ = on(1, *pieces(weighted(truth=1.0, judge=1.0))[:2], batch_of(4), frozen, terms=2)
    new, _ = on(1, step, state, batch_of(4), frozen, terms=2)
    assert float(new.terms["judge"].state["mean"]) == 3.0
    start = np.asarray(state.terms["judge"].critic["kernel"])
    moved, moved_once = (np.asarray(s.terms["judge"].critic["kernel"]) - start for s in (new, once))
    np.testing.assert_allclose(moved, 3 * moved_once, atol=1e-6)  # a linear critic's gradient does not change


def test_shares_are_the_terms_own_gradient_norms_and_leave_the_state_alone():
    recipe = weighted(truth=1.0, lifted=0.5)
    step, state, frozen = pieces(recipe)
    trainer, state = Trainer(step, frozen=frozen, terms=recipe.names), parallel.replicate(state)
    batch = parallel.split_over_devices(batch_of(4))
    shares = trainer.shares(state, batch)
    norms = {}
    for name, weight in (("truth", 1.0), ("lifted", 0.5)):
        alone, first, _ = pieces(weighted(**{name: weight}))
        norms[name] = float(on(2, alone, first, batch_of(4), frozen, terms=1)[1]["grad_norm"])
    assert shares == pytest.approx({f"share/{n}": v / sum(norms.values()) for n, v in norms.items()}, rel=1e-4)
    state, _ = trainer(state, batch)  # the state was not donated to the measurement
    assert int(state.step) == 1


@pytest.mark.parametrize("share,changed", [(0.0, False), (1.0, True)])
def test_training_on_attacked_faces(share, changed):
    recipe, batch = weighted(truth=1.0), batch_of(4)
    plain, m0 = on(1, *pieces(recipe)[:2], batch, pieces(recipe)[2], terms=1)
    step, state, frozen = pieces(recipe, attacks=Attacks(share, epsilon=16.0, steps=2))
    new, m1 = on(1, step, state, batch, frozen, terms=1)
    assert equal(plain.params, new.params) != changed
    assert (float(m1["loss/truth"]) != float(m0["loss/truth"])) == changed


def test_random_terms_do_not_depend_on_the_order_of_the_recipe():
    inputs = TermInputs(None, {"mask": jnp.ones(2)}, None, None, 4.0, jax.random.key(5))

    @dataclasses.dataclass(frozen=True)
    class Noise:
        source: ClassVar[str] = ""
        teachers: ClassVar[str] = "none"

        def loss(self, inputs):
            return TermOutput(jax.random.normal(inputs.key, (2,)))

    parts = [WeightedTerm(name, Noise(), Schedule(1.0)) for name in ("a", "b")]
    there = Recipe(tuple(parts)).sums(inputs, {}, 0, jnp.ones(2))[0]
    back = Recipe(tuple(reversed(parts))).sums(inputs, {}, 0, jnp.ones(2))[0]
    alone = Recipe(tuple(parts[1:])).sums(inputs, {}, 0, jnp.ones(1))[0]
    assert there == back and float(there.logs["loss/b"]) == float(alone.logs["loss/b"])
    assert float(there.logs["loss/a"]) != float(there.logs["loss/b"])


def test_term_variables_are_drawn_by_name():
    drawn = initialise.drawn({"lifted": {"adapter": {"kernel": jax.ShapeDtypeStruct((64, 32), jnp.float32)}}}, seed=1)
    assert np.std(drawn["lifted"]["adapter"]["kernel"]) == pytest.approx(np.sqrt(2 / 32), rel=0.1)
