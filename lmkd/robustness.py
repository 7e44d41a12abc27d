"""Runs the robustness suite: a landmarker on one split under every corruption and under attack.

    found = run(build.load("runs/faces68"), config, "the300w:common", crop="landmarks")
    print(robustness.text(found))

Corruptions are scored as the config scores clean faces (flip test, batch, normaliser), by one compiled program; attacks see the
network alone, without flip test, by another one.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from lmkd import build, scoring
from lmkd.core.errors import UserError
from lmkd.core.schemes import Scheme
from lmkd.data import pipeline
from lmkd.data.corruptions import KINDS, STRENGTHS, Corruption
from lmkd.data.reading import Record, Records
from lmkd.evaluation import evaluator, rows, scores
from lmkd.evaluation.robustness import Entry, Robustness
from lmkd.models import attack, landmarker
from lmkd.training import parallel

_SEED = 0  # of the attacks' random starts: the suite gives the same numbers every time


class FirstFaces:
    """The first faces of some records."""

    def __init__(self, records: Records, count: int):
        self._records, self._count = records, min(count, len(records))
        self.scheme, self.flags, self.provenance = records.scheme, records.flags, records.provenance

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Record:
        return self._records[index]


def run(
    loaded: build.Loaded,
    config: ConfigDict,
    reference: str,
    *,
    crop: str,
    kinds: Sequence[str] = tuple(KINDS),
    strengths: Sequence[int] = STRENGTHS,
    attacks: Sequence[float] = (2, 4, 8),
    attack_steps: int = 10,
    limit: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Robustness:
    """Scores a landmarker on one split, clean, under every kind at every strength, and under attack.

    Args:
      loaded: the landmarker.
      config: for the crop's scale, the batch, flip test, normaliser and thresholds; the largest threshold counts here.
      reference: NAME[/CONFIG]:SPLIT.
      crop: crop protocol.
      kinds: of `corruptions.KINDS`.
      strengths: of `corruptions.STRENGTHS`.
      attacks: radii of the attack, in 1/255 of full scale; none leaves it out.
      attack_steps: its gradient steps.
      limit: the first so many faces only; the report says so.
      progress: is told what each pass found.

    Raises:
      UserError: an unknown kind or strength, or what `scoring.score_split` raises.
    """
    wanted = [Corruption(kind, strength) for kind in kinds for strength in strengths]
    if limit is not None and limit < 1:
        raise UserError(f"limit: {limit} faces leave nothing to score")
    whole = scoring.records(loaded, config, reference)
    source = whole if limit is None else FirstFaces(whole, limit)
    passes = _Passes(loaded, config, source, crop)
    normaliser = config.evaluation.normaliser or source.scheme.default_normaliser
    threshold = max(config.evaluation.thresholds)

    def entry(kind: str, strength: float, setting: str, found: rows.FaceRows) -> Entry:
        summary = scores.summarise(rows.nme_per_face(found, source.scheme, normaliser), (threshold,))
        if progress is not None:
            progress(f"{kind} {strength:g} ({setting}): NME {summary.nme_percent:.2f} %")
        numbers = (summary.nme_percent, summary.failure_percent[0], _mean_error_px(found), summary.faces)
        return Entry(kind, strength, setting, *numbers)

    clean_rows = passes.corrupted(None)
    evaluated = int(clean_rows.evaluated.sum())
    return Robustness(
        name=reference,
        checkpoint=loaded.label,
        crop_protocol=f"{crop} x {config.data.crop_scale:g}",
        normaliser=normaliser,
        flip_test=bool(config.evaluation.flip_test),
        threshold=threshold,
        evaluated=evaluated,
        skipped=len(source) - evaluated,
        available=len(whole),
        clean=entry("clean", 0, "as they are", clean_rows),
        entries=tuple(entry(c.kind, c.strength, c.setting, passes.corrupted(c)) for c in wanted),
        attacks=tuple(
            entry("attack", epsilon, _setting(epsilon, attack_steps), passes.attacked(epsilon, attack_steps))
            for epsilon in ((0, *sorted(attacks)) if attacks else ())
        ),
    )


class _Passes:
    """Passes of one landmarker over the same faces. Each program is compiled in its first pass and serves all others."""

    def __init__(self, loaded: build.Loaded, config: ConfigDict, source: Records, crop: str):
        self._scheme, self._config, self._source = loaded.scheme, config, source
        self._cut: dict[str, Any] = {"crop": crop, "image_px": loaded.image_px}
        self._unreadable = pipeline.Unreadable(config.data.on_unreadable)
        self._variables = parallel.replicate(loaded.variables)
        self._predict = build.predictor(loaded.model, loaded.scheme, flip_test=config.evaluation.flip_test)
        self._attacker = Attacker(loaded.model, loaded.scheme, source.scheme)

    def corrupted(self, corruption: Corruption | None) -> rows.FaceRows:
        where = (self._config, self._source, self._unreadable)
        predict_batch = functools.partial(self._predict, self._variables)
        return scoring.face_rows(predict_batch, self._scheme, *where, **self._cut, corruption=corruption)

    def attacked(self, epsilon: float, steps: int) -> rows.FaceRows:
        # Without a ball to search, one look at the clean face is enough.
        predict_batch = self._attacker.predictor(self._variables, epsilon, steps if epsilon else 0)
        batches = build.evaluation_batches(self._config, self._source, self._unreadable, **self._cut)
        return evaluator.evaluate(predict_batch, batches, expected_faces=len(self._source))


class Attacker:
    """Attacks a landmarker through one compiled program, whatever the radius and the number of steps.

    The points of `target`, the data's scheme, are attacked and predicted; the landmarker's scheme has them all.
    """

    def __init__(self, model: landmarker.Landmarker, scheme: Scheme, target: Scheme):
        chosen = np.asarray(scheme.subset_indices(target.name))

        def predict(setting: tuple[Any, Any, Any, Any], batch: dict[str, Any]) -> Any:
            variables, epsilon, steps, number = setting
            # Other noise for every batch and device.
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(_SEED), number), jax.lax.axis_index(parallel.AXIS))

            def heatmaps(image: jax.Array) -> jax.Array:
                return landmarker.predict(model, variables, image).heatmaps[..., chosen]

            image = batch["image"].astype(np.float32)
            options = {"epsilon": epsilon, "steps": steps, "stride": model.stride, "key": key}
            attacked = attack.pgd(heatmaps, image, batch["landmarks_px"], batch["visible"], **options)
            found = landmarker.predict(model, variables, attacked)
            return found.landmarks_px[:, chosen], found.confidence[:, chosen]

        self._mapped = parallel.map_predict(predict)

    def predictor(self, variables: Any, epsilon: float, steps: int) -> evaluator.PredictBatch:
        """Returns a predictor of attacked faces for one pass over the data, from the first batch on."""
        passed = 0

        def predict_batch(batch: evaluator.Batch) -> tuple[np.ndarray, np.ndarray]:
            nonlocal passed
            shares = parallel.split_over_devices({name: batch[name] for name in ("image", "landmarks_px", "visible")})
            setting = (variables, np.float32(epsilon), np.int32(steps), np.int32(passed))
            passed += 1
            return parallel.joined(self._mapped(setting, shares))

        return predict_batch


def _setting(epsilon: float, steps: int) -> str:
    return f"within {epsilon:g}/255, {steps} steps" if epsilon else "none"


def _mean_error_px(found: rows.FaceRows) -> float:
    """Mean over faces of the mean over their points; NaN where no face counts."""
    errors = rows.errors_px(found)
    errors = errors[np.isfinite(errors).any(axis=1)]
    return float(np.nanmean(errors, axis=1).mean()) if len(errors) else float("nan")
