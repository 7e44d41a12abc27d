"""Runs an experiment: prepares what it can, trains every stage that is not finished, evaluates, writes the report.

    python -m lmkd.main --config=configs/quickstart.py [--workdir=runs/quickstart] [--config.KEY=VALUE ...]

Kept short on purpose: flags, one call, a clear message.
"""

import shlex
import sys
from pathlib import Path

from absl import flags

from lmkd import cli
from lmkd.core.errors import folder

_WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the run; runs/<config> by default.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Where prepared data sets lie; TFDS's own folder by default.")
_COORDINATOR = flags.DEFINE_string("coordinator", "", "Several processes: HOST:PORT of process 0, or auto on a cluster.")
_PROCESSES = flags.DEFINE_integer("processes", 0, "How many processes there are, with --coordinator=HOST:PORT.")
_PROCESS = flags.DEFINE_integer("process", -1, "Which of them this is, from 0.")
_FACES = flags.DEFINE_bool("faces", True, "Pictures of faces in the report; --no_faces leaves them out.")


def main() -> None:
    """The door's one call."""
    from lmkd import experiment
    from lmkd.training import hosts

    cli.quiet()
    config = flags.FLAGS.config
    config.data.data_dir = folder("--data_dir", _DATA_DIR.value or config.data.data_dir)
    workdir = Path(folder("--workdir", _WORKDIR.value) or Path("runs") / _run_name())
    hosts.connect(_COORDINATOR.value, processes=_PROCESSES.value, process=_PROCESS.value)
    if not _FACES.value:
        config.runtime.faces_in_report = False
    command = shlex.join(["python", "-m", "lmkd.main", *sys.argv[1:]])
    report = experiment.run(config, workdir, command=command)
    print(f"\nreport: {report.absolute()}")
    if config.expected:
        print(f"expected: {config.expected}")


def _run_name() -> str:
    """runs/<config>, with the variant where there is one: "quickstart", "quickstart_smoke"."""
    words = [w.removeprefix("-").removeprefix("-") for w in sys.argv[1:]]
    after_space = [words[n + 1] for n, w in enumerate(words[:-1]) if w == "config"]
    given = [w.removeprefix("config=") for w in words if w.startswith("config=")] + after_space
    path, _, variant = given[-1].partition(":")
    return Path(path).stem + (f"_{variant}".replace(",", "_") if variant else "")


def console() -> None:
    """Entry point."""
    cli.define_config_flag()
    cli.run(main, needs_config=True)


if __name__ == "__main__":
    console()
