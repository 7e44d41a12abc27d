"""The watchdog in a thread; what it does to whole processes is in pod_test.py and here once, suspended."""

import os
import signal
import subprocess
import sys
import time

from lmkd.training.watchdog import Watchdog

SUSPENDED = """
import time
from lmkd.training.watchdog import Watchdog
with Watchdog(1.0) as dog:
    print("begun", flush=True)
    for n in range(15):
        time.sleep(0.1)
        dog.alive(f"step {n}")
"""


def test_it_ends_what_stands_still_and_says_since_when(capfd):
    statuses: list[int] = []
    with Watchdog(0.2, leave=statuses.append) as dog:
        for n in range(8):
            time.sleep(0.05)
            dog.alive(f"step {n}")
        assert statuses == []
        time.sleep(0.6)
    assert statuses == [75]
    told = capfd.readouterr().err
    assert "nothing has moved for 0.2 s since step 7" in told and "most recent call first" in told


def test_zero_seconds_watch_nothing():
    with Watchdog(0.0, leave=lambda status: os.abort()) as dog:
        dog.alive("step 1")


def test_a_suspended_process_has_not_stood_still():
    running = subprocess.Popen([sys.executable, "-c", SUSPENDED], stdout=subprocess.PIPE, text=True)
    assert running.stdout.readline() == "begun\n"
    running.send_signal(signal.SIGSTOP)
    time.sleep(2.0)
    running.send_signal(signal.SIGCONT)
    running.communicate(timeout=60)
    assert running.returncode == 0
