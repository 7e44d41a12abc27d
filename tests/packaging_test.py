"""The wheel: what is in it, what it asks for, and that it works in an environment of its own, outside the checkout.

The environment links, from the one that runs the tests, the declared dependencies and what those declare: nothing else,
so that an undeclared import fails. With CI or LMKD_SLOW_TESTS set, pip installs them from the package index instead.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from doors import QUICK_COMPILATION
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# folder of the checkout -> its place in the wheel
SHIPPED = {"lmkd": "lmkd", "configs": "lmkd/configs", "data_builders": "lmkd/data_builders"}
INSTALL_FROM_INDEX = bool(os.environ.get("CI") or os.environ.get("LMKD_SLOW_TESTS"))
# Declared without an import of ours: what needs them says so beside the declaration.
IMPORTED_BY_OTHERS = {"importlib-resources"}


def requirements(extra=None):
    """Declared requirements by canonical name; those of an extra, or the core's."""
    project = PYPROJECT["project"]
    lines = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


def run(command, **options):
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, **options)
    assert result.returncode == 0, f"{command} failed\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """Built from a copy: setuptools leaves build/ behind, and leftovers of an older build would get into the wheel."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for folder in SHIPPED:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source], timeout=300)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def names(wheel):
    return zipfile.ZipFile(wheel).namelist()


@pytest.fixture(scope="session")
def environment(wheel, tmp_path_factory):
    """The Python of a new environment with the wheel and its dependencies in it."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    run([sys.executable, "-m", "venv", "--without-pip", folder])
    python = folder / "bin" / "python"
    if INSTALL_FROM_INDEX:
        install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", wheel]
        if shutil.which("uv"):
            install = ["uv", "pip", "install", "--quiet", "--python", python, wheel]
        result = subprocess.run([str(c) for c in install], capture_output=True, text=True, check=False)
        if result.returncode and re.search("connection|resolution|no route|unreachable", result.stderr, re.IGNORECASE):
            pytest.skip(f"the package index cannot be reached: {result.stderr[-300:]}")
        assert result.returncode == 0, result.stderr[-3000:]
    else:
        site = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
        zipfile.ZipFile(wheel).extractall(site)
        link_dependencies(site)
    return python


def link_dependencies(site):
    """Links the installed files of the declared dependencies, and of theirs, into a site-packages folder."""
    waiting, seen = [(r, set(r.extras)) for r in requirements().values()], set()
    while waiting:
        requirement, extras = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(extras))
        if key in seen:
            continue
        seen.add(key)
        distribution = metadata.distribution(requirement.name)
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}:
            origin, link = Path(distribution.locate_file(top)), site / top
            if origin.exists() and not link.exists():
                link.symlink_to(origin, target_is_directory=origin.is_dir())
        for line in distribution.requires or ():
            inner = Requirement(line)
            if not inner.marker or any(inner.marker.evaluate({"extra": e}) for e in {"", *extras}):
                waiting.append((inner, set(inner.extras)))


def test_everything_that_the_checkout_has_is_in_the_wheel(names):
    expected = {
        f"{place}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, place in SHIPPED.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    inside = {name for name in names if ".dist-info/" not in name}
    assert inside == expected


def test_configs_and_builders_do_not_claim_names_in_site_packages(names):
    assert {name.split("/")[0] for name in names} == {"lmkd", next(n for n in names if ".dist-info" in n).split("/")[0]}
    assert "lmkd/configs/quickstart.py" in names
    for builder in ("wflw", "the300w", "youtube_faces68", "own_faces", "synthetic_faces"):
        for file in (f"{builder}_dataset_builder.py", "README.md", "CITATIONS.bib", "TAGS.txt"):
            assert f"lmkd/data_builders/{builder}/{file}" in names


def test_metadata_of_the_wheel(wheel, names):
    archive = zipfile.ZipFile(wheel)
    text = archive.read(next(n for n in names if n.endswith(".dist-info/METADATA"))).decode()
    assert "Requires-Python: >=3.11" in text and "License-Expression: Apache-2.0" in text
    assert any(n.endswith("licenses/LICENSE") for n in names)
    assert len(archive.read(next(n for n in names if n.endswith("licenses/LICENSE")))) > 10_000
    for banned in ("tensorflow", "torch", "tensorflow-cpu"):
        assert banned not in requirements()


def third_party_imports():
    """(distribution, whether it is imported with the module) -> modules of ours that import it."""
    providers, found = metadata.packages_distributions(), {}
    for folder in SHIPPED:
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text())
            lazy = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
            for node in ast.walk(tree):
                if isinstance(node, ast.Import):
                    tops = [alias.name.split(".")[0] for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    tops = [node.module.split(".")[0]]
                else:
                    continue
                for top in tops:
                    if top not in sys.stdlib_module_names and top != "lmkd":
                        # Names without a distribution here (torch) stand for themselves.
                        for name in providers.get(top, [top]):
                            found.setdefault((canonicalize_name(name), id(node) not in lazy), set()).add(path.name)
    return found


def test_what_is_imported_is_declared():
    core = set(requirements())
    optional = {name for extra in ("weights", "export", "demo") for name in requirements(extra)} | {"torch"}
    for (name, with_module), where in third_party_imports().items():
        assert name in core or (name in optional and not with_module), f"{name}, imported by {sorted(where)}"


def test_what_is_declared_is_imported():
    imported = {name for name, _ in third_party_imports()}
    assert set(requirements()) - imported == IMPORTED_BY_OTHERS


def test_every_extra_that_messages_name_exists():
    assert {"cuda", "tpu", "export", "demo", "dev"} <= PYPROJECT["project"]["optional-dependencies"].keys()


def test_the_installed_package_is_the_wheels(environment, tmp_path):
    code = "import lmkd, lmkd.configs.quickstart as q, lmkd.data_builders as d; print(*[m.__file__ for m in (lmkd, q, d)])"
    for path in run([environment, "-I", "-c", code], cwd=tmp_path).split():
        assert environment.parents[1] in Path(path).parents
    for name in ("configs", "data_builders", "tests"):
        result = subprocess.run([environment, "-c", f"import {name}"], cwd=tmp_path, capture_output=True, check=False)
        assert b"ModuleNotFoundError" in result.stderr


def test_the_quickstart_runs_from_an_empty_folder(environment, tmp_path):
    home = tmp_path / "home"
    empty = tmp_path / "empty"
    home.mkdir()
    empty.mkdir()
    settings = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
        "TFDS_DATA_DIR": str(tmp_path / "data"),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": os.environ["JAX_COMPILATION_CACHE_DIR"],
        "XLA_FLAGS": QUICK_COMPILATION,  # as main_test.py: the programs that it compiled are used again
    }
    workdir = tmp_path / "run"
    command = [environment, "-m", "lmkd.main", "--config=configs/quickstart.py:plain,smoke", f"--workdir={workdir}"]
    said = run(command, cwd=empty, env=settings, timeout=600)
    assert (workdir / "report.html").stat().st_size > 1000
    assert str(workdir / "report.html") in said
    assert not list(empty.iterdir())


def test_the_package_s_model_predicts_from_an_empty_folder(environment, tmp_path):
    code = (
        "import lmkd, numpy as np; image = np.random.default_rng(0).integers(0, 256, (120, 100, 3), np.uint8); "
        "print(lmkd.load(detector='whole', refine=False)(image).landmarks_px.shape)"
    )
    settings = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK_COMPILATION}
    assert run([environment, "-I", "-c", code], cwd=tmp_path, env=settings, timeout=300).strip() == "(1, 68, 2)"
