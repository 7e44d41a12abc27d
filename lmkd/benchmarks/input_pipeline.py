"""Faces a second from the input pipeline: decoding, whole faces (decoded, warped, augmented), batches; on one core and on all.

The records are the config's own, prepared; the first `FACES` of them, so that the files are read from memory after a round.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import cv2
import numpy as np
from ml_collections import ConfigDict

from lmkd import build, stages
from lmkd.benchmarks.drawn import chosen
from lmkd.benchmarks.processes import pinned
from lmkd.benchmarks.rounds import Part, Timing, Topic, table, timed
from lmkd.data import pipeline, transforms
from lmkd.data.reading import Records
from lmkd.exporters import formats

ENOUGH_MB = 4000.0  # for every image of the sets that this is run on
FACES = 256  # of one call: many times what is made ahead


def run(config: ConfigDict, *, stage: str, rounds: int, progress: Callable[[str], None] = lambda text: None) -> Topic:
    """Measures the training pipeline of one stage.

    Args:
      config: an experiment whose training data are prepared (or can be drawn).
      stage: whose crops and batches; "" takes the last.
      rounds: of all parts.
      progress: told what goes on.

    Raises:
      UserError: the config cannot run, or its data are not prepared.
    """
    name, source = chosen_with_faces(config, stage)
    timings = []
    for count in dict.fromkeys((1, formats.cores())):
        with pinned(count):
            timings += timed(_parts(config, name, source, count), rounds=rounds, progress=progress)
    rates = {t.name: [1000 * FACES / ms for ms in t.rounds_ms] for t in timings}
    crop = {"crop_px": _crop_px(config, name), "first_image": "x".join(map(str, transforms.decode(source[0]).shape[:2]))}
    conditions = {"data": " + ".join(p.text() for p in source.provenance), "stage": name, **crop, "faces_a_call": FACES}
    return Topic("faces a second from the input pipeline", conditions, _table(timings), {"faces_per_second": rates})


def chosen_with_faces(config: ConfigDict, stage: str) -> tuple[str, Records]:
    """The last of the chosen stages, and its training faces, prepared where they can be and are not.

    Raises:
      UserError: the config cannot run, has no such stage, or its data are not prepared.
    """
    name = chosen(config, stage)[-1]
    build.prepare_data(config)
    return name, build.training_records(config, config.stage[name])


def _parts(config: ConfigDict, name: str, source: Any, cores: int) -> list[Part]:
    unreadable = pipeline.Unreadable(config.data.on_unreadable)
    make = stages.face_maker(config, name, source, unreadable, _crop_px(config, name))
    records = [source[n % len(source)] for n in range(FACES)]
    rng = np.random.default_rng(0)
    batch_size = config.stage[name].train.batch_size

    def faces(keep_mb: float) -> Callable[[], Any]:
        batches = pipeline.training_batches(
            source, make, batch_size=batch_size, seed=0, unreadable=unreadable, threads=cores, prefetch=1, keep_mb=keep_mb
        )
        return lambda: _last(batch["image"] for batch in itertools.islice(batches, -(-FACES // batch_size)))

    kept = faces(ENOUGH_MB)
    for _ in range(-(-len(source) // FACES)):
        kept()

    found = []
    if cores == 1:
        cv2.setNumThreads(0)
        found = [
            Part("decode, 1 core", "the image alone", lambda: _last(map(transforms.decode, records))),
            Part(
                "face, 1 core",
                "decoded, warped, augmented",
                lambda: _last(make(r, transforms.decode(r), rng) for r in records),
            ),
        ]
    what = f"of {batch_size}, read, shuffled, made and stacked by {cores} thread(s)"
    return [
        *found,
        Part(f"batches, {cores} core(s)", what, faces(0.0)),
        Part(f"kept, {cores} core(s)", "the same from images that are kept decoded (data.keep_decoded_mb)", kept),
    ]


def _last(things: Iterable[Any]) -> Any:
    """The last of what is made, no other kept: arrays that pile up take fresh memory, which costs a third of a decoding."""
    return deque(things, maxlen=1)[0]


def _crop_px(config: ConfigDict, name: str) -> int:
    teachers = [config.stage[place] for place in config.stage[name].teachers.values() if place in config.stage]
    return max(build.image_px(s, config) for s in (config.stage[name], *teachers))


def _table(timings: list[Timing]) -> str:
    lines = []
    for t in timings:
        low, high = (1000 * FACES / ms for ms in t.quartiles_ms)
        lines.append(
            (t.name, t.what, f"{1000 * FACES / t.median_ms:.0f}", f"{high:.0f} to {low:.0f}", f"{t.median_ms / FACES:.2f}")
        )
    return table(("part", "what it holds", "faces/s", "quartiles", "ms a face"), lines)
