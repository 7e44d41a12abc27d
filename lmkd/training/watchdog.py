"""Ends a run that stands still: a peer that hangs takes the others with it for ever, and no heartbeat notices.

with Watchdog(seconds=1800) as dog:
    ...                 # every step, save and validation:
    dog.alive("step 100")
"""

import faulthandler
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from lmkd.training.hosts import LOST


class Watchdog:
    """Stops the process with status `hosts.LOST` and the stack of every thread when nobody said `alive` for a stated time.

    A thread that waits inside a collective cannot be interrupted, so the process is left as it stands: the last checkpoint
    is what a restart goes on from.

    Args:
      seconds: the time; 0 watches nothing.
      leave: what ends the process; called once, from the watching thread.
    """

    def __init__(self, seconds: float, *, leave: Callable[[int], Any] = os._exit):
        self._seconds, self._leave = seconds, leave
        self._done = threading.Event()
        self._last = ["the start"]  # a new list each time, so that the same words twice are two signs of life
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self._seconds > 0:
            self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()

    def alive(self, what: str) -> None:
        """Says that the run has come as far as `what`."""
        self._last = [what]

    def _watch(self) -> None:
        # Counts its own ticks, not the clock's: a process that somebody suspends for an hour has not stood still.
        tick = min(1.0, self._seconds / 4)
        seen, still = self._last, 0.0
        while not self._done.wait(tick):
            seen, still = self._last, still + tick if seen is self._last else 0.0
            if still < self._seconds:
                continue
            print(
                f"\nerror: nothing has moved for {self._seconds:g} s since {seen[0]} (config.runtime.stall_seconds): another "
                "process may be gone or hang. This one stops; the same command goes on from the last checkpoint. It stood at:",
                file=sys.stderr,
                flush=True,
            )
            faulthandler.dump_traceback(all_threads=True)
            self._leave(LOST)
            return
