"""Finds the export formats: every module of this package that has `FORMATS`.

form = find("onnx")
module(form).write(graph, path, form.variant, crops)
"""

import importlib
import os
import pkgutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from lmkd import exporters
from lmkd.core.errors import UserError, unknown
from lmkd.models.readout import Reading

Runner = Callable[[np.ndarray], Reading]


class Tolerance(NamedTuple):
    """How far a file's points may lie from the checkpoint's, as shares of the crop's side: mean over points, and the worst.

    Shares, because what rounding does to heatmaps scales with the crop. A worst of None bounds nothing: where a heatmap has two
    peaks of nearly equal height, coarse weights may choose the other one.
    """

    mean: float
    worst: float | None


class Format(NamedTuple):
    """One format: which module writes it in which variant, how exact it must be, and what it is in a few words."""

    module: str
    variant: str
    tolerance: Tolerance
    what: str


def every() -> dict[str, Format]:
    """All formats by name, in the modules' alphabetical order."""
    found: dict[str, Format] = {}
    for info in pkgutil.iter_modules(exporters.__path__):
        found |= getattr(importlib.import_module(f"{exporters.__name__}.{info.name}"), "FORMATS", {})
    return found


def find(name: str, where: str = "--format") -> Format:
    """Returns the format of that name. Raises UserError with the valid ones."""
    known = every()
    if name not in known:
        raise unknown("export format", name, known, where)
    return known[name]


def module(form: Format) -> ModuleType:
    """Returns the module that writes and runs a format."""
    return importlib.import_module(form.module)


def is_checkpoint(form: Format) -> bool:
    """Whether a format holds a checkpoint, which `build.load` reads, instead of the exported graph."""
    return hasattr(module(form), "write_checkpoint")


def needs(package: str, what: str, error: ImportError) -> UserError:
    """Returns the error for a runtime or converter that is not installed."""
    return UserError(f"{what} needs {package}, which cannot be imported ({error}): pip install 'lmkd[export]'")


def cores() -> int:
    """Processor cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def checked_path(path: Path) -> Path:
    """Returns the path. Raises UserError where there is no such file."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    return path
