"""Preparing and finding prepared data, whatever the data set: names, reuse, advice, cleaning up."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from lmkd.core.errors import UserError
from lmkd.data import preparation
from lmkd.data_builders import common

SCHEME = '{"points": 2, "normalisers": {"eyes": [[0], [1]]}}'


@pytest.fixture
def tree(tmp_path):
    """A folder of own_faces with four faces of two points."""
    root = tmp_path / "own"
    root.mkdir()
    (root / "scheme.json").write_text(SCHEME)
    for i in range(4):
        cv2.imwrite(str(root / f"{i}.png"), np.full((20, 30, 3), 40 * i, np.uint8))
        (root / f"{i}.pts").write_text(f"{i + 2} 5\n{i + 12} 9\n")
    return root


def test_five_data_sets_and_a_suggestion():
    assert preparation.names() == ["own_faces", "synthetic_faces", "the300w", "wflw", "youtube_faces68"]
    with pytest.raises(UserError, match="unknown data set 'wfwl'. Did you mean 'wflw'"):
        preparation.prepare("wfwl")


def test_nothing_prepared_gives_the_command(tmp_path):
    expected = f"python -m lmkd.prepare --dataset=the300w --manual_dir=FOLDER --data_dir={tmp_path}"
    with pytest.raises(UserError) as error:
        preparation.locate("the300w", data_dir=tmp_path)
    assert expected in str(error.value)
    with pytest.raises(UserError) as error:
        preparation.locate("synthetic_faces/tiny", data_dir=tmp_path)
    assert f"python -m lmkd.prepare --dataset=synthetic_faces/tiny --data_dir={tmp_path}" in str(error.value)


def test_missing_manual_dir_says_what_to_put_there(tmp_path):
    with pytest.raises(UserError, match="wflw needs --manual_dir. Get the images and annotations"):
        preparation.prepare("wflw", data_dir=tmp_path)
    with pytest.raises(UserError, match="nowhere is not a folder"):
        preparation.prepare("wflw", data_dir=tmp_path, manual_dir=tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_unknown_config_of_a_drawn_set(tmp_path):
    with pytest.raises(UserError, match="unknown config of synthetic_faces 'tinny'.*Did you mean 'tiny'"):
        preparation.prepare("synthetic_faces", config_name="tinny", data_dir=tmp_path)


def test_data_dir_defaults_to_that_of_tfds(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(preparation.tfds.core.constants, "DATA_DIR", str(tmp_path / "tfds"))
    prepared = preparation.prepare("own_faces", manual_dir=tree, progress=False)
    assert prepared.path.is_relative_to(tmp_path / "tfds")
    assert preparation.locate("own_faces").info.splits["train"].num_examples == 4


def test_a_failure_while_writing_leaves_nothing(tree, tmp_path, monkeypatch):
    real, calls = common.example, []

    def failing(face, flags):
        calls.append(face)
        if len(calls) == 3:
            raise OSError("disk full")
        return real(face, flags)

    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "other.txt").write_text("not ours")
    monkeypatch.setattr(common, "example", failing)
    with pytest.raises(OSError, match="disk full"):
        preparation.prepare("own_faces", manual_dir=tree, data_dir=data_dir, progress=False)
    assert len(calls) == 3 and [p.name for p in data_dir.iterdir()] == ["other.txt"]
    calls.clear()
    with pytest.raises(OSError, match="disk full"):
        preparation.prepare("own_faces", manual_dir=tree, data_dir=tmp_path / "new", progress=False)
    assert not (tmp_path / "new").exists()
    del calls[2:]
    drawn = preparation.builder_class("synthetic_faces")  # TFDS writes down its default config before it begins
    monkeypatch.setattr(drawn, "_generate_examples", lambda *_, **__: failing(*calls[:2]))
    with pytest.raises(OSError, match="disk full"):
        preparation.prepare("synthetic_faces", config_name="tiny", data_dir=tmp_path / "new", progress=False)
    assert not (tmp_path / "new").exists()
    monkeypatch.undo()
    first = preparation.prepare("own_faces", manual_dir=tree, data_dir=data_dir, progress=False)
    assert not first.reused
    # With one preparation there, a failing second one leaves it as it was.
    before = sorted(str(p) for p in data_dir.rglob("*"))
    calls.clear()
    monkeypatch.setattr(common, "example", failing)
    with pytest.raises(OSError):
        preparation.prepare("own_faces", manual_dir=tree, data_dir=data_dir, options={"seed": 5}, progress=False)
    assert sorted(str(p) for p in data_dir.rglob("*")) == before


def test_a_failure_spares_what_another_process_has_prepared_meanwhile(tree, tmp_path, monkeypatch):
    root = tmp_path / "new"
    theirs = root / "own_faces" / "theirs" / "1.0.0" / "dataset_info.json"

    def failing(face, flags):
        theirs.parent.mkdir(parents=True)
        theirs.write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(common, "example", failing)
    with pytest.raises(KeyboardInterrupt):
        preparation.prepare("own_faces", manual_dir=tree, data_dir=root, progress=False)
    assert [p for p in root.rglob("*") if p.is_file()] == [theirs]
    assert [p.name for p in (root / "own_faces").iterdir()] == ["theirs"]


def test_reading_needs_neither_tensorflow_nor_the_folder(tree, tmp_path):
    prepared = preparation.prepare("own_faces", manual_dir=tree, data_dir=tmp_path / "data", progress=False)
    for path in tree.iterdir():
        path.unlink()
    code = f"""
import sys
from lmkd.data import preparation
import tensorflow_datasets as tfds
builder = preparation.locate("own_faces", data_dir={str(tmp_path / "data")!r})
source = builder.as_data_source(split="train", decoders={{"image": tfds.decode.SkipDecoding()}})
print(len(source), builder.builder_config.name, "tensorflow" in sys.modules, "jax" in sys.modules)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["4", prepared.config_name, "False", "False"]
