"""The train step: exact sums, two devices as one, accumulation, padding, one compilation; and what a step leaves alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_models import TinyBackbone, tiny

from lmkd.distill.recipe import Recipe, Schedule, WeightedTerm
from lmkd.distill.terms.coordinates import PointL2
from lmkd.distill.terms.ground_truth import HeatmapMSE
from lmkd.models.coordinates import Pooled
from lmkd.models.landmarker import Landmarker
from lmkd.models.readout import Coordinates
from lmkd.training import parallel
from lmkd.training.shares import Trainer
from lmkd.training.state import Optimizers, create, inference_variables
from lmkd.training.step import StepOptions, make_train_step

SIDE, POINTS = 16, 3


def batch_of(faces: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns random faces."""
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (faces, SIDE, SIDE, 3), np.uint8),
        "landmarks_px": rng.uniform(2, SIDE - 3, (faces, POINTS, 2)).astype(np.float32),
        "visible": np.ones((faces, POINTS), np.float32),
        "mask": np.ones(faces, np.float32),
    }


def step_and_state(model, *, optimizer=None, ema: float = 0.0, term=None, **options):
    """Returns (the plain step, the first state)."""
    optimizers = Optimizers(*[optimizer or optax.sgd(0.5)] * 3)
    recipe = Recipe((WeightedTerm("heatmap", term or HeatmapMSE(), Schedule(1.0)),))
    step = make_train_step(
        model, recipe, optimizers, lambda s: jnp.float32(0.5), StepOptions(sigma_cells=1.0, ema_decay=ema, **options)
    )
    variables = model.init(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3), jnp.uint8))
    return step, create(variables, optimizers, seed=0, ema=ema > 0)


def on(devices: int, step, state, batch, parts: int = 1):
    """Runs one step over that many devices."""
    mapped = jax.pmap(
        step, axis_name=parallel.AXIS, in_axes=(None, 0, None, None), out_axes=None, devices=jax.devices()[:devices]
    )
    share = len(batch["image"]) // devices // parts
    lead = (devices, parts, share) if parts > 1 else (devices, share)
    return mapped(state, {k: v.reshape(*lead, *v.shape[1:]) for k, v in batch.items()}, {}, np.ones(1, np.float32))


def assert_close(a, b, tolerance=2e-6):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance)


def test_sgd_step_follows_the_gradient_of_the_mean_loss():
    model = tiny()
    step, state = step_and_state(model)
    batch = batch_of(4)
    new, metrics = on(1, step, state, batch)

    def mean_loss(params):
        maps = model.apply({"params": params}, batch["image"], train=True).heatmaps
        target = np.zeros(maps.shape, np.float32)
        for b in range(4):
            for k in range(POINTS):
                x, y = (batch["landmarks_px"][b, k] + 0.5) / 4 - 0.5
                rows, columns = np.mgrid[:4, :4]
                target[b, :, :, k] = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 2)
        return jnp.mean((maps - target) ** 2)

    value, gradient = jax.jit(jax.value_and_grad(mean_loss))(state.params)
    assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-5)
    assert_close(new.params, jax.tree.map(lambda p, g: p - 0.5 * g, state.params, gradient))
    assert int(new.step) == 1


def test_a_coordinate_network_follows_the_gradient_of_its_points():
    model = Landmarker(TinyBackbone(), Pooled(POINTS), Coordinates())
    step, state = step_and_state(model, term=PointL2())
    batch = batch_of(4)
    new, metrics = on(1, step, state, batch)

    def mean_loss(params):
        maps, _ = TinyBackbone().apply(
            {"params": params["backbone"]}, model.apply({}, batch["image"], method="_normalised"), True
        )
        dense = params["head"]["final"]
        fractions = (jnp.mean(maps[0], axis=(1, 2)) @ dense["kernel"] + dense["bias"][None]).reshape(4, POINTS, 2)
        return jnp.mean(jnp.sum((fractions + 0.5 - (batch["landmarks_px"] + 0.5) / SIDE) ** 2, axis=-1))

    value, gradient = jax.jit(jax.value_and_grad(mean_loss))(state.params)
    assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-5)
    assert float(metrics["grad_norm"]) == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-4)
    assert_close(new.params, jax.tree.map(lambda p, g: p - 0.5 * g, state.params, gradient))


def test_two_devices_equal_one_with_synchronised_norms():
    batch = batch_of(8)
    one, _ = on(1, *step_and_state(tiny(True, parallel.AXIS)), batch)
    two, _ = on(2, *step_and_state(tiny(True, parallel.AXIS)), batch)
    assert_close(one.params, two.params)
    assert_close(one.batch_stats, two.batch_stats)


def test_local_norms_differ_from_synchronised_ones_but_running_statistics_are_averaged():
    batch = batch_of(8)
    one, _ = on(1, *step_and_state(tiny(True, parallel.AXIS)), batch)
    two, _ = on(2, *step_and_state(tiny(True), local_norm=True), batch)
    mean = [s["mean"] for s in (one.batch_stats["backbone"]["BatchNorm_0"], two.batch_stats["backbone"]["BatchNorm_0"])]
    np.testing.assert_allclose(mean[0], mean[1], atol=1e-6)  # the mean of halves' means is the mean
    gaps = [
        float(np.abs(np.asarray(a) - np.asarray(b)).max())
        for a, b in zip(*map(jax.tree.leaves, (one.params, two.params)), strict=True)
    ]
    assert max(gaps) > 1e-5


def test_micro_batches_equal_one_batch():
    batch = batch_of(8)
    whole, metrics = on(1, *step_and_state(tiny()), batch)
    parts, part_metrics = on(1, *step_and_state(tiny(), micro_batches=4), batch, parts=4)
    assert_close(whole.params, parts.params)
    assert float(metrics["loss"]) == pytest.approx(float(part_metrics["loss"]), rel=1e-6)


def test_padding_changes_nothing_whatever_it_holds():
    faces = batch_of(3)
    padded = {k: np.concatenate([v, v[:1]]) for k, v in faces.items()}
    padded["landmarks_px"][3] = np.nan
    padded["mask"][3] = 0
    plain, plain_metrics = on(1, *step_and_state(tiny()), faces)
    one, metrics = on(1, *step_and_state(tiny()), padded)
    two, _ = on(2, *step_and_state(tiny()), padded)  # unequal masks over devices: a mean of means would differ
    assert_close(plain.params, one.params)
    assert_close(plain.params, two.params)
    assert float(metrics["loss"]) == pytest.approx(float(plain_metrics["loss"]), rel=1e-6)


def test_invisible_and_outside_points_do_not_count():
    batch = batch_of(2)
    hidden = {k: v.copy() for k, v in batch.items()}
    hidden["visible"][:, 0] = 0
    moved = {k: v.copy() for k, v in hidden.items()}
    moved["landmarks_px"][:, 0] = 5.0
    a, _ = on(1, *step_and_state(tiny()), hidden)
    b, _ = on(1, *step_and_state(tiny()), moved)
    c, _ = on(1, *step_and_state(tiny()), batch)
    assert_close(a.params, b.params, 0)
    assert any(
        np.abs(np.asarray(x) - np.asarray(y)).max() > 1e-6
        for x, y in zip(*map(jax.tree.leaves, (a.params, c.params)), strict=True)
    )


def test_average_of_parameters_warms_up():
    step, state = step_and_state(tiny(True, parallel.AXIS), ema=0.9)
    new, _ = on(1, step, state, batch_of(4))
    # At step 0 the decay is min(0.9, 1 / 10): a tenth of the old, nine tenths of the new.
    expected = jax.tree.map(lambda old, now: 0.1 * old + 0.9 * now, state.params, new.params)
    assert_close(new.ema["params"], expected)
    assert_close(inference_variables(new)["params"], expected)


def test_mapped_step_compiles_once(caplog):
    step, state = step_and_state(tiny(True, parallel.AXIS), ema=0.9)
    trainer, state = Trainer(step, frozen={}, terms=("heatmap",)), parallel.replicate(state)
    with jax.log_compiles():
        for seed in range(3):
            state, _ = trainer(state, parallel.split_over_devices(batch_of(4, seed)))
    compiled = [r.message for r in caplog.records if r.message.startswith("Compiling") and "train_step" in r.getMessage()]
    assert len(compiled) <= 1
    assert int(state.step) == 3


def test_a_mesh_gives_what_pmap_gives_to_the_bit():
    found = []
    for kind in parallel.KINDS:
        step, first = step_and_state(tiny(True, parallel.AXIS), ema=0.9)
        trainer = Trainer(step, frozen={}, terms=("heatmap",), kind=kind)
        state, metrics = trainer(parallel.replicate(first), parallel.split_over_devices(batch_of(4)))
        found.append(jax.tree.leaves((state.params, state.ema, metrics)))
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_recipe_does_not_depend_on_order():
    terms = [WeightedTerm(n, HeatmapMSE(s), Schedule(w)) for n, s, w in (("a", 1.0, 2.0), ("b", 3.0, 0.5))]
    assert Recipe(tuple(terms)) == Recipe(tuple(reversed(terms)))


@pytest.mark.parametrize("step,expected", [(0, 0.0), (9, 0.0), (10, 0.4), (14, 2.0), (99, 2.0)])
def test_weight_rises(step, expected):
    assert float(Schedule(2.0, begin=10, ramp=5).at(step)) == pytest.approx(expected)


@pytest.mark.parametrize("step,expected", [(0, 6.0), (29, 6.0), (30, 5.4), (60, 4.86)])
def test_weight_decays_as_in_channel_distillation(step, expected):
    """Weight 6, times 0.9 after every 30 epochs (Zhou et al. 2020, section 3.3)."""
    assert float(Schedule(6.0, decay_every=30, decay_factor=0.9).at(step)) == pytest.approx(expected)


def test_terms_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        HeatmapMSE().scale = 2.0
