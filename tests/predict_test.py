"""The door as a user meets it: what it refuses before a model is loaded, and its exit statuses."""

import pytest
from doors import door


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--model=runs/x", "gone.jpg", "--output=out", "empty"], "2 problems"),
        (["--model=runs/x", "a.jpg", "--box=1,2,3"], "--box=1,2,3: write four numbers"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_before_the_model_is_loaded(tmp_path, arguments, part):
    (tmp_path / "empty").mkdir()
    result = door("predict", *arguments, cwd=tmp_path)
    assert result.returncode == 2 and part in result.stderr and "Traceback" not in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]
