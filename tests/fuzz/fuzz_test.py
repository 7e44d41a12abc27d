"""The quick form of `launch/fuzz.sh`: a few cases a target, the same ones every time, and every input that once broke one."""

import shutil

import found
import long_run
import pytest
import targets

CASES = 25


@pytest.fixture(scope="module", autouse=True)
def remove_folder():
    yield
    shutil.rmtree(targets.FOLDER, ignore_errors=True)


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
