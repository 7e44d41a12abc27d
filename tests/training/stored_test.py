"""Checkpoints that are damaged, or another network's: refused, with the tensors that differ and a step that is whole."""

import json
import shutil

import jax
import numpy as np
import optax
import pytest
import tiny_checkpoint
from small_faces import SCHEME, Faces

from lmkd import build
from lmkd.core.errors import UserError
from lmkd.data import pipeline, transforms
from lmkd.training import checkpoints, parallel, soundness, stored
from lmkd.training.state import Optimizers, create, inference_variables


def first_state(width=3):
    """A state of one layer; large enough that its tensor has a file region of its own."""
    kernel = np.random.default_rng(0).normal(size=(40, width, 40)).astype(np.float32)
    variables = {"params": {"a": {"kernel": kernel, "bias": np.ones(width, np.float32)}}, "batch_stats": {}}
    return parallel.replicate(create(variables, Optimizers(*[optax.adam(1e-2)] * 3), seed=0, ema=True))


def batches():
    make = transforms.MakeFace(SCHEME, 16)
    return pipeline.training_batches(Faces(4), make, batch_size=2, seed=1, unreadable=pipeline.Unreadable("error"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A stage's folder with steps 3 (the best) and 5."""
    folder, state, iterator = tmp_path_factory.mktemp("stage"), first_state(), batches()
    next(iterator)
    writer = checkpoints.Checkpoints(folder, asynchronous=False)
    for step, nme in ((3, 0.1), (5, 0.2)):
        now = state.replace(step=jax.device_put(np.int32(step), state.step.sharding))
        writer.save(now, iterator, {"format": build.META_FORMAT}, validation_nme=nme)
    writer.close()
    iterator.close()
    return folder, state


@pytest.fixture
def stage(saved, tmp_path):
    """A copy of that folder to damage."""
    return shutil.copytree(saved[0], tmp_path / "stage")


def restore(folder, like):
    manager, iterator = checkpoints.Checkpoints(folder, asynchronous=False), batches()
    try:
        return manager.restore(like, iterator)
    finally:
        manager.close()
        iterator.close()


def largest_file(step_folder, part):
    return max((p for p in (step_folder / part).rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip_a_bit(step_folder, part):
    path = largest_file(step_folder, part)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def cut_short(step_folder, part):
    path = largest_file(step_folder, part)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {
    "flipped": (lambda s: flip_a_bit(s, "model"), "changed since it was saved: model/params/a/kernel"),
    "cut short": (lambda s: cut_short(s, "model"), "cannot be read: model/params/a/kernel"),
    "no part": (lambda s: shutil.rmtree(s / "model"), "list of the tensors of `model` is missing"),
    "index": (lambda s: (s / "model" / "_METADATA").write_text('{"a":'), "list of the tensors of `model`"),
    "no meta": (lambda s: shutil.rmtree(s / "meta"), "`meta` is missing"),
    "meta": (lambda s: (s / "meta" / "metadata").write_text("[1]"), "`meta` is no JSON object"),
    "metrics": (lambda s: (s / "metrics" / "metrics").write_text("{"), "`metrics` is no JSON"),
    "checksums": (lambda s: (s / "checksums" / "metadata").write_text('{"model": 3}'), "`checksums` lacks"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_model_is_refused_and_the_step_before_it_offered(stage, damage, message):
    damage(stage / "checkpoints" / "5")
    with pytest.raises(UserError) as told:
        checkpoints.load(checkpoints.find_step(stage, "latest"))
    assert message in str(told.value) and f"Step 3 beside it is whole: name its folder, {stage}/checkpoints/3" in str(
        told.value
    )
    checkpoints.load(stage / "checkpoints" / "3")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: flip_a_bit(s, "train"), "changed since it was saved: train/"),
        (lambda s: cut_short(s, "train"), "cannot be read: train/"),
        (lambda s: shutil.rmtree(s / "iterator"), "`iterator`, which says which faces come next, is missing"),
    ],
    ids=["flipped", "cut short", "no iterator"],
)
def test_training_does_not_go_on_from_a_damaged_state(saved, stage, damage, message):
    damage(stage / "checkpoints" / "5")
    with pytest.raises(UserError) as told:
        restore(stage, saved[1])
    assert message in str(told.value) and f"to go on training from it, remove {stage}/checkpoints/5 first" in str(told.value)
    shutil.rmtree(stage / "checkpoints" / "5")
    assert int(restore(stage, saved[1]).step) == 3


def test_where_no_other_step_is_whole_the_message_says_so(stage):
    for step in (3, 5):
        flip_a_bit(stage / "checkpoints" / str(step), "model")
    with pytest.raises(UserError, match="No other checkpoint beside it is whole"):
        checkpoints.load(stage / "checkpoints" / "5")


def test_a_state_of_another_architecture_is_told_tensor_by_tensor(saved):
    with pytest.raises(UserError) as told:
        restore(saved[0], first_state(width=4))
    assert "other shape: params/a/kernel is [40, 3, 40], needed [40, 4, 40]" in str(told.value)


def test_differences_name_missing_unexpected_and_other_shapes():
    zeros = lambda *shape: np.zeros(shape, np.float32)  # noqa: E731
    stored_shapes = soundness.shapes({"a": zeros(2), "b": {"c": zeros(3)}})
    needed = soundness.shapes({"a": zeros(4), "d": zeros(1)})
    assert soundness.differences(stored_shapes, needed) == [
        "missing: d [1]",
        "unexpected: b/c [3]",
        "other shape: a is [2], needed [4]",
    ]


def test_tensors_that_claim_too_much_are_refused_before_they_are_read(stage, monkeypatch):
    monkeypatch.setattr(soundness, "MOST_BYTES", 4 * 40 * 3 * 40)
    with pytest.raises(UserError, match="the tensors of `model` claim"):
        checkpoints.load(stage / "checkpoints" / "5")
    assert soundness.size_bytes({"x": ((1 << 40, 1 << 40), np.dtype(np.float32))}) == 4 << 80


def test_a_long_list_of_differences_is_cut(tmp_path):
    error = stored.Damaged(tmp_path, [f"cannot be read: {n}" for n in range(40)])
    assert str(error).count("cannot be read") == stored.MOST_TOLD and "... and 28 more" in str(error)


def test_checksums_see_every_bit_and_every_kind_of_array():
    tree = {"a": np.float32([1, 2]), "key": jax.random.key(3), "step": np.int32(4)}
    kept = soundness.checksums(tree)
    assert soundness.changed(tree, kept) == []
    assert soundness.changed(tree | {"a": np.nextafter(tree["a"], np.float32(9))}, kept) == ["a"]
    assert soundness.changed(tree | {"key": jax.random.key(4)}, kept) == ["key"]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return tiny_checkpoint.write(tmp_path_factory.mktemp("model") / "30")


def rewritten(model_folder, tmp_path, change):
    """A copy of a model's folder whose meta went through `change`."""
    folder = shutil.copytree(model_folder, tmp_path / "30")
    path = folder / "meta" / "metadata"
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))
    return folder


def set_model(meta, **options):
    meta["config"]["stage"]["student"]["model"] |= options


CHANGES = {
    "format": (lambda m: m.update(format=9), "written in format 9, this version of lmkd reads 1"),
    "architecture": (
        lambda m: set_model(m, backbone_options={"width": 8}),
        r"another network.*\n.*other shape: batch_stats/backbone/bn/mean is \[4\], needed \[8\]",
    ),
    "scheme": (
        lambda m: m.update(scheme=json.loads(SCHEME.to_json())),
        r"other shape: params/head/final/bias is \[68\], needed \[4\]",
    ),
    "no config": (lambda m: m.pop("config"), "describes no network that can be built: KeyError: 'config'"),
    "no network": (lambda m: set_model(m, backbone="subprocess.Popen"), "'subprocess.Popen' is no flax.linen.Module"),
    "no stage": (lambda m: m.update(stage=["x"]), "describes no network"),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES.keys())
def test_a_checkpoint_that_does_not_fit_its_own_description_is_refused(model_folder, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        build.load(rewritten(model_folder, tmp_path, change))


def test_the_sound_one_is_loaded(model_folder, saved):
    assert build.load(model_folder).variables["params"]["head"]["final"]["bias"].shape == (68,)
    variables, _ = checkpoints.load(saved[0] / "checkpoints" / "5", inference_variables(saved[1]))
    np.testing.assert_array_equal(variables["params"]["a"]["kernel"], saved[1].ema["params"]["a"]["kernel"])
