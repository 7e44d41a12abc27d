"""The quick form of `launch/fuzz.sh`: a few cases a target, the same ones every time, and every input that once broke one."""

import pytest
from fuzz import found, long_run, targets

CASES = 25


@pytest.mark.parametrize("name", targets.TARGETS)
def test_a_reader_returns_or_raises_a_user_error(name):
    cases = CASES if targets.TARGETS[name].share > 0.01 else CASES // 5
    assert long_run.run(name, cases, derandomize=True).broken is None


@pytest.mark.parametrize(("name", "data"), found.INPUTS)
def test_an_input_that_once_broke_a_reader_does_so_no_more(name, data):
    targets.TARGETS[name].check(data)


def test_a_reader_that_breaks_is_told(monkeypatch):
    def breaks(data):
        if b"image" in data:
            raise KeyError("image")

    monkeypatch.setitem(targets.TARGETS, "csv", targets.TARGETS["csv"]._replace(check=breaks))
    outcome = long_run.run("csv", CASES, derandomize=True)
    assert b"image" in outcome.data and "KeyError" in outcome.broken and outcome.cases > 0


@pytest.mark.parametrize(("name", "faces"), [("csv", 2), ("coco", 2), ("dlib", 1)])
def test_the_sound_inputs_that_are_mutated_are_read(name, faces):
    findings = targets.trees.Findings(targets.FOLDER)
    file = targets.FOLDER / "sound.txt"
    file.write_bytes(targets.SOUND[name])
    found_faces = list(targets.formats.READERS[name](targets.formats.Context(targets.FOLDER, [file], targets.SCHEME, findings)))
    assert len(found_faces) == faces and not findings.problems


def test_the_other_sound_inputs_are_read():
    assert targets.landmark_files.parse_pts(targets.SOUND["pts"].decode(), 3).problems == []
    assert targets.wflw.parse_line(targets.SOUND["wflw"].decode(), rect_attr=True)[1] == ""
    for name in ("npz", "safetensors"):
        file = targets.FOLDER / f"sound.{name}"
        file.write_bytes(targets.SOUND[name])
        assert targets.weights.load_state_dict(file)
