"""Shipped experiments from command to report in their smoke form: the tiny synthetic faces, tiny networks, a few steps."""

import json
import os

import pytest
from doors import TINY, door
from shipped import EXPERIMENTS

# The quickstart's student and the ablation have tests of their own; the study is the ablation's rows. The others compile for
# minutes, and differ from these in what systems_test.py traces: they run where somebody asks for slow tests, compiled as for
# users (the Swin transformer takes minutes a step otherwise).
ELSEWHERE = {"ablation", "study"}
SLOW = pytest.mark.skipif(not os.environ.get("LMKD_SLOW_TESTS"), reason="takes minutes: LMKD_SLOW_TESTS=1 runs it")


@SLOW
@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name not in ELSEWHERE])
def test_every_config_runs_in_its_smoke_form(name, tmp_path):
    done = door("main", f"--config=configs/{name}.py:smoke", f"--data_dir={tmp_path}", "--no_faces", cwd=tmp_path, quick=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / f"{name}_smoke" / "report.html").is_file()


def test_coordinates_stages_that_go_on_from_others_and_frozen_parts_train(tmp_path):
    """Networks of two layers under the one experiment that has all of these."""
    done = door("main", f"--config={TINY / 'compact.py'}", f"--data_dir={tmp_path}", "--no_faces", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    stages = [json.loads(line) for line in (tmp_path / "runs/compact/stud5_rbd/metrics.jsonl").read_text().splitlines()]
    assert all(row["grad_norm"] > 0 and row["loss/response"] > 0 for row in stages)
    assert (tmp_path / "runs" / "compact" / "report.html").is_file()
