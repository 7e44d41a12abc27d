"""Holds the imports to the table in ARCHITECTURE.md, by reading the source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# room -> rooms that it may import besides itself. "core <- ops, data <- models <- distill, evaluation, exporters
# <- training <- config, build <- doors"; an arrow is transitive.
_MIDDLE = {"core", "ops", "data", "models"}
_ROOMS = _MIDDLE | {"distill", "evaluation", "exporters", "training"}
_CONFIGS = _ROOMS | {"config", "kept_configs"}
ROOMS = {
    "core": set(),
    "ops": {"core"},
    "data": {"core"},
    "models": {"core", "ops", "data"},
    "distill": _MIDDLE,
    "evaluation": _MIDDLE,
    "exporters": _MIDDLE,
    "training": _ROOMS - {"training"},
    "config": _ROOMS,
    "kept_configs": {"core"},
    "pretrained": {"core"},
    "build": _CONFIGS | {"pretrained"},
    "opened": _CONFIGS | {"build", "pretrained"},
    "prediction": _MIDDLE | {"evaluation"},  # beside the model: pictures, detectors, drawing; evaluation's whole files
    "predictor": _CONFIGS | {"build", "pretrained", "opened", "prediction"},
    "scoring": _CONFIGS | {"build", "pretrained", "opened"},  # what two doors share: they sit between build and the doors
    "starting": _CONFIGS | {"build", "pretrained"},
    "stages": _CONFIGS | {"build", "pretrained", "starting"},
    "robustness": _CONFIGS | {"build", "pretrained", "opened", "scoring"},
    "ablation": _CONFIGS | {"build", "pretrained", "opened", "scoring", "starting", "stages", "robustness", "benchmarks"},
    "experiment": _CONFIGS
    | {"build", "pretrained", "opened", "scoring", "starting", "stages", "robustness", "benchmarks", "ablation"},
    "benchmarks": _CONFIGS | {"build", "pretrained", "opened", "scoring", "starting", "stages"},
    # Exports are compared on drawn faces where no data set is at hand, and timed as everything else is.
    "exporting": _CONFIGS | {"build", "pretrained", "opened", "scoring", "starting", "stages", "benchmarks", "data_builders"},
    "data_builders": {"core"},
    "configs": {"core"},
    "lmkd": _CONFIGS | {"build", "pretrained", "opened", "prediction", "predictor"},  # lmkd/__init__.py: `lmkd.load`, lazily
}
DOORS = {"main", "evaluate", "prepare", "benchmark", "export", "predict", "demo", "cli"}
NO_JAX = {"core", "data", "data_builders", "configs"}
JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}
NEVER = {"tensorflow", "torch", "keras"}  # the core needs neither; an optional one is imported inside a function


def modules(root=ROOT):
    """Yields (dotted name as installed, path) of every module that ships."""
    for folder, package in (("lmkd", "lmkd"), ("configs", "lmkd.configs"), ("data_builders", "lmkd.data_builders")):
        for path in sorted((root / folder).rglob("*.py")):
            if path.name.endswith("_test.py"):
                continue
            inner = path.relative_to(root / folder).with_suffix("").parts
            yield ".".join((package, *(p for p in inner if p != "__init__"))), path


def room_of(name):
    """The room that a dotted name under lmkd belongs to."""
    return (name.split(".") + ["lmkd"])[1] if "." in name else "lmkd"


def imports(tree, name, is_package):
    """Yields (line, dotted name, whether it happens when the module is imported)."""
    inside = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.Lambda) for n in ast.walk(f)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = name.split(".") if is_package else name.split(".")[:-1]
            base = parents[: len(parents) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            # `from lmkd import core` names a room only with its alias.
            found = [f"{stem}.{alias.name}" for alias in node.names] if stem == "lmkd" else [stem]
        else:
            continue
        yield from ((node.lineno, target, id(node) not in inside) for target in found)


def violations(source, name, is_package=False):
    """Returns a line of text for each import of module `name` that the table does not allow."""
    room, bad = room_of(name), []
    for line, target, at_import in imports(ast.parse(source, name), name, is_package):
        top = target.split(".")[0]
        if top == "lmkd":
            other = room_of(target)
            allowed = ROOMS.get(room, set()) | {room, "lmkd"}
            if other in DOORS and room != other and room not in DOORS:
                bad.append(f"{name}:{line} imports the door {target}")
            elif room not in DOORS and other in ROOMS and other not in allowed:
                bad.append(f"{name}:{line} imports {target}: room {room} may use {sorted(allowed - {room, 'lmkd'})}")
        elif top in ("configs", "data_builders"):
            bad.append(f"{name}:{line} imports {target}: outside the checkout it is lmkd.{target}")
        elif top in JAX and room in NO_JAX:
            bad.append(f"{name}:{line} imports {target}: room {room} does without jax")
        elif top in NEVER and at_import:
            bad.append(f"{name}:{line} imports {target} when it is imported itself")
    return bad


def test_every_module_keeps_to_the_directions():
    found = [bad for name, path in modules() for bad in violations(path.read_text(), name, path.name == "__init__.py")]
    assert not found, "\n".join(found)


def test_core_comes_without_jax_in_a_fresh_process():
    core = [name for name, _ in modules() if name.startswith("lmkd.core.")]
    code = f"import sys, {', '.join(core)}; sys.exit(any(n.split('.')[0] in {JAX} for n in sys.modules))"
    assert len(core) >= 5
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    # The check can fail: with jax imported, the same line says so.
    assert subprocess.run([sys.executable, "-c", f"import jax; {code}"], check=False).returncode == 1


def test_every_module_is_in_a_room_or_a_door():
    strangers = [name for name, _ in modules() if room_of(name) not in ROOMS.keys() | DOORS]
    assert not strangers


def test_the_architecture_names_every_room_and_every_direction():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    assert "core <- ops, data <- models <- distill, evaluation" in text
    for room in ("core", "ops", "data", "models", "distill", "evaluation", "training"):
        assert f"| `lmkd/{room}` |" in text


def test_the_directions_are_acyclic_and_transitive():
    for room, allowed in ROOMS.items():
        assert room not in allowed
        assert all(ROOMS[other] <= allowed for other in allowed)


def test_the_walk_sees_the_modules():
    names = [name for name, _ in modules()]
    assert {"lmkd", "lmkd.core.geometry", "lmkd.ops.heatmaps", "lmkd.configs", "lmkd.data_builders"} <= set(names)


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("lmkd.core.geometry", "import lmkd.ops.heatmaps", "room core may use []"),
        ("lmkd.core.geometry", "from lmkd import ops", "imports lmkd.ops"),
        ("lmkd.core.geometry", "from ..ops import heatmaps", "imports lmkd.ops"),
        ("lmkd.core.geometry", "import jax.numpy as jnp", "does without jax"),
        ("lmkd.data.pipeline", "def f():\n    import jax", "does without jax"),
        ("lmkd.data.pipeline", "from lmkd.models import hrnet", "room data may use ['core']"),
        ("lmkd.ops.heatmaps", "from lmkd.data.records import read", "room ops may use ['core']"),
        ("lmkd.models.hrnet", "from lmkd.training.loop import fit", "imports lmkd.training.loop"),
        ("lmkd.distill.terms.maps", "from lmkd.evaluation import rows", "imports lmkd.evaluation"),
        ("lmkd.training.loop", "from lmkd import build", "imports lmkd.build"),
        ("lmkd.build", "from lmkd.main import run", "imports the door lmkd.main"),
        ("lmkd.data_builders.wflw.wflw_dataset_builder", "from lmkd.data import records", "may use ['core']"),
        ("lmkd.data_builders.wflw.builder", "import data_builders.checks", "it is lmkd.data_builders.checks"),
        ("lmkd.configs.quickstart", "from lmkd import build", "room configs may use ['core']"),
        ("lmkd.configs.quickstart", "from configs import common", "it is lmkd.configs"),
        ("lmkd.evaluation.report", "import tensorflow as tf", "when it is imported itself"),
    ],
)  # fmt: skip
def test_the_checker_can_fail(name, source, message):
    (found,) = violations(source, name)
    assert message in found


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("lmkd.configs.quickstart", "from lmkd.configs import common"),
        ("lmkd.data_builders.wflw.builder", "from lmkd.data_builders import checks\nimport lmkd.core.schemes"),
        ("lmkd.models.hrnet", "import jax\nfrom lmkd.ops import heatmaps\nfrom lmkd.models import layers"),
        ("lmkd.models.published", "def read(path):\n    import torch\n    return torch.load(path)"),
        ("lmkd.main", "from lmkd import build, config, prepare\nfrom lmkd.training import loop"),
        ("lmkd.core.geometry", "from lmkd.core import errors\nimport numpy"),
    ],
)  # fmt: skip
def test_the_checker_lets_the_rest_pass(name, source):
    assert violations(source, name) == []
