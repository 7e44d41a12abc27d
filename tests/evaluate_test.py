"""What `lmkd.evaluate` calls models that stand side by side: their files and rows must not fall together."""

import pytest

from lmkd.evaluate import told_apart


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        (["best"], ["runs/a"], ["best"]),
        (["best", "tflite"], ["runs/a", "out/tflite"], ["best", "tflite"]),
        (["best", "best"], ["runs/a", "runs/b"], ["a best", "b best"]),
        (["best", "best"], ["one/student", "two/student"], ["one/student best", "two/student best"]),
        (["best", "best"], ["runs/a", "runs/a"], ["1: runs/a best", "2: runs/a best"]),
    ],
)
def test_models_side_by_side_are_told_apart(labels, names, expected):
    assert told_apart(labels, names) == expected
