"""The loop with real Grain iterators and real Orbax checkpoints: resume, signals, best and latest, losses that break."""

import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_faces import SCHEME, Faces
from tiny_models import tiny

from lmkd.core.errors import UserError
from lmkd.data import pipeline, transforms
from lmkd.distill.recipe import Recipe, Schedule, WeightedTerm
from lmkd.distill.terms.ground_truth import HeatmapMSE
from lmkd.training import checkpoints, loop, parallel
from lmkd.training.logs import read_metrics
from lmkd.training.shares import Trainer
from lmkd.training.state import Optimizers, create
from lmkd.training.step import StepOptions, make_train_step

SIDE, META = 32, {"stage": "student", "config": {}, "scheme": json.loads(SCHEME.to_json())}


@pytest.fixture(scope="module")
def pieces():
    """(the mapped step, a maker of first states): compiled once for the module."""
    model = tiny(True, parallel.AXIS, points=4)
    recipe = Recipe((WeightedTerm("heatmap", HeatmapMSE(), Schedule(1.0)),))
    optimizers = Optimizers(*[optax.adam(1e-2)] * 3)
    options = StepOptions(sigma_cells=1.0, ema_decay=0.9)
    step = make_train_step(model, recipe, optimizers, lambda s: jnp.float32(1e-2), options)
    variables = jax.tree.map(np.asarray, model.init(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3), jnp.uint8)))
    trainer = Trainer(step, frozen={}, terms=recipe.names)
    return trainer, lambda: parallel.replicate(create(variables, optimizers, seed=0, ema=True))


def train(pieces, folder, *, steps=7, wrap=lambda step: step, validate=None, save_steps=3):
    """Runs the loop in `folder`; `wrap` may tamper with the step."""
    folder.mkdir(exist_ok=True)
    make = transforms.MakeFace(SCHEME, SIDE, augmentation=transforms.Augmentation())
    unreadable = pipeline.Unreadable("error")
    iterator = pipeline.training_batches(Faces(10), make, batch_size=4, seed=1, unreadable=unreadable)
    options = loop.LoopOptions(total_steps=steps, log_steps=2, validate_steps=3, save_steps=save_steps, batch_size=4)
    try:
        return loop.run(
            name="student", folder=folder, state=pieces[1](), train_step=wrap(pieces[0]), iterator=iterator,
            validate=validate, meta=META, options=options,
        )  # fmt: skip
    finally:
        iterator.close()


def at_step(number, action):
    """Wraps a step: `action(state, metrics)` is applied to what the n-th call returns."""

    def wrap(step):
        calls = iter(range(1, 1000))

        def stepped(state, batch):
            result = step(state, batch)
            return action(*result) if next(calls) == number else result

        return stepped

    return wrap


def assert_bit_equal(a, b):
    a, b = (
        jax.tree.map(lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x, s) for s in (a, b)
    )
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("number,stopped_at", [(signal.SIGTERM, 4), (signal.SIGINT, 1)])
def test_stopped_anywhere_and_gone_on_equals_an_undisturbed_run(pieces, tmp_path, number, stopped_at):
    undisturbed = train(pieces, tmp_path / "a")

    def ask_to_stop(state, metrics):
        os.kill(os.getpid(), number)
        return state, metrics

    with pytest.raises(loop.Interrupted, match=f"step {stopped_at}; the state is saved") as stop:
        train(pieces, tmp_path / "b", wrap=at_step(stopped_at, ask_to_stop))
    assert stop.value.signal_number == number
    assert_bit_equal(undisturbed, train(pieces, tmp_path / "b"))
    steps = [row["step"] for row in read_metrics(tmp_path / "b" / "metrics.jsonl")]
    assert steps == sorted(set(steps)) and steps[-1] == 7


def test_resume_from_a_periodic_checkpoint_drops_later_log_rows(pieces, tmp_path):
    class Killed(Exception):
        pass

    def die(state, metrics):
        raise Killed

    undisturbed = train(pieces, tmp_path / "a")
    with pytest.raises(Killed):  # as by a kill -9: no save on the way out
        train(pieces, tmp_path / "b", wrap=at_step(6, die))
    assert checkpoints.find_step(tmp_path / "b", "latest").name == "3"
    assert_bit_equal(undisturbed, train(pieces, tmp_path / "b"))
    rows = read_metrics(tmp_path / "b" / "metrics.jsonl")
    assert len([r for r in rows if r["step"] == 4]) == 1


def _never(state, batch):
    raise AssertionError("a finished stage took another step")


def test_a_second_run_has_nothing_left_to_do(pieces, tmp_path):
    first = train(pieces, tmp_path / "a")
    assert_bit_equal(first, train(pieces, tmp_path / "a", wrap=lambda step: _never))


def test_best_and_latest_are_both_kept(pieces, tmp_path):
    nmes = iter([5.0, 3.0, 9.0, 9.5])
    train(pieces, tmp_path / "a", steps=12, validate=lambda variables: next(nmes))
    assert checkpoints.find_step(tmp_path / "a", "best").name == "6"
    assert checkpoints.find_step(tmp_path / "a", "latest").name == "12"
    kept = sorted(int(p.name) for p in (tmp_path / "a" / "checkpoints").iterdir() if p.name.isdigit())
    assert kept == [6, 12]


def test_a_checkpoint_s_path_is_enough(pieces, tmp_path):
    final = train(pieces, tmp_path / "a")
    variables, meta = checkpoints.load(checkpoints.find_step(tmp_path / "a", "latest"))
    assert_bit_equal(variables["params"], final.ema["params"])
    assert meta == META


def test_a_loss_without_a_gradient_is_told_before_anything_is_saved(pieces, tmp_path):
    def lost(step):
        def stepped(state, batch):
            state, metrics = step(state, batch)
            return state, metrics | {"grad_norm": jnp.float32(0.0)}

        return stepped

    with pytest.raises(UserError, match=r"nothing is learnt: up to step 2 the loss \(loss/heatmap\) .* exactly 0"):
        train(pieces, tmp_path / "a", wrap=lost)
    with pytest.raises(UserError, match="no complete checkpoint"):
        checkpoints.find_step(tmp_path / "a", "latest")
    train(pieces, tmp_path / "b", wrap=at_step(1, lambda state, metrics: (state, metrics | {"grad_norm": jnp.float32(0.0)})))


def test_a_loss_that_breaks_names_step_term_and_last_good_checkpoint(pieces, tmp_path):
    def break_it(state, metrics):
        return state, metrics | {"loss/heatmap": jnp.float32(np.nan), "loss": jnp.float32(np.nan)}

    with pytest.raises(UserError, match=r"step 5: loss/heatmap became NaN.*last good checkpoint is step 3"):
        train(pieces, tmp_path / "a", wrap=at_step(5, break_it))
    assert checkpoints.find_step(tmp_path / "a", "latest").name == "3"


def test_a_workdir_of_several_stages_is_its_last_one(pieces, tmp_path):
    for stage in ("a_student", "teacher"):
        train(pieces, tmp_path / stage, steps=1)
    (tmp_path / "config.json").write_text(json.dumps({"stages": ["teacher", "a_student"]}))
    assert checkpoints.find_step(tmp_path).parents[1].name == "a_student"


def test_where_there_is_no_checkpoint_it_says_so(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoint"):
        checkpoints.find_step(tmp_path)
    for stage in ("teacher", "student"):
        (tmp_path / stage / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="several stages.*student, teacher"):
        checkpoints.find_step(tmp_path)
    with pytest.raises(UserError, match="holds no complete checkpoint"):
        checkpoints.find_step(tmp_path / "student")
