"""Several processes, one program: how they meet, who writes, and what they agree on.

connect("10.0.0.1:7777", processes=4, process=0)      # before anything asks JAX for devices
if is_writer(): ...                                   # reports, logs and pictures come from one process
barrier("stage student finished")                     # all have come this far
stopping = any_process(asked_to_stop)                 # true on all where it is true on one

One process alone needs none of this: then every function here does what is left of it, which is next to nothing.
"""

import os
import re
import sys

import jax
import numpy as np

from lmkd.core.errors import UserError, report_together

AUTO = "auto"
MEETING_SECONDS = 300
"""How long processes wait for each other at the start."""
HEARTBEAT_SECONDS = 60
"""A process that has not been heard of for so long is lost, and the others stop."""
LOST = 75
"""Exit status of a run that stopped because a process was lost or stood still: the same command goes on (EX_TEMPFAIL)."""


def connect(coordinator: str, *, processes: int = 0, process: int = -1) -> None:
    """Joins the other processes of this run; afterwards `jax.devices()` are those of all of them.

    Args:
      coordinator: HOST:PORT of process 0; "auto" takes everything from the cluster's environment (TPU pods, SLURM, Kubernetes,
        Open MPI, as `jax.distributed` finds them); "" is a run of one process.
      processes: how many there are.
      process: which one this is, from 0.

    Raises:
      UserError: the three do not fit together, or the others could not be reached.
    """
    _check(coordinator, processes, process)
    if not coordinator:
        return
    found = coordinator == AUTO
    try:
        jax.distributed.initialize(
            None if found else coordinator,
            None if found else processes,
            None if found else process,
            # Flags that name everything leave nothing to be found: under SLURM, JAX would still share the GPUs out.
            cluster_detection_method=None if found else "deactivate",
            initialization_timeout=MEETING_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
        _shake_hands()
    except (RuntimeError, ValueError) as error:
        what = "the cluster's environment says too little" if coordinator == AUTO else f"no meeting at {coordinator}"
        raise UserError(
            f"--coordinator={coordinator}: {what} ({str(error).splitlines()[0]}). Every process needs the same --coordinator "
            f"and --processes, its own --process, and a way to process 0's port; they wait {MEETING_SECONDS} s for each other."
        ) from error
    if not is_writer():
        # What is told comes from one process; errors (stderr) come from all.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def _shake_hands() -> None:
    """Has every device of every process send once. Gloo gives the first collective of a group of devices 30 seconds to connect
    all of them: too few for a step whose program one process finds in its cache while another compiles it."""
    add = jax.pmap(lambda x: jax.lax.psum(x, "all"), axis_name="all")
    jax.block_until_ready(add(np.ones(jax.local_device_count(), np.float32)))


def is_writer() -> bool:
    """Whether this process writes what there is once: logs, reports, pictures. Checkpoints are written by all together."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process has come to the barrier of this name."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def any_process(here: int) -> int:
    """Returns the largest of all processes' numbers (>= 0), on all of them: a signal number, say, or a flag."""
    if jax.process_count() == 1:
        return here
    from jax.experimental import multihost_utils

    return int(np.max(multihost_utils.process_allgather(np.int32(here))))


def leave_if_peer_lost(error: BaseException) -> None:
    """Ends the process with status `LOST` where an error of the runtime says that another process is gone; returns otherwise.

    At once and without any goodbye: whatever tidies up would wait for the one that is gone.
    """
    words = r"gloo|connection|coordination|unavailable|peer|barrier|heartbeat|socket"
    if jax.process_count() > 1 and isinstance(error, jax.errors.JaxRuntimeError) and re.search(words, str(error), re.I):
        told = str(error).splitlines()[0]
        print(f"\nerror: another process of this run is lost ({told}). The same command goes on from there.", file=sys.stderr)
        leave(LOST)


def leave(status: int) -> None:
    """Ends the process. One of several does not wait for the others, which may wait for it inside a collective."""
    if jax.distributed.is_initialized():
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _check(coordinator: str, processes: int, process: int) -> None:
    given = processes > 0 or process >= 0
    problems = []
    if coordinator in ("", AUTO) and given:
        where = "without --coordinator=HOST:PORT" if not coordinator else "with --coordinator=auto, which finds them itself"
        problems.append(f"--processes and --process mean nothing {where}")
    elif coordinator not in ("", AUTO):
        if not re.fullmatch(r".+:\d+", coordinator):
            problems.append(f"--coordinator={coordinator}: HOST:PORT of process 0 is needed, or {AUTO}")
        if processes < 1:
            problems.append("--processes: say how many there are, with --coordinator=HOST:PORT")
        if not 0 <= process < max(processes, 1):
            problems.append(f"--process={process}: with --processes={processes} it is one of 0 to {max(processes, 1) - 1}")
    report_together(problems, "several processes")
