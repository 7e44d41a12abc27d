"""A training step that the pipeline feeds, against the same step on a batch that lies in the host's memory.

The rest of the loop (logs, shares, validations, checkpoints) is left out, so what is missing to the whole speed is the
pipeline's: faces are made on the cores that the step wants too. Calls of `STEPS` steps are timed in turn; what was made ahead
meanwhile, `prefetch` batches, is a fifth of a call at most.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
from ml_collections import ConfigDict

from lmkd import stages
from lmkd.benchmarks.drawn import drawn
from lmkd.benchmarks.input_pipeline import ENOUGH_MB, chosen_with_faces
from lmkd.benchmarks.rounds import Part, Timing, Topic, ratio, table, timed
from lmkd.data import pipeline
from lmkd.training import parallel

STEPS = 20  # of one call


def run(config: ConfigDict, *, stage: str, rounds: int, progress: Callable[[str], None] = lambda text: None) -> Topic:
    """Measures one stage's step three times: on a batch in memory, fed from images that are kept decoded, fed from files.

    Args:
      config: an experiment whose training data are prepared (or can be drawn).
      stage: whose step; "" takes the last.
      rounds: of all parts.
      progress: told what goes on.

    Raises:
      UserError: the config cannot run, or its data are not prepared.
    """
    name, source = chosen_with_faces(config, stage)
    train, training = config.stage[name].train, drawn(config, name)
    step, kept_state = training.trainer(), [parallel.replicate(training.first)]
    from_files, kept = (_batches(config, name, source, training.crop_px, keep_mb) for keep_mb in (0.0, ENOUGH_MB))
    progress(f"decoding {len(source)} images")
    for _ in range(-(-len(source) // train.batch_size)):
        batch = next(kept)

    def stepping(batches: Iterator[Any]) -> Callable[[], Any]:
        def call() -> Any:
            for batch in itertools.islice(batches, STEPS):
                shared = parallel.split_over_devices(batch, parts=train.micro_batches)
                kept_state[0], metrics = step(kept_state[0], shared)
                if jax.default_backend() == "cpu":  # as the loop does
                    jax.block_until_ready(metrics)
            return kept_state[0], metrics

        return call

    parts = [
        Part("memory", "one batch, again and again", stepping(itertools.repeat(batch))),
        Part("kept", "from images that are kept decoded (data.keep_decoded_mb)", stepping(kept)),
        Part("files", "from files, each image decoded", stepping(from_files)),
    ]
    timings = timed(parts, rounds=rounds, progress=progress)
    shares = {
        t.name: [of_memory / own for of_memory, own in zip(timings[0].rounds_ms, t.rounds_ms, strict=True)] for t in timings[1:]
    }
    conditions = {
        "data": " + ".join(p.text() for p in source.provenance),
        "stage": name,
        "crop_px": training.crop_px,
        "batch_size": train.batch_size,
        "threads": config.data.threads,
        "steps_a_call": STEPS,
    }
    figures = {"rows": [t.figures() for t in timings], "of_memory": shares}
    return Topic("a step fed by the pipeline", conditions, _table(timings, train.batch_size, shares), figures)


def _batches(config: ConfigDict, name: str, source: Any, crop_px: int, keep_mb: float) -> Iterator[Any]:
    config = config.copy_and_resolve_references()
    config.data.keep_decoded_mb = keep_mb
    return iter(stages.training_batches(config, name, source, pipeline.Unreadable(config.data.on_unreadable), crop_px))


def _table(timings: list[Timing], batch_size: int, shares: dict[str, list[float]]) -> str:
    rows = []
    for t in timings:
        low, high = (ms / STEPS for ms in t.quartiles_ms)
        speed, share = 1e3 * STEPS * batch_size / t.median_ms, ratio(shares[t.name]) if t.name in shares else ""
        rows.append((t.name, t.what, f"{t.median_ms / STEPS:.1f}", f"{low:.1f} to {high:.1f}", f"{speed:.1f}", share))
    return table(("fed", "with what", "ms a step", "quartiles", "faces/s", "of the speed from memory"), rows)
