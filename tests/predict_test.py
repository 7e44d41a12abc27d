"""The door's way out where what it was given is wrong; main_test.py has its way through."""

from doors import door


def test_what_is_wrong_is_told_before_the_model_is_loaded(tmp_path):
    (tmp_path / "empty").mkdir()
    result = door("predict", "--model=runs/x", "gone.jpg", "--output=out", "empty", cwd=tmp_path)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "2 problems" in result.stderr and "gone.jpg: there is no such file" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]
