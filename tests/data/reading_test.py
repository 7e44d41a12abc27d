"""Reading prepared splits: by name, by slice, in a row, in a smaller scheme; and clear messages where something is missing."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from lmkd.core import schemes
from lmkd.core.errors import UserError
from lmkd.data import preparation, reading


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("tfds"))
    for config in ("tiny", "tiny_68"):
        preparation.prepare("synthetic_faces", config_name=config, data_dir=folder, progress=False)
    return folder


@pytest.mark.parametrize(
    "text,parts",
    [("a:b", ("a", None, "b")), ("a/c:b[:90%]", ("a", "c", "b[:90%]"))],
)
def test_parse(text, parts):
    assert reading.parse(text) == parts


@pytest.mark.parametrize("text", ["a", ":b", "a:", ""])
def test_what_is_no_split_is_refused(text):
    with pytest.raises(UserError, match=r"NAME\[/CONFIG\]:SPLIT"):
        reading.parse(text)


def test_a_split_and_its_slices(data_dir):
    whole = reading.open_split("synthetic_faces/tiny:train", data_dir=data_dir)
    parts = [reading.open_split(f"synthetic_faces/tiny:train{s}", data_dir=data_dir) for s in ("[:75%]", "[75%:]")]
    assert [len(p) for p in parts] == [36, 12] and len(whole) == 48
    keys = [p[i].key for p in parts for i in range(len(p))]
    assert sorted(keys) == sorted(whole[i].key for i in range(48))
    record = whole[3]
    assert record.landmarks_px.shape == (98, 2) and record.image[:2] == b"\xff\xd8" and len(record.subset) == len(whole.flags)
    assert whole.provenance[0].text() == "synthetic_faces:train, 48 faces"


def test_a_larger_scheme_seen_as_a_smaller_one(data_dir):
    full = reading.open_split("synthetic_faces/tiny:test", data_dir=data_dir)
    small = reading.InScheme(full, "300w68")
    assert small.scheme == schemes.FACE68
    np.testing.assert_array_equal(small[2].landmarks_px, full[2].landmarks_px[list(full.scheme.subset_indices("300w68"))])
    with pytest.raises(UserError, match="target scheme"):
        reading.InScheme(reading.open_split("synthetic_faces/tiny_68:test", data_dir=data_dir), "wflw98")


def test_splits_in_a_row(data_dir):
    names = ("synthetic_faces/tiny:test", "synthetic_faces/tiny_68:test")
    with pytest.raises(UserError, match="different landmark schemes .*config.scheme"):
        reading.open_splits(names, data_dir=data_dir)
    both = reading.open_splits(names, data_dir=data_dir, scheme="300w68")
    assert len(both) == 32 and both.scheme == schemes.FACE68
    assert both[16].key.startswith("synthetic_faces/") and both[16].landmarks_px.shape == (68, 2)
    np.testing.assert_allclose(both[5].landmarks_px.shape, both[21].landmarks_px.shape)


def test_splits_without_labels_come_last_and_say_so(data_dir):
    names = ("synthetic_faces/tiny:test",), ("synthetic_faces/tiny_68:test",)
    both = reading.open_splits(names[0], unlabelled=names[1], data_dir=data_dir, scheme="300w68")
    assert [both[n].labelled for n in (0, 15, 16, 31)] == [True, True, False, False]
    np.testing.assert_array_equal(both[16].landmarks_px, reading.open_split(names[1][0], data_dir=data_dir)[0].landmarks_px)
    told = [p.text() for p in both.provenance]
    assert told == ["synthetic_faces:test, 16 faces", "synthetic_faces:test, 16 faces without their labels"]


def test_missing_sets_and_splits_say_what_to_do(data_dir, tmp_path):
    with pytest.raises(UserError, match="unknown split 'tset'.*Did you mean 'test'"):
        reading.open_split("synthetic_faces/tiny:tset", data_dir=data_dir)
    with pytest.raises(UserError, match="python -m lmkd.prepare --dataset=wflw"):
        reading.open_split("wflw:test", data_dir=str(tmp_path))


def shard(folder):
    return next((folder / "synthetic_faces" / "tiny").glob("*/*train.array_record*"))


@pytest.fixture
def to_damage(data_dir, tmp_path):
    return Path(shutil.copytree(data_dir, tmp_path / "tfds"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: shard(f).write_bytes(b""), r"train.array_record.*at least 64KB"),
        (lambda f: shard(f).write_bytes(shard(f).read_bytes()[:100_000]), "train.array_record.*Corrupted"),
        (lambda f: shard(f).unlink(), "train.array_record.*No such file"),
        (lambda f: (shard(f).parent / "metadata.json").write_text("{}"), "metadata.json has no scheme"),
        (lambda f: (shard(f).parent / "features.json").write_text("{"), "description cannot be read: JSONDecodeError"),
        (lambda f: (shard(f).parent / "dataset_info.json").write_text(""), "description cannot be read: ParseError"),
    ],
    ids=["empty", "cut short", "gone", "metadata", "features", "info"],
)
def test_damaged_files_are_told_with_their_path_and_how_to_mend_it(to_damage, damage, message):
    damage(to_damage)
    with pytest.raises(UserError, match=f"{to_damage}.* is damaged; remove that folder and prepare it again(.|\n)*{message}"):
        reading.open_split("synthetic_faces/tiny:train", data_dir=str(to_damage))


def test_a_flipped_bit_makes_one_record_unreadable(to_damage):
    data = bytearray(shard(to_damage).read_bytes())
    data[len(data) // 4] ^= 0x10
    shard(to_damage).write_bytes(data)
    records = reading.open_split("synthetic_faces/tiny:train", data_dir=str(to_damage))
    damaged = []
    for n in range(len(records)):
        try:
            records[n]
        except reading.UnreadableRecord as error:
            damaged.append(n)
            assert error.key == f"synthetic_faces:train[{n}]" and "hash mismatch" in str(error)
    assert len(damaged) == 1
    with pytest.raises(IndexError):
        records[len(records)]
