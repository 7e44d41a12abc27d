"""Measures what the project claims about speed, side by side in one run: medians over interleaved rounds with their spread.

    python -m lmkd.benchmark --what=distillation_step [--config=configs/quickstart.py] [--stage=NAME] [--rounds=N]
                             [--output=DIR]

Prints one table a topic; with --output it writes `<topic>.json` there, every round's time included. docs/performance.md says
what each topic measures and keeps the tables. No test times anything.
"""

import importlib
import json
import shlex
import sys
from pathlib import Path

from absl import flags

from lmkd import cli
from lmkd import config as configs

# Modules of lmkd.benchmarks.
TOPICS = (
    "training_step",
    "distillation_step",
    "inference",
    "compilation",
    "input_pipeline",
    "feeding",
    "evaluation",
    "growth",
    "collectives",
    "scaling",
    "memory",
)

_WHAT = flags.DEFINE_string("what", "", f"The topic: {', '.join(TOPICS)}.")
_STAGE = flags.DEFINE_string("stage", "", "The stage to measure; by default what the topic chooses (docs/performance.md).")
_ROUNDS = flags.DEFINE_integer("rounds", 40, "Times that every part is timed, in turn with the others.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", "", "Folder for the JSON file.")


def main() -> None:
    """The door's one call."""
    from lmkd import build
    from lmkd.core.errors import UserError, folder, unknown

    cli.quiet()
    if not _WHAT.value:
        raise UserError(f"which topic? --what=NAME, of {', '.join(TOPICS)}")
    if _WHAT.value not in TOPICS:
        raise unknown("topic", _WHAT.value, TOPICS, "--what")
    folder("--output", _OUTPUT.value)
    topic = importlib.import_module(f"lmkd.benchmarks.{_WHAT.value}")
    found = topic.run(
        flags.FLAGS.config, stage=_STAGE.value, rounds=_ROUNDS.value, progress=lambda line: print(line, file=sys.stderr)
    )
    command, versions = shlex.join(["python", "-m", "lmkd.benchmark", *sys.argv[1:]]), build.versions()
    conditions = found.conditions | {"rounds": _ROUNDS.value}
    print(f"{found.title}\n\n{found.table}\n")
    print(f"command: {command}")
    print(f"on: {versions['devices']}, {versions['machine']}, jax {versions['jax']}, lmkd {versions['lmkd']}")
    print("; ".join(f"{name}: {value}" for name, value in conditions.items() if value != ""))
    if _OUTPUT.value:
        print(f"written: {_write(Path(_OUTPUT.value), command, versions, conditions, found).absolute()}")


def _write(folder: Path, command: str, versions, conditions, found) -> Path:
    from lmkd.evaluation.files import whole_file

    path = folder / f"{_WHAT.value}.json"
    kept = {"topic": _WHAT.value, "command": command, "versions": versions, "conditions": conditions, **found.figures}
    with whole_file(path) as file:
        file.write(json.dumps(kept, indent=1))
    return path


def console() -> None:
    """Entry point."""
    cli.define_config_flag(configs.resolve_path("configs/quickstart.py"))
    cli.run(main, needs_config=True)


if __name__ == "__main__":
    console()
