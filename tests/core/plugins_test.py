import sys

import pytest

from lmkd.core import plugins
from lmkd.core.errors import UserError


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A package of plug-ins: zoo.cats has Lion and purr, zoo.dogs has Wolf; and a module besides it."""
    package = tmp_path / "zoo"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "cats.py").write_text(
        "from collections import OrderedDict\nSIZE = 3\n"
        "class Lion:\n    pass\ndef purr(*, loud, seconds=1):\n    return loud\ndef _hidden():\n    pass\n"
    )
    (package / "dogs.py").write_text("class Wolf:\n    pass\n")
    (tmp_path / "elsewhere.py").write_text("class Own:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "zoo"
    for name in [n for n in sys.modules if n.split(".")[0] in ("zoo", "elsewhere")]:
        del sys.modules[name]


def test_resolve_finds_a_symbol_of_the_package(zoo):
    assert plugins.resolve(zoo, "cats.Lion").__name__ == "Lion"
    assert plugins.resolve(zoo, "cats.purr")(loud=2) == 2


def test_resolve_finds_a_users_own_module(zoo):
    assert plugins.resolve(zoo, "elsewhere.Own").__name__ == "Own"


def test_valid_names_are_the_public_callables_that_the_modules_define(zoo):
    assert plugins.valid_names(zoo) == ["cats.Lion", "cats.purr", "dogs.Wolf"]


@pytest.mark.parametrize("name", ["cats.Lino", "cat.Lion", "Lion", "cats.", ".Lion", ""])
def test_a_wrong_name_answers_with_the_valid_ones(zoo, name):
    with pytest.raises(UserError, match=r"Allowed: cats\.Lion, cats\.purr, dogs\.Wolf"):
        plugins.resolve(zoo, name)


def test_a_wrong_name_answers_with_the_nearest_and_the_place(zoo):
    with pytest.raises(UserError, match=r"unknown animal 'cats.Lino' \(config.pet\). Did you mean 'cats.Lion'\?"):
        plugins.resolve(zoo, "cats.Lino", kind="animal", where="config.pet")


def test_private_names_are_not_plugins(zoo):
    with pytest.raises(UserError):
        plugins.resolve(zoo, "cats._hidden")


def test_an_import_error_inside_a_plugin_is_not_swallowed(zoo, tmp_path):
    (tmp_path / "zoo" / "broken.py").write_text("import a_package_that_is_not_there\n")
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        plugins.resolve(zoo, "broken.Thing")


def test_options_that_a_target_does_not_take_are_all_named(zoo):
    purr = plugins.resolve(zoo, "cats.purr")
    problems = plugins.check_options(purr, {"laud": 1, "seconds": 2, "pitch": 3}, kind="purr", where="config.cat")
    assert len(problems) == 2
    assert problems[0].startswith("unknown option of purr 'laud' (config.cat.laud). Did you mean 'loud'?")
    assert "'pitch' (config.cat.pitch)" in problems[1]


def test_options_of_a_target_with_keywords_are_left_to_it():
    def target(**options):
        return options

    assert plugins.check_options(target, {"anything": 1}, kind="target", where="here") == []


def test_flax_fields_that_are_no_options():
    def module(width, parent=None, name=None):
        return width, parent, name

    assert len(plugins.check_options(module, {"name": "x", "width": 1}, kind="module", where="here")) == 1
