"""Weak scaling: what a step costs when more processes or devices share it and each keeps as many faces as it had alone.

Every arrangement runs on this machine's CPU, a core a device, in processes that meet as those of a pod do. Rows that stand
apart ("alone, at once") are as many processes that do not know of each other: what they lose, the machine's memory and caches
cost; what the others lose beyond that, sharing costs.
"""

import json
import os
import socket
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from lmkd import build, kept_configs
from lmkd.benchmarks.drawn import chosen, crops_of_noise, drawn, num_points, stepping
from lmkd.benchmarks.processes import in_own_process
from lmkd.benchmarks.rounds import Timing, Topic, table
from lmkd.exporters.formats import cores
from lmkd.training import hosts
from lmkd.training.parallel import KINDS, split_over_devices

PASSES = 2
"""Every arrangement is started so often, in turn with the others."""


class Arrangement(NamedTuple):
    """Processes that share a step, the devices of each, the parallel map; `apart`: each makes a step of its own."""

    processes: int
    devices: int
    kind: str = "pmap"
    apart: bool = False

    @property
    def name(self) -> str:
        """As the table has it."""
        return f"{self.processes} alone, at once" if self.apart else f"{self.processes} x {self.devices}, {self.kind}"


def run(config: ConfigDict, *, stage: str, rounds: int, progress: Callable[[str], None] = lambda text: None) -> Topic:
    """Times the step of one stage in every arrangement that fits on this machine's cores.

    Args:
      config: an experiment; its batch is taken for each device's share.
      stage: its name; "" is the last of config.stages.
      rounds: timed steps of each arrangement, over all passes.
      progress: told what goes on.

    Raises:
      UserError: the config cannot run, has no such stage, or a process failed.
    """
    name = chosen(config, stage)[-1]
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "config.json"
        given.write_text(kept_configs.to_json(config))
        found: dict[Arrangement, list[float]] = {one: [] for one in arrangements(cores())}
        for n in range(PASSES):
            for one in list(found)[:: -1 if n % 2 else 1]:
                progress(f"pass {n + 1} of {PASSES}: {one.name}")
                timed = _timed(one, given, name, -(-rounds // PASSES))
                progress(f"  median {median(timed):.1f} ms")
                found[one] += timed
    batch_size = config.stage[name].train.batch_size
    timings = {one: Timing(one.name, "", 0.0, tuple(ms)) for one, ms in found.items()}
    conditions = {"stage": name, "image_px": build.image_px(config.stage[name], config), "faces a device": batch_size}
    figures = {"rows": [{**one._asdict(), **t.figures()} for one, t in timings.items()]}
    return Topic("weak scaling over processes x devices, a core each", conditions, _table(timings, batch_size), figures)


def arrangements(on_cores: int) -> list[Arrangement]:
    """One device alone; then for 2, 4, 8 ... cores: processes apart, one process of all devices, a process a device; the
    shared ones under both maps."""
    found = [Arrangement(1, 1)]
    n = 2
    while n <= on_cores:
        found += [Arrangement(n, 1, apart=True), *(Arrangement(*shape, kind) for shape in ((1, n), (n, 1)) for kind in KINDS)]
        n *= 2
    return found


def _timed(one: Arrangement, given: Path, stage: str, rounds: int) -> list[float]:
    """The first process's steps, in ms; those that stand apart, each round's mean over them."""
    meeting = "" if one.apart or one.processes == 1 else _free_address()

    def process(n: int) -> list[float]:
        words = (str(given), stage, json.dumps(one), str(n), meeting, str(rounds))
        return in_own_process(child, *words, what=f"{one.name}, process {n}")

    with ThreadPoolExecutor(one.processes) as pool:
        of_processes = list(pool.map(process, range(one.processes)))
    return [sum(ms) / len(ms) for ms in zip(*of_processes, strict=True)] if one.apart else of_processes[0]


def _free_address() -> str:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def child(given: str, stage: str, arrangement: str, process: str, meeting: str, rounds: str) -> list[float]:
    """What one of the processes does: takes its cores, meets the others, and times its steps in ms."""
    one = Arrangement(*json.loads(arrangement))
    if hasattr(os, "sched_setaffinity"):
        first = int(process) * one.devices
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[first : first + one.devices])
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", one.devices)
    if meeting:
        hosts.connect(meeting, processes=one.processes, process=int(process))
    config = kept_configs.from_json(Path(given).read_text())
    build.prepare_device(config)
    training = drawn(config, stage)
    faces = config.stage[stage].train.batch_size * one.devices
    batch = split_over_devices(crops_of_noise(faces, training.crop_px, num_points(training)))  # either map puts it in place
    step = stepping(training._replace(parallel=one.kind).trainer(), training.first, batch)
    found = []
    for _ in range(int(rounds) + 2):  # the first compiles, the second settles
        begun = time.perf_counter()
        jax.block_until_ready(step())
        found.append(1e3 * (time.perf_counter() - begun))
    return found[2:]


def _table(timings: dict[Arrangement, Timing], batch_size: int) -> str:
    alone = timings[Arrangement(1, 1)].median_ms
    rows = []
    for one, t in timings.items():
        faces = one.processes * one.devices * batch_size
        speed, efficiency = f"{1e3 * faces / t.median_ms:.1f}", f"{alone / t.median_ms:.2f}"
        rows.append((one.name, str(faces), f"{t.median_ms:.1f}", t.spread(), speed, efficiency))
    return table(("processes x devices", "faces a step", "median ms", "quartiles", "faces/s", "efficiency"), rows)
