"""The door `python -m lmkd.prepare`: exit codes, messages without a traceback, the summary."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from lmkd import prepare


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "own"
    root.mkdir()
    (root / "scheme.json").write_text('{"points": 2}')
    for i in range(10):
        cv2.imwrite(str(root / f"{i}.png"), np.full((20, 30, 3), 20 * i, np.uint8))
        (root / f"{i}.pts").write_text(f"{i + 2} 5\n{i + 12} 9\n")
    return root


def run(*flags):
    return prepare.main(["prepare", *map(str, flags)])


def test_prepares_and_says_so(tree, tmp_path, capsys):
    flags = (
        "--dataset=own_faces",
        f"--manual_dir={tree}",
        f"--data_dir={tmp_path / 'data'}",
        "--own_test_fraction=0.3",
    )
    assert run(*flags) == 0
    out = capsys.readouterr().out
    assert "own_faces/tree_" in out and "prepared in" in out and str(tmp_path / "data") in out
    assert [line.split()[:3] for line in out.splitlines() if line.startswith(("train", "test"))] == [
        ["train", "7", "-"], ["test", "3", "-"],
    ]  # fmt: skip
    assert run(*flags) == 0
    assert "prepared already" in capsys.readouterr().out


def test_partial_lists_what_is_missing(tree, tmp_path, capsys):
    (tree / "3.pts").unlink()
    flags = ["--dataset=own_faces", f"--manual_dir={tree}", f"--data_dir={tmp_path / 'data'}"]
    assert run(*flags) == 2
    assert "3.png has no .pts file" in capsys.readouterr().err
    assert run(*flags, "--partial") == 0
    out = capsys.readouterr().out
    assert "own_faces/partial_" in out and "missing:\n  - annotations: 3.png has no .pts file" in out


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--dataset=wfwl"], "Did you mean 'wflw'?"),
        (["--dataset=wflw"], "wflw needs --manual_dir"),
        (["--partial"], "--dataset is needed"),
        (["--dataset=wflw", "--data_dir=gs://b/tfds"], "--data_dir=gs://b/tfds: a folder is needed, not an address"),
        (["--dataset=wflw", "--own_seed=3"], "--own_seed is an option of own_faces, not of wflw"),
        (["--dataset=the300w/complet", "--manual_dir=."], "named by its content"),
        (["--dataste=wflw"], "Did you mean: dataset"),
        (["--dataset=own_faces", "--own_annotations=jsno"], "value should be one of <auto|pts|csv|coco|dlib>"),
        (["wflw"], "unexpected argument 'wflw'"),
    ],
)
def test_errors_are_one_message_and_exit_code_2(flags, says, capsys):
    assert run(*flags) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and says in captured.err and captured.out == ""


def test_flags_do_not_stick_between_calls(capsys):
    assert run("--dataset=wflw", "--own_seed=3") == 2
    capsys.readouterr()
    assert run("--dataset=wflw") == 2
    assert "needs --manual_dir" in capsys.readouterr().err


def test_help_lists_the_data_sets(capsys):
    assert run("--help") == 0
    out = capsys.readouterr().out
    assert "own_faces, synthetic_faces, the300w, wflw, youtube_faces68" in out and "--manual_dir" in out


def test_as_a_command_without_a_terminal(tree, tmp_path):
    command = [sys.executable, "-m", "lmkd.prepare", "--dataset=own_faces", f"--manual_dir={tree}"]
    done = subprocess.run([*command, f"--data_dir={tmp_path / 'data'}"], capture_output=True, text=True)
    assert done.returncode == 0 and "\r" not in done.stdout + done.stderr and done.stderr == ""
    failed = subprocess.run([*command[:3], "--dataset=wfwl"], capture_output=True, text=True)
    assert failed.returncode == 2 and "Traceback" not in failed.stderr and "Did you mean" in failed.stderr
