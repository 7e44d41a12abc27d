"""Exports of one tiny checkpoint: each runs in its own runtime and says what the checkpoint says; or nothing is kept."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny_checkpoint

from lmkd import build, exporting, scoring
from lmkd.core.errors import UserError
from lmkd.exporters import card, formats, stablehlo
from lmkd.exporters.formats import Format, Tolerance
from lmkd.models import landmarker
from lmkd.models.readout import Coordinates, Reading
from lmkd.opened import open_model
from lmkd.training import soundness
from lmkd.training.stored import index

pytest.importorskip("flatbuffers")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

SIDE = tiny_checkpoint.SIDE_PX
ALONE = {
    # Neither imports this package: what a user without it writes.
    "stablehlo": """
import sys, numpy as np, jax.export
program = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
found = {k: np.asarray(v) for k, v in program.call(np.load(sys.argv[2])).items()}
""",
    "onnx": """
import sys, numpy as np, onnxruntime
names = ["landmarks_px", "heatmaps", "confidence"]
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
found = dict(zip(names, session.run(names, {"crops": np.load(sys.argv[2])})))
assert not any(n.split(".")[0] in ("jax", "tensorflow") for n in sys.modules)
""",
}
END = """
assert not any(n.split(".")[0] in ("lmkd", "flax") for n in sys.modules)
np.savez(sys.argv[3], **found)
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return build.load(tiny_checkpoint.write(tmp_path_factory.mktemp("checkpoint") / "run" / "student" / "checkpoints" / "30"))


@pytest.fixture(scope="module")
def crops():
    return exporting.Crops(*np.random.default_rng(0).integers(0, 256, (2, 5, SIDE, SIDE, 3), np.uint8), "noise")


@pytest.fixture(scope="module")
def output(loaded, crops, tmp_path_factory):
    """StableHLO, ONNX and Orbax, with the flip test inside."""
    folder = tmp_path_factory.mktemp("out") / "deep" / "down"
    done = exporting.export(loaded, ("stablehlo", "onnx", "orbax"), folder, crops=crops, flip_test=True)
    assert [e.folder.name for e in done] == ["stablehlo", "onnx", "orbax"]
    assert all(e.difference.crops == 5 and e.difference.mean_px < 1e-4 for e in done)
    assert "| onnx " in exporting.table(done)
    return folder


@pytest.fixture(scope="module")
def expected(loaded, crops):
    flip = tuple(loaded.scheme.flip)
    run = jax.jit(lambda v, x: landmarker.predict(loaded.model, v, x, flip_permutation=flip))
    return Reading(*map(np.asarray, run(loaded.variables, crops.check)))


@pytest.mark.parametrize("name", ALONE)
def test_a_file_runs_without_this_package_and_says_what_the_checkpoint_says(name, output, crops, expected, tmp_path):
    np.save(tmp_path / "crops.npy", crops.check)
    file = output / name / formats.module(formats.find(name)).FILE
    command = [sys.executable, "-I", "-c", ALONE[name] + END, file, tmp_path / "crops.npy", tmp_path / "found.npz"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "XLA_FLAGS": ""})
    assert done.returncode == 0, done.stderr[-2000:]
    found = np.load(tmp_path / "found.npz")
    for field in Reading._fields:
        np.testing.assert_allclose(found[field], getattr(expected, field), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["stablehlo", "onnx", "orbax"])
def test_any_export_opens_as_any_model_does(name, output, crops, expected):
    opened = open_model(output / name, flip_test=True)
    assert (opened.image_px, opened.crop_scale, opened.flip_test) == (SIDE, 1.25, True)
    assert opened.scheme == tiny_checkpoint.SCHEME and opened.step == 30
    assert opened.training_data[0].text() == "made_up:train, 3 of 4 faces"
    for count in (1, 3):
        found = opened.run(crops.check[:count])
        assert found.heatmaps.shape == (count, SIDE // 4, SIDE // 4, 68)
        np.testing.assert_allclose(found.landmarks_px, expected.landmarks_px[:count], rtol=1e-4, atol=1e-4)


def test_the_card_says_what_a_user_must_know(output):
    told = json.loads((output / "onnx" / card.NAME).read_text())
    assert told["scheme"]["name"] == "300w68" and told["image_px"] == SIDE and told["flip_test"] is True
    assert told["crop"]["protocol"] == "landmarks" and told["crop"]["scale"] == 1.25
    assert told["outputs"]["landmarks_px"].startswith("float32 [b, 68, 2]")
    assert told["difference"]["crops"] == 5 and told["difference"]["source"] == "noise"
    assert told["training_data"][0]["found"] == 3 and "licences" in told["licence"]
    assert told["config"]["data"]["data_dir"] == "" and told["versions"]["exported"]["jax"] == jax.__version__
    assert told["bytes"] == (output / "onnx" / "model.onnx").stat().st_size


def test_the_kept_config_has_no_folder_of_the_machine_that_trained(loaded):
    config = loaded.config.copy_and_resolve_references()
    stage = config.stage[loaded.meta["stage"]]
    stage.teachers = {"a": "/made/up/runs/a", "b": "faces68-1m", "c": "runs/c"}
    stage.train.unlabelled = ("the300w/partial_0123456789:train",)
    kept = exporting._portable(loaded._replace(config=config))["stage"][loaded.meta["stage"]]
    assert kept["teachers"] == {"a": "a", "b": "faces68-1m", "c": "runs/c"}
    assert kept["train"]["unlabelled"] == ["the300w:train"] and kept["model"]["weights"] == ""


def test_an_orbax_export_is_a_checkpoint_without_the_rest(output, loaded):
    back = build.load(output / "orbax")
    assert "teachers" not in back.meta and sorted(p.name for p in (output / "orbax").iterdir()) == ["meta", "model", card.NAME]
    jax.tree.map(np.testing.assert_array_equal, back.variables, loaded.variables)
    assert (back.label, back.step) == (loaded.label, 30)


def test_half_floats_are_half_the_bytes_and_float32_again_when_loaded(loaded, crops, tmp_path):
    exporting.export(loaded, ("orbax_float16",), tmp_path, crops=crops)
    stored = soundness.shapes(index(tmp_path / "orbax_float16", "model"))
    assert {dtype for _, dtype in stored.values()} == {np.dtype(np.float16)}
    back = jax.tree.leaves(build.load(tmp_path / "orbax_float16").variables)
    for whole, half in zip(jax.tree.leaves(loaded.variables), back, strict=True):
        assert half.dtype == np.float32
        np.testing.assert_array_equal(half, np.asarray(whole).astype(np.float16))


def test_the_flip_test_is_the_files_own(output):
    with pytest.raises(UserError, match="was exported with the flip test.*--noflip_test"):
        open_model(output / "onnx", flip_test=False)


def test_points_are_read_by_another_decoder_where_one_is_asked_for(output, loaded, crops, tmp_path):
    found = open_model(output / "orbax", decoder="argmax").run(crops.check)
    peaks = np.asarray(found.heatmaps).reshape(len(crops.check), -1, 68).argmax(axis=1)
    cells = np.stack([peaks % (SIDE // 4), peaks // (SIDE // 4)], axis=-1)
    np.testing.assert_allclose(found.landmarks_px, 4 * cells + 1.5)
    (done,) = exporting.export(loaded.read_by("mean"), ("onnx",), tmp_path, crops=crops)
    assert done.difference.mean_px < 1e-4 and build.load(output / "orbax").decoder == "local_soft_argmax"
    with pytest.raises(UserError, match="unknown decoder 'meen' .--decoder.*Did you mean 'mean'"):
        loaded.read_by("meen")
    with pytest.raises(UserError, match="model.onnx reads its points by itself: export it again with --decoder=argmax"):
        open_model(output / "onnx", decoder="argmax")
    pointwise = loaded._replace(model=loaded.model.clone(readout=Coordinates()))
    with pytest.raises(UserError, match="--decoder=mean: .* gives points, no heatmaps"):
        pointwise.read_by("mean")


def test_a_folder_of_several_exports_asks_which(output, tmp_path):
    with pytest.raises(UserError, match="several exported models .onnx, orbax, stablehlo."):
        open_model(output)
    (tmp_path / "weights.npz").write_bytes(b"")
    with pytest.raises(UserError, match="has no model.json beside it"):
        open_model(tmp_path / "weights.npz")


def test_past_the_tolerance_nothing_is_kept_and_the_earlier_export_stays(loaded, crops, tmp_path, monkeypatch):
    def shifted(path, threads):
        run = stablehlo.runner(path, threads)

        def moved(images):
            found = run(images)
            return found._replace(landmarks_px=found.landmarks_px + 0.3)

        return moved

    class Broken:
        FILE, write, runner = stablehlo.FILE, staticmethod(stablehlo.write), staticmethod(shifted)

    strict = Format("broken", "", Tolerance(0.01, None), "of a test")
    monkeypatch.setattr(formats, "find", lambda name, where="": strict)
    monkeypatch.setattr(formats, "module", lambda form: Broken)
    (tmp_path / "out" / "stablehlo").mkdir(parents=True)
    (tmp_path / "out" / "stablehlo" / "old").touch()
    with pytest.raises(UserError, match=r"0.4243 px from the checkpoint's on average.*0.32 px on average is this format"):
        exporting.export(loaded, ("stablehlo",), tmp_path / "out", crops=crops)
    assert [p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path.rglob("*"))] == [
        "out", "out/stablehlo", "out/stablehlo/old",
    ]  # fmt: skip
    with pytest.raises(UserError, match="Nothing was kept"):
        exporting.export(loaded, ("stablehlo",), tmp_path / "new" / "folder", crops=crops)
    assert not (tmp_path / "new").exists()


def test_differences_by_hand():
    def reading(shift, level):
        return Reading(np.full((2, 1, 1, 3), level), np.zeros((2, 3, 2)) + shift, np.ones((2, 3)))

    moved = reading(0.0, 0.5)
    moved.landmarks_px[0, 0] = (3, 4)
    found = exporting.compared(moved, reading(0.0, 0.25))
    assert found == (2, pytest.approx(5 / 6), 5.0, 0.25)
    moved.landmarks_px[0, 0] = np.nan
    with pytest.raises(UserError, match="not finite"):
        exporting.compared(moved, reading(0.0, 0.25))


def test_drawn_crops_are_cut_as_the_model_was_trained(loaded, monkeypatch):
    monkeypatch.setattr(exporting, "CALIBRATION_FACES", 2)
    monkeypatch.setattr(exporting, "CHECK_FACES", 2)
    crops = exporting.drawn_crops(loaded)
    assert crops.calibration.shape == crops.check.shape == (2, SIDE, SIDE, 3)
    assert crops.check.std() > 10 and crops.source == "synthetic faces"


def test_an_unknown_format_is_told_with_the_nearest():
    assert {"onnx", "orbax", "stablehlo", "tflite", "tflite_int8", "tflite_float16"} <= set(formats.every())
    with pytest.raises(UserError, match="Did you mean 'tflite_int8'"):
        formats.find("tflite_in8")


def test_scores_are_those_of_the_very_step(loaded):
    results = loaded.folder.parents[2] / "results.json"
    row = {"name": "student on a:test", "step": 30, "crop_protocol": "c", "flip_test": True, "normaliser": "n", "evaluated": 1}
    rest = {"skipped": 0, "overall": {"nme_percent": 4.0}, "interval_percent": [3, 5]}
    others = [row | rest | {"step": 20}, row | rest | {"name": "other on a:test"}]
    results.write_text(json.dumps({"results": [row | rest, *others]}))
    (kept,) = exporting._scores(loaded)
    assert kept["data"] == "a:test" and kept["overall"]["nme_percent"] == 4.0
    assert exporting._scores(loaded.read_by("argmax")) == []  # nobody has scored that
    assert exporting._scores(loaded.read_by(loaded.config.heatmap.decoder)) == [kept]
    results.unlink()
    assert exporting._scores(loaded) == []


def test_an_exported_file_is_scored_as_a_checkpoint_is(output, monkeypatch):
    from small_faces import SCHEME, Faces

    monkeypatch.setattr(scoring, "records", lambda *_: Faces(3))
    monkeypatch.setattr(scoring.evaluator, "in_target_scheme", lambda predict, *_: lambda b: [x[:, :4] for x in predict(b)])
    scored = []
    for name in ("onnx", "orbax"):
        opened = open_model(output / name, flip_test=True)
        opened.config.evaluation.batch_size = 2
        found = scoring.score_split(opened, opened.config, "made:up", crop="landmarks", provenance="")
        assert found.result.scheme == SCHEME and found.result.flip_test and found.result.step == 30
        scored.append(found.result)
    assert scored[0].checkpoint.startswith("onnx of ")
    assert scored[0].scores.overall.nme_percent == pytest.approx(scored[1].scores.overall.nme_percent, rel=1e-4)
