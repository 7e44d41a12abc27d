"""Runs a door as a user does: in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

from lmkd.cli import COMPILER_FLAGS

# Tests compile far longer than they compute: without LLVM's costly passes a tiny network takes a third less of a core's time.
QUICK_COMPILATION = f"--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true {COMPILER_FLAGS}".strip()

TINY = Path(__file__).with_name("tiny_experiments")  # configs of networks that compile in a moment


def door(name: str, *arguments: str, cwd: Path, quick: bool = True, devices: int = 1) -> subprocess.CompletedProcess:
    """Runs a door on so many CPU devices, away from the checkout, without real data sets; `quick` compiles as above."""
    environment = {k: v for k, v in os.environ.items() if k != "LMKD_REAL_DATA"}
    flags = [QUICK_COMPILATION] * quick + [f"--xla_force_host_platform_device_count={devices}"] * (devices > 1)
    environment["XLA_FLAGS"] = " ".join(flags)
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (Path(__file__).parents[1], Path(__file__).parent, TINY)))
    command = [sys.executable, "-m", f"lmkd.{name}", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=900)
