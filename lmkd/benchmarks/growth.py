"""How a step's time and memory grow: with the batch, the resolution, the number of points and the number of teachers.

Each row changes one thing of the stage that is measured and is a program of its own; all take turns. Peak memory is the
compiler's: state, teachers, batch and what is alive beside them on one device.
"""

from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from lmkd.benchmarks.drawn import CompiledStep, chosen_whole, compiled_step, declared_scheme, drawn
from lmkd.benchmarks.rounds import Part, Timing, Topic, table, timed
from lmkd.core import plugins, schemes

TIMES_BATCH = (2, 4)
TIMES_SIDE = (2, 3)


def run(config: ConfigDict, *, stage: str, rounds: int, progress: Callable[[str], None] = lambda text: None) -> Topic:
    """Measures one stage's step, and that step changed.

    Args:
      config: an experiment.
      stage: its stage; "" is the last one of config.stages.
      rounds: of all rows.
      progress: told what goes on.

    Raises:
      UserError: the config cannot run, or has no such stage.
    """
    name = chosen_whole(config, stage)
    steps: dict[str, tuple[str, CompiledStep, int]] = {}
    for what, value, changed in variants(config, name):
        progress(f"compiling: {what}, {value}")
        batch_size = changed.stage[name].train.batch_size
        steps[f"{what} {value}"] = (what, compiled_step(drawn(changed, name), batch_size), batch_size)
    parts = [Part(row, what, step.call) for row, (what, step, _) in steps.items()]
    timings = timed(parts, rounds=rounds, progress=progress)
    figures = [_figures(t, *steps[t.name][1:]) for t in timings]
    conditions = {"stage": name, "image_px": config.data.image_px, "batch_size": config.stage[name].train.batch_size}
    return Topic("how a step grows", conditions, _table(figures), {"rows": figures})


def variants(config: ConfigDict, name: str) -> Iterator[tuple[str, str, ConfigDict]]:
    """Yields what is changed, its value, and the config with it; first the config as it is."""

    def copy() -> ConfigDict:
        return config.copy_and_resolve_references()

    yield "as it is", "", copy()
    for times in TIMES_BATCH:
        changed = copy()
        changed.stage[name].train.batch_size *= times
        yield "batch", str(changed.stage[name].train.batch_size), changed
    for times in TIMES_SIDE:
        changed = copy()
        changed.data.image_px *= times
        for stage in changed.stage.values():
            stage.model.image_px *= times
        yield "side, px", str(changed.data.image_px), changed
    points = declared_scheme(config).num_points
    for scheme in schemes.SHIPPED:
        if schemes.get(scheme).num_points != points:
            changed = copy()
            changed.scheme = scheme
            yield "points", str(schemes.get(scheme).num_points), changed
    teachers = sorted(config.stage[name].teachers.keys())
    for count in range(len(teachers)):
        changed = copy()
        _keep_teachers(changed.stage[name], teachers[:count])
        yield "teachers", str(count), changed


def _keep_teachers(stage: ConfigDict, kept: list[str]) -> None:
    """Takes the other teachers out of a stage, and the terms that look at them; terms that look at all look at the rest."""
    gone = set(stage.teachers.keys()) - set(kept)
    with stage.unlocked():
        for teacher in gone:
            del stage.teachers[teacher]
        for name, term in list(stage.terms.items()):
            named = set(term.teachers)
            needs_one = plugins.resolve("lmkd.distill.terms", term.type).teachers != "none"
            if (named and named <= gone) or (needs_one and not kept):
                del stage.terms[name]
            else:
                term.teachers = tuple(sorted(named - gone))


def _figures(timing: Timing, step: CompiledStep, batch_size: int) -> dict[str, Any]:
    return {
        **timing.figures(),
        "batch_size": batch_size,
        "peak_bytes": step.peak_bytes,
        "flops": step.flops,
    }


def _table(figures: list[dict[str, Any]]) -> str:
    first = figures[0]
    rows = []
    for row in figures:
        low, high = row["quartiles_ms"]
        changed = row["name"].removeprefix(row["what"]).strip()
        rows.append(
            (
                row["what"],
                changed,
                f"{row['median_ms']:.1f}",
                f"{low:.1f} to {high:.1f}",
                f"{row['median_ms'] / row['batch_size']:.2f}",
                f"{row['median_ms'] / first['median_ms']:.2f}",
                f"{row['flops'] / first['flops']:.2f}" if first["flops"] else "",
                f"{row['peak_bytes'] / 1e6:.0f}",
            )
        )
    header = ("changed", "to", "median ms", "quartiles ms", "ms a face", "time, times", "FLOPs, times", "peak MB")
    return table(header, rows)
