"""Runs a door as a user does: in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path


def door(name: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """Runs a door on one CPU device, away from the checkout, without real data sets."""
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "LMKD_REAL_DATA")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    command = [sys.executable, "-m", f"lmkd.{name}", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=900)
