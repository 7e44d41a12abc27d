"""Measuring in processes of their own, and on some cores alone."""

import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lmkd.core.errors import UserError


def in_own_process(function: Callable[..., Any], *arguments: str, what: str) -> Any:
    """Calls a module's function with texts in a new process, and returns what it returns, by way of JSON.

    Raises:
      UserError: it failed; the message names `what` and has the end of what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        code = "import sys; from lmkd.benchmarks import processes; processes.child(sys.argv)"
        command = [sys.executable, "-c", code, function.__module__, function.__name__, str(result), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"{what} failed:\n{done.stderr[-2000:]}")
        return json.loads(result.read_text())


def child(argv: list[str]) -> None:
    """What the new process does: module, function, the result's path and the arguments are in `argv`."""
    _, module, function, result, *arguments = argv
    Path(result).write_text(json.dumps(getattr(importlib.import_module(module), function)(*arguments)))


@contextlib.contextmanager
def pinned(cores: int) -> Iterator[None]:
    """Threads and processes that begin inside the block run on so many cores; where the system cannot pin, on all."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
