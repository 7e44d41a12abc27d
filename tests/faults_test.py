"""Faults on purpose: kills, full disks, losses that are not finite, two runs in one place. Real processes, real files.

LMKD_KILLS=20 kills more often than the two times of the quick form; LMKD_SLOW_TESTS=1 also kills a whole experiment.
launch/faults.sh runs the campaign.
"""

import hashlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from doors import QUICK_COMPILATION, door
from pod_test import SLOW, finished, start, told

from lmkd.training import checkpoints

KILLS = int(os.environ.get("LMKD_KILLS", "2"))


def kill(process: subprocess.Popen, folder: Path, *, in_a_save: bool, seconds: float) -> bool:
    """Kills a run: a while after its first new step, or as soon as a save is half-written; False where it was done before."""
    log = folder / "metrics.jsonl"
    steps = len(log.read_text().splitlines()) if log.is_file() else 0
    while process.poll() is None and (not log.is_file() or len(log.read_text().splitlines()) <= steps):
        time.sleep(0.01)
    until = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < until:
        if in_a_save and any((folder / "checkpoints").glob("*orbax-checkpoint-tmp*")):
            break
        time.sleep(0.001)
    over = process.poll() is not None
    process.kill()
    process.communicate()
    return not over


def test_killed_at_random_moments_a_run_ends_as_an_undisturbed_one(tmp_path, record_property):
    job = {"steps": 6 + 12 * KILLS, "seconds_a_step": 0.1}
    undisturbed = told(finished(start(tmp_path / "undisturbed", 1, 1, steps=job["steps"])))
    draw, kills, in_saves = random.Random(0), 0, 0
    for n in range(KILLS):
        (running,) = start(tmp_path / "run", 1, 1, **job)
        kills += kill(running, tmp_path / "run", in_a_save=n % 2 == 1, seconds=draw.uniform(0.0, 1.5))
        in_saves += any((tmp_path / "run" / "checkpoints").glob("*orbax-checkpoint-tmp*"))
    assert kills == KILLS
    record_property("kills", kills)
    record_property("kills in a save", in_saves)
    again = told(finished(start(tmp_path / "run", 1, 1, steps=job["steps"])))
    assert again == undisturbed  # losses of every step, scores, and the parameters' checksum


def start_experiment(folder: Path, data: Path, workdir: Path) -> subprocess.Popen:
    environment = os.environ | {"XLA_FLAGS": QUICK_COMPILATION, "PYTHONPATH": str(Path(__file__).parents[1])}
    flags = ["--config=configs/quickstart.py:smoke", f"--data_dir={data}", f"--workdir={workdir}", "--no_faces"]
    flags += [
        f"--config.stage.{s}.train.{k}" for s in ("student", "teacher_w32") for k in ("length=40 steps", "save_every=2 steps")
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", "lmkd.main", *flags], cwd=folder, env=environment, **pipes)


@SLOW
def test_a_whole_experiment_killed_at_random_moments_ends_bit_equal(tmp_path, record_property):
    data, kills, draw = tmp_path / "data", 0, random.Random(1)
    (begun, (out, errors)) = time.monotonic(), start_experiment(tmp_path, data, tmp_path / "undisturbed").communicate()
    assert (tmp_path / "undisturbed" / "report.html").is_file(), out + errors
    seconds = time.monotonic() - begun
    for _ in range(10 * KILLS):
        running = start_experiment(tmp_path, data, tmp_path / "run")
        try:
            running.communicate(timeout=draw.uniform(0.1, 0.5) * seconds)
        except subprocess.TimeoutExpired:
            running.kill()
            running.communicate()
            kills += 1
        if kills == KILLS or (tmp_path / "run" / "report.html").is_file():
            break
    record_property("kills", kills)
    out, errors = start_experiment(tmp_path, data, tmp_path / "run").communicate()
    assert (tmp_path / "run" / "report.html").is_file(), out + errors
    for stage in ("teacher_w32", "teacher_v2p", "student"):
        one, other = (checkpoint_sha256(tmp_path / name / stage) for name in ("undisturbed", "run"))
        assert one == other, stage


def checkpoint_sha256(folder: Path) -> str:
    variables, _ = checkpoints.load(checkpoints.find_step(folder, "latest"))
    return hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(variables))).hexdigest()


@pytest.mark.parametrize("policy", [pytest.param("stop", marks=SLOW), "go_on"])
def test_a_full_disk_spares_earlier_checkpoints(tmp_path, policy):
    finished(start(tmp_path, 1, 1, steps=3))
    before = checkpoint_sha256(tmp_path)
    job = {"steps": 8, "go_on_unsaved": policy == "go_on"}
    (said,) = finished(start(tmp_path, 1, 1, largest_file_bytes=4096, **job), status=2)
    assert ("the checkpoint of step 6 could not be written" in said) and "that of step 3 stands" in said
    assert ("Training goes on" in said and "checkpoint of step 8 could not" in said) == (policy == "go_on")
    assert checkpoint_sha256(tmp_path) == before
    assert len(told(finished(start(tmp_path, 1, 1, steps=8)))["losses"]) == 8


@SLOW
def test_a_loss_that_breaks_goes_back_with_smaller_rates(tmp_path):
    flags = ["--config=configs/quickstart.py:plain,smoke", f"--data_dir={tmp_path}", "--no_faces"]
    flags += [f"--config.stage.student.{k}" for k in ("optimizer.learning_rate=1e37", "train.retry_rate=1e-20")]
    given_up = door("main", *flags, cwd=tmp_path)
    assert given_up.returncode == 2 and "became NaN or infinite" in given_up.stderr and "train.retries" in given_up.stderr
    done = door("main", *flags, "--config.stage.student.train.retries=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = "the loss was not finite: from the checkpoint before, rates times 1e-40"
    assert told in done.stdout and told in (tmp_path / "runs" / "quickstart_plain_smoke" / "report.html").read_text()
