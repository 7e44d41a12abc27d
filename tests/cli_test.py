"""What every door does before its own work."""

import pytest

from lmkd import cli

A, B = cli.COMPILER_FLAGS.split() or ("", "")


@pytest.mark.skipif(not cli.COMPILER_FLAGS, reason="this version of jax gets no flags")
@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("", f"{A} {B}"),
        ("--xla_dump_to=there", f"--xla_dump_to=there {A} {B}"),
        (f"{A} {B}", f"{A} {B}"),
        ("--xla_backend_extra_options=theirs", f"--xla_backend_extra_options=theirs {A}"),
    ],
)
def test_a_user_s_compiler_flags_stay(monkeypatch, given, wanted):
    monkeypatch.setenv("XLA_FLAGS", given)
    cli._tune_compiler()
    assert cli.os.environ["XLA_FLAGS"] == wanted
