import pytest

from lmkd.core import errors


def test_nearest_names_the_closest_or_nothing():
    assert errors.nearest("adamw", ["sgd", "adam"]) == " Did you mean 'adam'?"
    assert errors.nearest("zzz", ["sgd", "adam"]) == ""


def test_unknown_says_what_where_and_what_is_allowed():
    error = errors.unknown("optimiser", "adamm", ["sgd", "adam"], "config.optimizer.name")
    assert isinstance(error, errors.UserError)
    expected = "unknown optimiser 'adamm' (config.optimizer.name). Did you mean 'adam'? Allowed: adam, sgd."
    assert str(error) == expected


def test_unknown_with_nothing_allowed():
    assert str(errors.unknown("option", "x", [])) == "unknown option 'x'. Allowed: none."


def test_report_together_lists_every_problem():
    with pytest.raises(errors.UserError) as caught:
        errors.report_together(["first", "second"], "2 files")
    assert str(caught.value) == "2 files (2 problems):\n  - first\n  - second"


def test_report_together_counts_what_it_leaves_out():
    with pytest.raises(errors.UserError) as caught:
        errors.report_together([str(i) for i in range(5)], "files", limit=3)
    assert str(caught.value).splitlines()[1:] == ["  - 0", "  - 1", "  - 2", "  ... and 2 more"]


def test_one_problem_is_singular_and_none_is_no_error():
    with pytest.raises(errors.UserError, match=r"\(1 problem\)"):
        errors.report_together(["only"], "files")
    errors.report_together([], "files")


def test_user_errors_are_value_errors():
    assert issubclass(errors.UserError, ValueError)


def test_an_address_is_no_folder():
    assert errors.folder("--workdir", "runs/a:b") == "runs/a:b" and errors.folder("--workdir", "") == ""
    with pytest.raises(errors.UserError, match=r"^--workdir=gs://b/run: a folder is needed, not an address\. Mount the bucket"):
        errors.folder("--workdir", "gs://b/run")
