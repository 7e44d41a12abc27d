"""The comparison over an experiment's stages that name a row: what each method is worth, over seeds, and what it costs."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from lmkd import build, robustness
from lmkd import config as configs
from lmkd.benchmarks import rounds
from lmkd.evaluation.comparison import Comparison, Row
from lmkd.evaluation.content import Result
from lmkd.models import landmarker
from lmkd.training import checkpoints
from lmkd.training.logs import read_metrics

LATENCY_ROUNDS = 30


def compare(
    config: ConfigDict, workdir: Path, trained: Sequence[Mapping[str, Any]], results: Mapping[str, Sequence[Result]]
) -> list[Comparison]:
    """Returns a comparison for each test split and crop protocol, of the last checkpoints: nothing was chosen by a score.

    Args:
      config: with `ablation`.
      workdir: of the experiment.
      trained: what `finished.json` keeps of each stage, in order.
      results: stage -> its results.
    """
    if not config.ablation.baseline:
        return []
    by_row: dict[str, list[Mapping[str, Any]]] = {}
    for stage in trained:
        if config.stage[stage["name"]].row:
            by_row.setdefault(config.stage[stage["name"]].row, []).append(stage)
    if config.ablation.baseline not in by_row:
        print(f"no comparison: no stage of row {config.ablation.baseline!r} is among config.stages")
        return []
    _leave_out_orphans(config, by_row)
    first_seeds = {row: workdir / members[0]["name"] for row, members in by_row.items()}
    latencies = _latencies(first_seeds) if config.ablation.latency else {}
    found = []
    for n, reference in enumerate(config.data.test):
        for crop in config.data.test_crops:
            rows = [
                _row(config, workdir, row, members, results, reference, crop, n == 0)._replace(latency_ms=latencies.get(row))
                for row, members in by_row.items()
            ]
            found.append(Comparison(reference, config.ablation.baseline, rows, bool(config.ablation.front)))
    return found


def _leave_out_orphans(config: ConfigDict, by_row: dict[str, list[Mapping[str, Any]]]) -> None:
    """Takes out the rows whose own baseline was not trained, then those that stand on these, and says so."""
    others = {row: _compared_with(config, row, members) for row, members in by_row.items()}
    while orphans := [row for row in by_row if others[row] and others[row] not in by_row]:
        for row in orphans:
            missing = f"no stage of row {others[row]!r}, its baseline, is among config.stages"
            print(f"row {row!r} is left out of the comparison: {missing}")
            del by_row[row]


def _compared_with(config: ConfigDict, row: str, members: Sequence[Mapping[str, Any]]) -> str:
    """The row that a row's gain is measured on; "" is the comparison's baseline, which itself is measured on none."""
    return "" if row == config.ablation.baseline else config.stage[members[0]["name"]].compared_with


def _row(config, workdir: Path, name: str, members, results, reference: str, crop: str, first_split: bool) -> Row:
    chosen = [
        next(
            r
            for r in results[stage["name"]]
            if r.name.endswith(f" on {reference}") and r.crop_protocol.startswith(f"{crop} ") and r.checkpoint == "last"
        )
        for stage in members
    ]
    logs = [read_metrics(workdir / stage["name"] / "metrics.jsonl") for stage in members]
    stressed = [_stressed(config, workdir / stage["name"], reference, crop) for stage in members] if first_split else [None]
    tried = [s for s in stressed if s is not None]
    return Row(
        name=name,
        results=chosen,
        seeds=[configs.seed_of(config, stage["name"]) for stage in members],
        parameters=members[0]["parameters"],
        macs=members[0]["macs"],
        seconds=fmean(_seconds(rows, stage, config) for rows, stage in zip(logs, members, strict=True)),
        robustness=fmean(s.mean_corrupted for s in tried) if tried else None,
        attacked=_mean_by_key([_attacked(s) for s in tried]) if tried else None,
        shares=_mean_by_key([_shares(rows) for rows in logs]),
        steps=members[0]["steps"],
        compared_with=_compared_with(config, name, members),
    )


def _seconds(rows: Sequence[Mapping[str, Any]], stage: Mapping[str, Any], config: ConfigDict) -> float:
    """Training time without compilation and validation: steps times the median time of one."""
    faces = stage["steps"] * config.stage[stage["name"]].train.batch_size
    return faces / median(row["faces_per_second"] for row in rows)


def _shares(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Each term's share of the student's gradient, mean over the measurements at which its weight was not zero."""
    measured = [{k.removeprefix("share/"): v for k, v in row.items() if k.startswith("share/") and v} for row in rows]
    return _mean_by_key([m for m in measured if m])


def _latencies(folders: Mapping[str, Path]) -> dict[str, float]:
    """Median milliseconds of one face through each network: uint8 crop to points, without flip test, interleaved rounds."""

    def part(row: str, folder: Path) -> rounds.Part:
        loaded = build.load(checkpoints.find_step(folder, "latest"))
        run = jax.jit(functools.partial(landmarker.predict, loaded.model))
        image = np.zeros((1, loaded.image_px, loaded.image_px, 3), np.uint8)
        return rounds.Part(row, "one face", functools.partial(run, jax.device_put(loaded.variables), image))

    timings = rounds.timed([part(row, folder) for row, folder in folders.items()], rounds=LATENCY_ROUNDS)
    return {timing.name: timing.median_ms for timing in timings}


def _stressed(config: ConfigDict, folder: Path, reference: str, crop: str) -> robustness.Robustness | None:
    faces = config.ablation.robustness_faces
    if not faces:
        return None
    loaded = build.load(checkpoints.find_step(folder, "latest"))
    return robustness.run(loaded, config, reference, crop=crop, limit=faces)


def _mean_by_key(values: Sequence[Mapping[Any, float]]) -> dict[Any, float]:
    keys = dict.fromkeys(key for one in values for key in one)
    return {key: fmean(one[key] for one in values if key in one) for key in keys}


def _attacked(found: robustness.Robustness) -> dict[int, float]:
    return {int(entry.strength): entry.nme_percent for entry in found.attacks}
