"""What the doors share: flags of a config, errors without tracebacks, exit statuses.

Exit statuses: 0 done; 1 a fault of ours; 2 something the user gave; 130 and 143 stopped by Ctrl-C and SIGTERM, state saved; 75
another process of the run is lost or hangs. After 75, 130 and 143 the same command goes on.
"""

import os
import sys
from collections.abc import Callable, Sequence

import jax
from absl import flags, logging
from ml_collections import config_flags

from lmkd import config as configs
from lmkd.core.errors import UserError
from lmkd.training import hosts
from lmkd.training.loop import Interrupted

GOES_ON = "The same command goes on from there."
# For XLA on CPU, without its library YNNPACK, which takes products and reductions over: networks run no faster for it, and a
# program that comes from the compilation cache searches all its instructions for each one, 25 of 40 s for HRNet-W18
# (docs/performance.md). XLA ends processes over flags it does not know: versions that were not measured get none.
COMPILER_FLAGS = "--xla_cpu_experimental_ynn_fusion_type=" if jax.__version_info__[:2] == (0, 10) else ""


def define_config_flag(default: str | None = None) -> None:
    """Defines --config, with typed overrides such as --config.data.threads=4."""
    config_flags.DEFINE_config_file("config", default, "configs/NAME.py[:smoke], a file of yours or a shipped one.")


def run(
    main: Callable[..., None], *, needs_config: bool = False, takes_words: bool = False, argv: Sequence[str] | None = None
) -> None:
    """Parses the flags, calls `main`, and turns what goes wrong into one clear message and an exit status.

    A door that `takes_words` gets what is no flag, such as the files it works on, as `main`'s one argument, a list of text;
    the others refuse it.
    """
    argv = list(sys.argv if argv is None else argv)
    _tune_compiler()
    try:
        words = _parse(argv, needs_config)
        if takes_words:
            main(words)
        elif words:
            raise UserError(f"unexpected argument {words[0]!r}; options are written --name=value (--help lists them)")
        else:
            main()
    except Interrupted as stopped:
        print(f"{stopped}. {GOES_ON}", file=sys.stderr)
        sys.exit(128 + stopped.signal_number)
    except KeyboardInterrupt:
        print("stopped at once; what was finished before stands", file=sys.stderr)
        sys.exit(130)
    except (UserError, flags.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        hosts.leave(2)
    except jax.errors.JaxRuntimeError as error:
        hosts.leave_if_peer_lost(error)
        raise


def _tune_compiler() -> None:
    """Sets what XLA reads before its first compilation, unless the user has."""
    given = os.environ.get("XLA_FLAGS", "")
    if COMPILER_FLAGS.partition("=")[0] not in given:
        os.environ["XLA_FLAGS"] = f"{given} {COMPILER_FLAGS}".strip()


def _parse(argv: list[str], needs_config: bool) -> list[str]:
    """Parses the flags, returns the words that are none; what ml_collections says of a wrong override becomes a `UserError`."""
    for n, word in enumerate(argv[:-1]):
        if word in ("--config", "-config"):  # "--config PATH" is "--config=PATH"
            argv[n : n + 2] = [f"--config={argv[n + 1]}"]
            break
    argv[:] = [_resolved(word) for word in argv]
    try:
        words = flags.FLAGS(argv)[1:]
        if needs_config and flags.FLAGS.config is None:
            raise UserError("which experiment? --config=configs/quickstart.py, for one")
        return words
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, UserError):
            raise
        told = error.args[0] if error.args else error
        raise UserError(f"a --config.KEY=VALUE override does not fit the config: {told}") from error


def quiet() -> None:
    """Keeps libraries' chatter off the terminal; errors stay."""
    logging.use_absl_handler()
    logging.set_verbosity(logging.ERROR)  # Orbax warns of the options that it sets itself


def _resolved(argument: str) -> str:
    if argument in ("--no_faces", "--no-faces"):  # absl spells it --nofaces
        return "--nofaces"
    for prefix in ("--config=", "-config="):
        if argument.startswith(prefix):
            found = configs.resolve_path(argument.removeprefix(prefix))
            configs.load(found)  # so that its own errors come as they are, not wrapped by the flags
            return prefix + found
    return argument
