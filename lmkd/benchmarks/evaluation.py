"""Faces a second of a whole evaluation, decoding, cropping, metrics and all, against the bare network on crops in memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lmkd import build, scoring
from lmkd import config as configs
from lmkd.benchmarks.rounds import Part, Timing, Topic, quartiles, table, timed
from lmkd.core.errors import UserError, unknown
from lmkd.data import pipeline
from lmkd.models import initialise
from lmkd.opened import of_checkpoint


def run(config: ConfigDict, *, stage: str, rounds: int, progress: Callable[[str], None] = lambda text: None) -> Topic:
    """Measures the first test split under the first crop protocol, with a network that is freshly drawn.

    Args:
      config: an experiment whose test data are prepared (or can be drawn).
      stage: whose network; "" is the last one of config.stages.
      rounds: of both parts.
      progress: told what goes on.

    Raises:
      UserError: the config cannot run, has no such stage, or its data are not prepared.
    """
    configs.check(config)
    if stage and stage not in config.stages:
        raise unknown("stage", stage, config.stages, "--stage")
    if not config.data.test:
        raise UserError("config.data.test names no split: there is nothing to evaluate")
    build.prepare_data(config)
    name, reference, crop = stage or config.stages[-1], config.data.test[0], config.data.test_crops[0]
    opened = of_checkpoint(_drawn(config, name))
    source = scoring.records(opened, config, reference)
    crops = [batch["image"] for batch in _batches(config, source, crop, opened.image_px)]

    def bare() -> Any:
        return [opened.run(batch).landmarks_px for batch in crops][-1]

    def whole() -> None:
        scoring.score_split(opened, config, reference, crop=crop, provenance="")

    parts = [
        Part("bare", f"the network on {len(crops)} batches in memory", bare),
        Part("evaluation", "records read, decoded, cropped, predicted, scored", whole),
    ]
    timings = timed(parts, rounds=rounds, progress=progress)
    shares = [of_bare / of_whole for of_bare, of_whole in zip(*(t.rounds_ms for t in timings), strict=True)]
    conditions = {
        "stage": name,
        "split": reference,
        "faces": len(source),
        "image_px": opened.image_px,
        "batch_size": config.evaluation.batch_size,
        "flip_test": opened.flip_test,
    }
    figures = {"rows": [{**t._asdict(), "median_ms": t.median_ms} for t in timings], "bare_over_evaluation": shares}
    return Topic("an evaluation against the bare network", conditions, _table(timings, len(source), shares), figures)


def _drawn(config: ConfigDict, name: str) -> build.Loaded:
    scheme = build.records(config, config.data.test[:1]).scheme
    net, side = build.model(config.stage[name], config, scheme), build.image_px(config.stage[name], config)
    variables = initialise.initial_variables(net, side, seed=configs.seed_of(config, name))
    return build.Loaded(net, variables, scheme, config, {"stage": name, "training_data": []}, Path(name), "drawn")


def _batches(config: ConfigDict, source: Any, crop: str, side: int) -> Any:
    unreadable = pipeline.Unreadable(config.data.on_unreadable)
    return build.evaluation_batches(config, source, unreadable, crop=crop, image_px=side)


def _table(timings: list[Timing], faces: int, shares: list[float]) -> str:
    rows = []
    for t in timings:
        low, high = (1e3 * faces / ms for ms in quartiles(t.rounds_ms))
        rows.append((t.name, t.what, f"{t.median_ms:.0f}", f"{1e3 * faces / t.median_ms:.0f}", f"{high:.0f} to {low:.0f}", ""))
    low, high = quartiles(shares)
    ratio = f"{timings[0].median_ms / timings[1].median_ms:.2f} ({low:.2f} to {high:.2f})"
    rows[1] = (*rows[1][:-1], ratio)
    return table(("part", "what it holds", "median ms", "faces/s", "quartiles", "of the bare speed"), rows)
