"""Faces a second of a whole evaluation, decoding, cropping, metrics and all, against the bare network on crops in memory."""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from lmkd import build, scoring
from lmkd.benchmarks.drawn import chosen, untrained
from lmkd.benchmarks.rounds import Part, Timing, Topic, ratio, table, timed
from lmkd.core.errors import UserError
from lmkd.data import pipeline
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
    name = chosen(config, stage)[-1]
    if not config.data.test:
        raise UserError("config.data.test names no split: there is nothing to evaluate")
    build.prepare_data(config)
    reference, crop = config.data.test[0], config.data.test_crops[0]
    opened = of_checkpoint(untrained(config, name, build.records(config, (reference,)).scheme))
    source = scoring.records(opened, config, reference)
    unreadable = pipeline.Unreadable(config.data.on_unreadable)
    batches = build.evaluation_batches(config, source, unreadable, crop=crop, image_px=opened.image_px)
    crops = [batch["image"] for batch in batches]

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
    figures = {"rows": [t.figures() for t in timings], "bare_over_evaluation": shares}
    return Topic("an evaluation against the bare network", conditions, _table(timings, len(source), shares), figures)


def _table(timings: list[Timing], faces: int, shares: list[float]) -> str:
    rows = []
    for t in timings:
        low, high = (1e3 * faces / ms for ms in t.quartiles_ms)
        rows.append((t.name, t.what, f"{t.median_ms:.0f}", f"{1e3 * faces / t.median_ms:.0f}", f"{high:.0f} to {low:.0f}", ""))
    rows[1] = (*rows[1][:-1], ratio(shares))
    return table(("part", "what it holds", "median ms", "faces/s", "quartiles", "of the bare speed"), rows)
