"""The campaign's soak runs outside of the suite, as launch/faults.sh starts it."""

import os
import subprocess
import sys
from pathlib import Path


def test_the_soak_runs_by_itself_and_shows_memory_and_files():
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "PYTEST_CURRENT_TEST")}
    code = "import campaign; print(campaign.soak_text(*campaign.soak(100)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1:4] for line in done.stdout.splitlines() if line[:3] in ("| 5", "| 1")]
    assert rows and all(int(step) in (50, 100) and int(mb) > 50 and int(files) > 2 for step, mb, files in rows)
