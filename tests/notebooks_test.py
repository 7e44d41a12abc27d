"""The notebooks: committed without outputs, and executed from top to bottom, the one on what the other trained."""

import ast
import os
from pathlib import Path

import pytest
from doors import QUICK_COMPILATION

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = ("distil.ipynb", "evaluate.ipynb")
SLOW = pytest.mark.skipif(
    not (os.environ.get("CI") or os.environ.get("LMKD_SLOW_TESTS")), reason="trains and compiles: LMKD_SLOW_TESTS=1 runs it"
)


def read(name):
    return nbformat.read(FOLDER / name, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def execute(name, folder, **parameters):
    """Executes a notebook with other parameters, in a process of its own, and returns it with its outputs."""
    notebook = read(name)
    (cell,) = [c for c in code(notebook) if "parameters" in c.metadata.get("tags", ())]
    cell.source = "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
    # One device and inline pictures, as a reader has them; programs compiled for other tests are used again.
    environment = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"} | {"XLA_FLAGS": QUICK_COMPILATION}
    client = nbclient.NotebookClient(
        notebook, timeout=3600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env=environment)
    return notebook


def text_of(notebook):
    parts = [out.text for cell in code(notebook) for out in cell.outputs if out.output_type == "stream"]
    return "\n".join(parts)


def pictures(notebook):
    return [o for cell in code(notebook) for o in cell.outputs if "image/png" in o.get("data", {})]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_committed_without_outputs_and_parses(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code(notebook))
    assert sum("parameters" in cell.metadata.get("tags", ()) for cell in code(notebook)) == 1
    tree = ast.parse("\n".join(cell.source for cell in code(notebook)))
    # What it imports of ours is there: a renamed module or function is told without running anything.
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module.startswith("lmkd")]
    assert len(imported) > 5
    for node in imported:
        for alias in node.names:
            exec(f"from {node.module} import {alias.name}")


@SLOW
@pytest.mark.filterwarnings("ignore")  # of Jupyter's own
def test_the_notebooks_run_and_say_what_they_should(tmp_path):
    data_dir = str(tmp_path / "tfds")
    distil = execute("distil.ipynb", tmp_path, variant="smoke", workdir="run", data_dir=data_dir)
    told = text_of(distil)
    assert "student      hrnet.HRNet" in told and "channel" in told and "adversarial_v2p" in told
    assert "student on synthetic_faces" in told and "NME %" in told and (tmp_path / "run" / "report.html").is_file()
    assert len(pictures(distil)) == 3  # the drawn faces, the curves, the student's points
    look = execute("evaluate.ipynb", tmp_path, workdir="run", split="", data_dir=data_dir)
    told = text_of(look)
    assert "teacher_w32, teacher_v2p, student; 16 faces of synthetic_faces" in told
    assert told.count("FR@") == 2 and "adversarial_w32: adapter [], critic ['conv_0', 'conv_1', 'final']" in told
    assert "T^2 KL(teacher || student) at T = 4" in told and "critic of adversarial_v2p: right on" in told
    assert len(pictures(look)) == 4  # curves, worst faces, channels, a critic
