"""Runs fuzz targets for as many cases as asked: launch/fuzz.sh CASES [TARGET ...].

Prints a line a target: cases, seconds, and what was found; ends with 1 where anything was. An input that breaks a reader is
printed as Python bytes: put it into `found.py`, mend the reader. A case that takes longer than a minute ends the run with its
stack.
"""

import faulthandler
import logging
import signal
import sys
import time
import traceback
from typing import NamedTuple

from fuzz import targets
from hypothesis import HealthCheck, Phase, given, settings

LONGEST_CASE_S = 60
ROUND = 2000  # cases of an ordinary target in a row: Hypothesis keeps track of what it tried, and slows down


class Outcome(NamedTuple):
    """What came of a target: cases tried, None or the error's traceback, the smallest input that raises it; whether stopped."""

    cases: int
    broken: str | None
    data: bytes
    stopped: bool = False


def run(name: str, cases: int, *, derandomize: bool = False) -> Outcome:
    """Tries `cases` inputs on a target, or fewer where one breaks it."""
    target, tried, last, armed = targets.TARGETS[name], 0, b"", 0.0

    @settings(
        max_examples=cases,
        derandomize=derandomize,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(target.strategy)
    def once(data: bytes) -> None:
        nonlocal tried, last, armed
        tried, last = tried + 1, data
        if not derandomize and time.monotonic() > armed + 5:  # each time starts a thread
            faulthandler.dump_traceback_later(LONGEST_CASE_S, exit=True)
            armed = time.monotonic()
        target.check(data)

    try:
        once()
    except KeyboardInterrupt:
        return Outcome(tried, None, b"", stopped=True)
    except Exception:
        return Outcome(tried, traceback.format_exc(), last)
    finally:
        if not derandomize:
            faulthandler.cancel_dump_traceback_later()
    return Outcome(tried, None, b"")


def main(cases: int, names: list[str]) -> int:
    """Shares the cases out among the targets, in rounds, and prints a table, which Ctrl-C and SIGTERM do earlier."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs ignore SIGINT unless told otherwise
        signal.signal(number, signal.default_int_handler)
    logging.disable()  # Orbax warns of each damaged file
    names = names or list(targets.TARGETS)
    whole = sum(targets.TARGETS[name].share for name in names)
    tried, seconds, broken, stopped = dict.fromkeys(names, 0), dict.fromkeys(names, 0.0), [], False
    while not stopped and sum(tried.values()) < cases and len(broken) < len(names):
        for name in (n for n in names if n not in broken):
            begun = time.monotonic()
            outcome = run(name, max(1, round(min(ROUND, cases / whole) * targets.TARGETS[name].share)))
            tried[name], seconds[name] = tried[name] + outcome.cases, seconds[name] + time.monotonic() - begun
            if outcome.broken:  # the others go on
                broken.append(name)
                print(f"{outcome.broken}\n{name}: {outcome.data!r}\n", flush=True)
            if stopped := outcome.stopped:
                break
        print(f"{sum(tried.values())} cases, {sum(seconds.values()):.0f} s", flush=True)
    for name in names:
        print(f"{name:12} {tried[name]:9} cases {seconds[name]:8.1f} s  {'FOUND' if name in broken else 'nothing found'}")
    print(f"{'in all':12} {sum(tried.values()):9} cases {sum(seconds.values()):8.1f} s")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000, sys.argv[2:]))
