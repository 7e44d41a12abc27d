"""How much memory a training step needs by batch, and how far each way to need less goes.

Nothing runs: the step is compiled for two batches, and the compiler says what it would hold at its peak: parameters, optimiser
state, teachers, batch and everything alive beside them, on one device. A line through the two gives what a face costs and the
largest batch that fits. Every back end plans its own memory: take the table on the machine that will train.
"""

from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from lmkd.benchmarks.drawn import chosen_whole, compiled_step, drawn
from lmkd.benchmarks.rounds import Topic, table

TIMES_BATCH = 2
DEVICES_GB = (16, 40, 80)


def run(config: ConfigDict, *, stage: str, rounds: int, progress: Callable[[str], None] = lambda text: None) -> Topic:
    """Asks the compiler for the peaks of one stage's step.

    Args:
      config: an experiment.
      stage: its stage; "" is the last one of config.stages.
      rounds: unused, nothing is timed.
      progress: told what goes on.

    Raises:
      UserError: the config cannot run, or has no such stage.
    """
    name = chosen_whole(config, stage)
    batch_size = config.stage[name].train.batch_size
    sizes, rows = (batch_size, TIMES_BATCH * batch_size), []
    for option, changed in options(config, name):
        training, peaks = drawn(changed, name), []
        for size in sizes:
            progress(f"compiling: {option}, batch {size}")
            peaks.append(compiled_step(training, size).peak_bytes)
        rows.append(_row(option, sizes, peaks))
    header = ("option", *(f"peak MB, batch {size}" for size in sizes), "fixed MB", "MB a face")
    header += tuple(f"batch in {gb} GB" for gb in DEVICES_GB)
    conditions = {"stage": name, "image_px": config.data.image_px}
    return Topic(
        "memory of a training step, as the compiler plans it", conditions, table(header, list(_cells(rows))), {"rows": rows}
    )


def options(config: ConfigDict, name: str) -> Iterator[tuple[str, ConfigDict]]:
    """Yields the ways to train a stage: in both types, with and without rematerialised modules where its network can."""
    can = "rematerialise" in config.stage[name].model.backbone_options
    for dtype in ("float32", "bfloat16"):
        for again in (False, True) if can else (False,):
            changed = config.copy_and_resolve_references()
            changed.runtime.dtype = dtype
            if can:
                changed.stage[name].model.backbone_options.rematerialise = again
            yield f"{dtype}{', rematerialised' * again}", changed


def _row(option: str, sizes: tuple[int, int], peaks: list[int]) -> dict[str, Any]:
    of_a_face = (peaks[1] - peaks[0]) / (sizes[1] - sizes[0])
    fixed = peaks[0] - sizes[0] * of_a_face
    fits = {gb: max(0, int((gb * 1e9 - fixed) // of_a_face)) if of_a_face > 0 else 0 for gb in DEVICES_GB}
    return {
        "option": option,
        "batch_sizes": sizes,
        "peak_bytes": peaks,
        "fixed_bytes": fixed,
        "bytes_a_face": of_a_face,
        "largest_batch": fits,
    }


def _cells(rows: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    for row in rows:
        bytes_of = (*row["peak_bytes"], row["fixed_bytes"], row["bytes_a_face"])
        yield row["option"], *(f"{b / 1e6:.0f}" for b in bytes_of), *(str(n) for n in row["largest_batch"].values())
