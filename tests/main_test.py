"""The doors in processes of their own: the whole way from config to report, and clear messages with exit statuses.

One plain student of two layers here: ablation_test.py has teachers and those they teach, packaging_test.py the quickstart's own
networks, smoke_test.py the other experiments.
"""

import json
import os
import subprocess
from pathlib import Path

import cv2
import pytest
from doors import TINY, door

from lmkd.data import preparation
from lmkd.data_builders.synthetic_faces import drawing
from lmkd.data_builders.synthetic_faces.render import draw_face
from lmkd.evaluation.files import claimed

CONFIG = f"{TINY / 'quickstart.py'}:plain"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_dir) -> tuple[Path, subprocess.CompletedProcess]:
    """The quickstart's student in its smoke form: (workdir, the finished process)."""
    folder = tmp_path_factory.mktemp("run")
    done = door("main", f"--config={CONFIG}", f"--data_dir={data_dir}", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "quickstart_plain", done


def test_one_command_trains_scores_and_reports(trained):
    workdir, done = trained
    results = json.loads((workdir / "results.json").read_text())["results"]
    assert {r["checkpoint"] for r in results} <= {"best", "last"}
    assert all(r["evaluated"] + r["skipped"] == 16 for r in results)
    report = (workdir / "report.html").read_text()
    assert "data:image/jpeg" in report and "synthetic_faces:train, 48 faces" in report
    assert f"report: {workdir / 'report.html'}" in done.stdout
    assert len(next(workdir.glob("faces_*.csv")).read_text().splitlines()) == 17
    assert list((workdir / "student" / "events").iterdir())


def test_a_second_run_reuses_everything(trained, data_dir):
    workdir, _ = trained
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.is_file()}
    again = door("main", f"--config={CONFIG}", f"--data_dir={data_dir}", cwd=workdir.parents[1])
    assert again.returncode == 0 and "finished, skipped" in again.stdout and "nothing changed" in again.stdout
    written = {workdir / "config.json", workdir / ".running"}
    after = {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.is_file() and p not in written}
    assert {p: before[p] for p in after} == after


def test_a_second_run_at_the_same_time_is_refused_and_the_first_named(trained, data_dir):
    workdir, _ = trained
    with claimed(workdir, command="python -m lmkd.main --config=first.py"):
        done = door("main", f"--config={CONFIG}", f"--data_dir={data_dir}", cwd=workdir.parents[1])
    assert done.returncode == 2
    assert f"in use by another run: process {os.getpid()} on " in done.stderr and "--config=first.py" in done.stderr


def test_a_bucket_is_refused_before_anything_is_done(tmp_path):
    done = door("main", f"--config={CONFIG}", "--workdir=gs://b/run", cwd=tmp_path)
    assert done.returncode == 2 and not any(tmp_path.iterdir())
    assert "error: --workdir=gs://b/run: a folder is needed, not an address. Mount the bucket" in done.stderr


def test_a_changed_config_is_refused_with_what_changed(trained, data_dir):
    done = door("main", f"--config={CONFIG}", "--config.seed=5", f"--data_dir={data_dir}", cwd=trained[0].parents[1])
    assert done.returncode == 2 and "seed: 0 -> 5" in done.stderr and "Traceback" not in done.stderr


def test_evaluate_scores_a_path_and_nothing_else(trained, data_dir, tmp_path):
    workdir, _ = trained
    output = tmp_path / "out"
    done = door(
        "evaluate", f"--model={workdir}", "--which=latest", f"--data_dir={data_dir}", "--crop=rectangle", "--normaliser=box",
        f"--output={output}", "--no_faces", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((output / "results.json").read_text())[0]
    assert result["normaliser"] == "box" and result["crop_protocol"].startswith("rectangle") and result["evaluated"] == 16
    assert result["checkpoint"] == "best" and result["step"] == 6
    assert "data:image/jpeg" not in (output / "report.html").read_text()


def test_the_suites_print_write_and_report(trained, data_dir, tmp_path):
    workdir, _ = trained
    output = tmp_path / "out"
    done = door(
        "evaluate", f"--model={workdir}", f"--data_dir={data_dir}", "--suite=robustness", "--limit=4", "--suite=limits",
        f"--output={output}", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "4 faces evaluated, 0 skipped, the first 4 of 16" in done.stdout and "low resolution" in done.stdout
    (found,) = json.loads((output / "robustness.json").read_text())
    assert len(found["entries"]) == 40 and [a["strength"] for a in found["attacks"]] == [0, 2, 4, 8]
    assert all(e["faces"] == 4 for e in (found["clean"], *found["entries"], *found["attacks"]))
    assert json.loads((output / "results.json").read_text())[0]["evaluated"] == 16  # the scores are of all faces
    (found,) = json.loads((output / "limits.json").read_text())
    assert [sum(q["faces"] for q in quarters) for quarters in found["quarters"].values()][:4] == [16] * 4
    assert (output / "limits.md").read_text().strip() in done.stdout
    assert '<section id="robustness">' in (output / "report.html").read_text()


def test_predict_does_what_it_can_and_tells_the_rest(trained, tmp_path):
    workdir, _ = trained
    (tmp_path / "faces").mkdir()
    for n in range(2):
        cv2.imwrite(str(tmp_path / "faces" / f"{n}.png"), draw_face(seed=0, index=n, size_px=96).image[..., ::-1])
    (tmp_path / "faces" / "bad.jpg").write_bytes(b"no picture")
    # A flag after the words, as people type them.
    done = door("predict", f"--model={workdir}", "faces", "--detector=whole", "--format=csv", "--output=out", cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "left out: faces/bad.jpg: cannot be read" in done.stderr and "1 of 3 files could not be used" in done.stderr
    assert "faces/0.png: 1 face" in done.stdout and "2 of 3 files: out/predictions.csv" in done.stdout
    header, *lines = (tmp_path / "out" / "predictions.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["faces/0.png", "faces/1.png"] and header.count("confidence_") == 68
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["0.png", "1.png", "predictions.csv"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [(["--suite=robustnes"], "Did you mean 'robustness'"), (["--limit=4"], "--suite=robustness")],
)
def test_a_wrong_suite_is_told_before_a_model_is_loaded(arguments, part, tmp_path):
    done = door("evaluate", "--model=nowhere", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and part in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments,parts",
    [
        (["--config=configs/quickstrat.py"], ["Did you mean 'quickstart.py'"]),
        (["--config", "configs/quickstrat.py"], ["Did you mean 'quickstart.py'"]),
        (["--config=configs/quickstart.py:smok"], ["Did you mean 'smoke'"]),
        (["--config=configs/quickstart.py", "--config.data.imgae_px=64"], ["image_px"]),
        (["--config=configs/quickstart.py", "--config.data.image_px=large"], ["image_px"]),
        (["--config=configs/quickstart.py", "--config.heatmap.decoder=darc"], ["Did you mean 'dark'"]),
        (["--config=configs/quickstart.py", "--wrokdir=x"], ["wrokdir", "workdir"]),
        (["--config=configs/quickstart.py", "--config.stages=teacher_w32,studen"], ["unknown stage 'studen'", "'student'"]),
        (["--config=configs/quickstart.py", "stray"], ["unexpected argument 'stray'"]),
        (["--config=configs/wflw.py"], ["wflw", "python -m lmkd.prepare --dataset=wflw"]),
        ([], ["--config=configs/quickstart.py"]),
    ],
    ids=["file", "file_after_a_space", "variant", "key", "type", "value", "flag", "stages", "argument", "data", "nothing"],
)
def test_what_is_wrong_is_told_in_one_clear_message(arguments, parts, tmp_path):
    done = door("main", *arguments, f"--data_dir={tmp_path / 'none'}", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_missing_split_or_normaliser_is_told_before_training(trained, data_dir, tmp_path):
    done = door(
        "main", f"--config={CONFIG}", "--config.evaluation.normaliser=inter_occular",
        "--config.data.test=('synthetic_faces/tiny_68:tset',)", f"--data_dir={data_dir}", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "Did you mean 'inter_ocular'" in done.stderr and "Did you mean 'test'" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_damaged_image_is_one_clear_message_or_counted(data_dir, tmp_path, monkeypatch):
    # As a failing disk would leave them; the strict builders would not have let such an image in.
    whole = drawing._draw_record

    def damaged(seed, index, size_px):
        record = whole(seed, index, size_px)
        return record._replace(jpeg=b"no image") if index % 8 == 3 else record

    monkeypatch.setattr(drawing, "_draw_record", damaged)
    preparation.prepare("synthetic_faces", config_name="tiny_68", data_dir=str(tmp_path / "tfds"), progress=False)
    command = ["main", f"--config={CONFIG}", f"--data_dir={tmp_path / 'tfds'}", "--no_faces"]
    done = door(*command, cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "the image cannot be decoded" in done.stderr and "on_unreadable='skip'" in done.stderr
    done = door(*command, "--config.data.on_unreadable=skip", "--workdir=skipped", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "skipped" / "results.json").read_text())["results"][0]
    assert (result["evaluated"], result["skipped"]) == (14, 2)
    report = (tmp_path / "skipped" / "report.html").read_text()
    assert "2 unreadable faces skipped" in report and "6 unreadable training records were replaced" in report
    # A session that goes on tells what the ones before it could not read as well.
    stage = next(path.parent for path in (tmp_path / "skipped").glob("*/finished.json"))
    (stage / "finished.json").unlink()
    kept = json.loads((stage / "unreadable.json").read_text())
    (stage / "unreadable.json").write_text(json.dumps([*kept, "of an earlier session"]))
    done = door(*command, "--config.data.on_unreadable=skip", "--workdir=skipped", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((stage / "finished.json").read_text())["unreadable"] == sorted([*kept, "of an earlier session"])
