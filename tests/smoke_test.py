"""Shipped experiments from command to report in their smoke form: the tiny synthetic faces, tiny networks, a few steps."""

import os
from pathlib import Path

import pytest
from doors import door

from lmkd.configs import common

EXPERIMENTS = {p.stem for p in Path(common.__file__).parent.glob("*.py")} - {"__init__", "common", "method", "systems"}
# The quickstart's student and the ablation have tests of their own. Those that are not here compile for minutes, and differ
# from these in what systems_test.py traces: they run where somebody asks for slow tests, compiled as for users (the Swin
# transformer takes minutes a step otherwise).
QUICK = {"compact"}
ELSEWHERE = {"ablation"}
SLOW = pytest.mark.skipif(not os.environ.get("LMKD_SLOW_TESTS"), reason="takes minutes: LMKD_SLOW_TESTS=1 runs it")
CASES = [e if e in QUICK else pytest.param(e, marks=SLOW) for e in sorted(EXPERIMENTS - ELSEWHERE)]


@pytest.mark.parametrize("name", CASES)
def test_every_config_runs_in_its_smoke_form(name, tmp_path):
    done = door(
        "main", f"--config=configs/{name}.py:smoke", f"--data_dir={tmp_path}", "--no_faces", cwd=tmp_path, quick=name in QUICK
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / f"{name}_smoke" / "report.html").is_file()
