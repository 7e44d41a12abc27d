"""What every door does before its own work."""

import os

import pytest

from lmkd import cli

OURS = cli.COMPILER_FLAGS
NAME = OURS.partition("=")[0]


@pytest.mark.skipif(not OURS, reason="this version of jax gets no flags")
@pytest.mark.parametrize(
    ("given", "wanted"),
    [("", OURS), ("--xla_dump_to=there", f"--xla_dump_to=there {OURS}"), (f"{NAME}=theirs", f"{NAME}=theirs")],
)
def test_a_user_s_compiler_flags_stay(monkeypatch, given, wanted):
    monkeypatch.setenv("XLA_FLAGS", given)
    cli._tune_compiler()
    assert os.environ["XLA_FLAGS"] == wanted
