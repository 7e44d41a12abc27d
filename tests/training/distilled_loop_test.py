"""A distilled run with shipped terms through the loop: resumed to the bit, critics and their optimisers included."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_faces import SCHEME, Faces
from tiny_models import tiny

from lmkd.data import pipeline, transforms
from lmkd.distill.recipe import Recipe, Schedule, WeightedTerm
from lmkd.distill.teachers import Teacher
from lmkd.distill.terms.adversarial import Adversarial
from lmkd.distill.terms.channel import ChannelKL
from lmkd.distill.terms.ground_truth import HeatmapMSE
from lmkd.training import checkpoints, loop, parallel, vectors
from lmkd.training.logs import read_metrics
from lmkd.training.shares import Trainer
from lmkd.training.state import Optimizers, create, with_moments
from lmkd.training.step import StepOptions, make_train_step, term_inputs
from lmkd.training.watch import CriticWatch

SIDE, META = 32, {"stage": "student", "config": {}, "scheme": json.loads(SCHEME.to_json())}
RECIPE = Recipe(
    (
        WeightedTerm("truth", HeatmapMSE(), Schedule(1.0)),
        WeightedTerm("channel", ChannelKL("features", adapt="always"), Schedule(0.5), ("t",)),
        WeightedTerm("critic", Adversarial(widths=(4,)), Schedule(0.1, begin=1, ramp=2), ("t",)),
    )
)


@pytest.fixture(scope="module")
def pieces():
    """(the trainer, a maker of first states): compiled once for the module."""
    model, teacher = tiny(True, parallel.AXIS, points=4), tiny(True, points=4)
    image = jnp.zeros((2, SIDE, SIDE, 3), jnp.uint8)
    variables, frozen = (jax.tree.map(np.asarray, tiny(True, points=4).init(jax.random.key(n), image)) for n in (0, 1))
    optimizers = Optimizers(*[optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))] * 3)
    options = StepOptions(sigma_cells=1.0, ema_decay=0.9, image_px=SIDE)
    step = make_train_step(model, RECIPE, optimizers, lambda s: jnp.float32(1e-2), options, {"t": Teacher(teacher, SIDE)})
    batch = {"landmarks_px": jnp.ones((2, 4, 2)), "visible": jnp.ones((2, 4)), "mask": jnp.ones(2), "image": image}
    outputs = tiny(True, points=4).apply(variables, image)
    inputs = term_inputs(outputs, batch, sigma_cells=1.0, stride=4.0, key=jax.random.key(0), teachers={"t": outputs})
    owned = jax.tree.map(np.asarray, RECIPE.init(jax.random.key(2), inputs))
    trainer = Trainer(step, frozen={"t": frozen}, terms=RECIPE.names)
    return trainer, lambda: parallel.replicate(create(variables, optimizers, seed=0, ema=True, terms=owned))


def train(pieces, folder, *, steps, save_steps=3):
    folder.mkdir(exist_ok=True)
    make = transforms.MakeFace(SCHEME, SIDE, augmentation=transforms.Augmentation())
    iterator = pipeline.training_batches(Faces(10), make, batch_size=4, seed=1, unreadable=pipeline.Unreadable("error"))
    options = loop.LoopOptions(
        total_steps=steps, log_steps=2, validate_steps=99, save_steps=save_steps, batch_size=4, share_steps=4
    )
    try:
        return loop.run(
            name="student", folder=folder, state=pieces[1](), train_step=pieces[0], iterator=iterator, validate=None,
            meta=META, options=options, watch=CriticWatch(patience_steps=2),
        )  # fmt: skip
    finally:
        iterator.close()


def leaves(state):
    return [
        np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        for x in jax.tree.leaves(state)
    ]


def test_a_distilled_run_resumes_bit_equal_with_critics_adapters_and_optimisers(pieces, tmp_path):
    whole = train(pieces, tmp_path / "a", steps=7)
    train(pieces, tmp_path / "b", steps=3)
    resumed = train(pieces, tmp_path / "b", steps=7)
    assert jax.tree.structure(whole) == jax.tree.structure(resumed)
    for x, y in zip(leaves(whole), leaves(resumed), strict=True):
        np.testing.assert_array_equal(x, y)
    first = pieces[1]()
    for part in ("adapter", "critic", "state"):  # every group moved, or equality says nothing
        before, after = ([getattr(own, part) for own in s.terms.values()] for s in (first, whole))
        assert any(not np.array_equal(x, y) for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True))


def in_trees(moments, params, join):
    """An optimiser's state as checkpoints had it before its moments were vectors."""
    structure = jax.tree.structure(join(params))

    def found(node):
        return jax.tree.structure(node) == structure

    def taken_apart(node):
        return vectors.parted(node, {"critic": params})["critic"] if set(node) == {"critic"} else vectors.parted(node, params)

    return jax.tree.map(lambda x: taken_apart(x) if found(x) else x, moments, is_leaf=found)


def test_a_run_from_before_the_moments_were_vectors_goes_on(pieces, tmp_path, monkeypatch):
    whole = train(pieces, tmp_path / "a", steps=7)
    save = checkpoints.Checkpoints.save

    def as_before(self, state, *arguments, **options):
        older = with_moments(state, in_trees)
        assert len(jax.tree.leaves(older.opt_state)) > len(jax.tree.leaves(state.opt_state))
        save(self, older, *arguments, **options)

    with monkeypatch.context() as earlier:
        earlier.setattr(checkpoints.Checkpoints, "save", as_before)
        train(pieces, tmp_path / "b", steps=3)
    resumed = train(pieces, tmp_path / "b", steps=7)
    for x, y in zip(leaves(whole), leaves(resumed), strict=True):
        np.testing.assert_array_equal(x, y)


def test_logs_have_losses_accuracies_norms_and_shares(pieces, tmp_path):
    train(pieces, tmp_path / "c", steps=6)
    rows = read_metrics(tmp_path / "c" / "metrics.jsonl")
    expected = {f"loss/{n}" for n in RECIPE.names} | {"critic/real_accuracy", "critic/fake_accuracy", "critic/critic_loss"}
    expected |= {"grad_norm", "grad_norm/adapters", "grad_norm/critic_critic"}
    assert all(expected <= row.keys() for row in rows)
    assert [row["step"] for row in rows if "share/truth" in row] == [2, 6]  # measured before steps 1 and 5
    shares = [v for k, v in rows[0].items() if k.startswith("share/")]
    assert sum(shares) == pytest.approx(1.0) and rows[0]["share/critic"] == 0.0  # it has not begun


def test_a_students_checkpoint_is_the_student_alone(pieces, tmp_path):
    state = train(pieces, tmp_path / "d", steps=2, save_steps=2)
    variables, _ = checkpoints.load(checkpoints.find_step(tmp_path / "d", "latest"))
    assert variables.keys() == {"params", "batch_stats"}
    assert jax.tree.structure(variables["params"]) == jax.tree.structure(state.params)
