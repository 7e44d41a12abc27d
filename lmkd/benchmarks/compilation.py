"""From a command to the first step: what a first start costs, and a second one, which finds its programs in the cache.

Each stage starts twice, in processes of their own, the first with an empty compilation cache. A process imports, builds the
stage with drawn weights, then traces, compiles (or loads) and makes one step. No data are read.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lmkd import build, kept_configs
from lmkd.benchmarks.drawn import chosen, crops_of_noise, drawn, num_points, on_devices, stepping
from lmkd.benchmarks.processes import in_own_process
from lmkd.benchmarks.rounds import Topic, table

STARTS = ("first", "second")


def run(config: ConfigDict, *, stage: str, rounds: int, progress: Callable[[str], None] = lambda text: None) -> Topic:
    """Starts each stage twice.

    Args:
      config: an experiment.
      stage: one stage's name; "" takes all.
      rounds: unused: a first start is one.
      progress: told what goes on.

    Raises:
      UserError: the config cannot run, has no such stage, or a start failed.
    """
    names, found = chosen(config, stage), dict[str, dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            cache = Path(folder) / name
            for start in STARTS:
                progress(f"stage {name}, {start} start")
                found.setdefault(name, {})[start] = _started(config, name, cache, Path(folder))
            found[name]["cache_mb"] = sum(f.stat().st_size for f in cache.rglob("*") if f.is_file()) / 1e6
    header = ("stage", "start", "imports s", "building s", "first step s", "in all s", "processor s", "cache MB")
    rows = []
    for name, one in found.items():
        for start in STARTS:
            s = one[start]
            figures = (f"{s[key]:.1f}" for key in ("imports_s", "building_s", "first_step_s", "in_all_s", "processor_s"))
            rows.append((name, start, *figures, f"{one['cache_mb']:.1f}"))
    return Topic("from a command to its first step", {"stages": ", ".join(found)}, table(header, rows), {"stages": found})


def _started(config: ConfigDict, name: str, cache: Path, folder: Path) -> dict[str, float]:
    given = folder / "config.json"
    config = config.copy_and_resolve_references()
    config.runtime.compilation_cache = str(cache)
    given.write_text(kept_configs.to_json(config))
    return in_own_process(child, str(given), name, repr(time.time()), what=f"starting stage {name}")


def child(given: str, name: str, begun: str) -> dict[str, float]:
    """What a started process does, with a config's path, the stage, and when it was started."""
    import jax

    imported = time.time()
    config = kept_configs.from_json(Path(given).read_text())
    build.prepare_device(config)
    training = drawn(config, name)
    built = time.time()
    batch = on_devices(crops_of_noise(config.stage[name].train.batch_size, training.crop_px, num_points(training)))
    jax.block_until_ready(stepping(training.trainer(), training.first, batch)())
    stepped = time.time()
    return {
        "imports_s": imported - float(begun),
        "building_s": built - imported,
        "first_step_s": stepped - built,
        "in_all_s": stepped - float(begun),
        "processor_s": time.process_time(),
    }
