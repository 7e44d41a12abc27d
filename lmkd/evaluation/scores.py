"""Scores of a set of faces, from its rows: NME, failure rate, AUC of the CED, percentiles. NumPy float64.

    scores = score(rows, scheme, flags, normaliser="inter_ocular")
    scores.overall.nme_percent, scores.by_subset["pose"].auc, scores.by_group["eyes"].p90_percent

A face's NME is the mean over its annotated points; a set's NME is the mean over faces (PIPNet, HRNet). mmpose pools the
points of a set instead, which differs as soon as one is missing. Skipped faces are in no mean, but counted beside it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lmkd.core import schemes
from lmkd.core.schemes import Scheme
from lmkd.evaluation.rows import FaceRows, check_points, nme_per_face, take_points

DEFAULT_THRESHOLDS = (0.08, 0.10)


class Summary(NamedTuple):
    """Scores of one set of faces over one set of points; NaN throughout where `faces` is 0.

    Attributes:
      faces: faces that have a score.
      nme_percent: mean NME.
      failure_percent: for each threshold, the share of faces whose NME is above it.
      auc: for each threshold t, the area under the CED from 0 to t, divided by t; within 0..1.
      p50_percent, p90_percent, p99_percent: percentiles of the NME (linear interpolation).
    """

    faces: int
    nme_percent: float
    failure_percent: tuple[float, ...]
    auc: tuple[float, ...]
    p50_percent: float
    p90_percent: float
    p99_percent: float


class Scores(NamedTuple):
    """Scores of a data set's faces.

    Attributes:
      scheme: name of the landmark scheme that was scored.
      normaliser: what errors were divided by.
      thresholds: NME thresholds of failure rates and AUCs, as fractions.
      evaluated, skipped: their sum is the number of rows.
      undefined: evaluated faces without a score (no annotated point, or no normalising distance).
      overall: over all faces and points.
      interval_percent: 95 % bootstrap interval of the overall NME.
      by_subset: subset flag -> its faces, all points.
      by_group: group of points -> all faces, the group's points.
    """

    scheme: str
    normaliser: str
    thresholds: tuple[float, ...]
    evaluated: int
    skipped: int
    undefined: int
    overall: Summary
    interval_percent: tuple[float, float]
    by_subset: Mapping[str, Summary]
    by_group: Mapping[str, Summary]


def score(
    rows: FaceRows,
    scheme: Scheme,
    flags: Sequence[str],
    *,
    normaliser: str | None = None,
    thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
    target: str | None = None,
) -> Scores:
    """Scores rows, as a whole, by subset flag and by group of points.

    Args:
      rows: n faces with the points of `scheme`.
      scheme: their landmark scheme.
      flags: names of the F subset flags.
      normaliser: one of the scored scheme's `normaliser_names()`; its default when None.
      thresholds: NME thresholds as fractions.
      target: name of a shipped scheme that is part of `scheme` ("300w68" of "wflw98"): only its points are scored, with
        its own groups and normalisers.

    Raises:
      UserError: rows, scheme and flags do not fit each other, or an unknown normaliser or target.
    """
    check_points(rows, scheme)
    if target is not None and target != scheme.name:
        rows, scheme = (take_points(rows, scheme.subset_indices(target)), schemes.get(target))
    which = normaliser or scheme.default_normaliser
    nme = nme_per_face(rows, scheme, which)
    members = {flag: rows.subset[:, f] > 0 for f, flag in enumerate(flags)}
    evaluated = int((rows.evaluated > 0).sum())
    overall = summarise(nme, thresholds)
    low, high = bootstrap_interval(nme, seed=0)
    return Scores(
        scheme=scheme.name,
        normaliser=which,
        thresholds=tuple(float(t) for t in thresholds),
        evaluated=evaluated,
        skipped=len(rows.keys) - evaluated,
        undefined=evaluated - overall.faces,
        overall=overall,
        interval_percent=(100 * low, 100 * high),
        by_subset={flag: summarise(nme[member], thresholds) for flag, member in members.items()},
        by_group={
            group: summarise(nme_per_face(rows, scheme, which, points=points), thresholds)
            for group, points in scheme.groups.items()
        },
    )


def summarise(nme: np.ndarray, thresholds: Sequence[float] = DEFAULT_THRESHOLDS) -> Summary:
    """Returns the scores of per-face NMEs f64 [n] (fractions; NaN entries are left out)."""
    nme = np.asarray(nme, np.float64)
    nme = nme[~np.isnan(nme)]
    if nme.size == 0:
        none = (math.nan,) * len(thresholds)
        return Summary(0, math.nan, none, none, math.nan, math.nan, math.nan)
    p50, p90, p99 = (float(p) for p in 100 * np.percentile(nme, (50, 90, 99)))
    return Summary(
        faces=int(nme.size),
        nme_percent=100 * float(nme.mean()),
        failure_percent=tuple(100 * float((nme > t).mean()) for t in thresholds),
        auc=tuple(area_under_ced(nme, t) for t in thresholds),
        p50_percent=p50,
        p90_percent=p90,
        p99_percent=p99,
    )


def area_under_ced(nme: np.ndarray, threshold: float) -> float:
    """Returns the area under the cumulative error distribution from 0 to `threshold`, divided by it; within 0..1.

    Exact for the empirical step function: a face of error e adds max(0, t - e). PIPNet, STAR and LDEQ take Simpson's
    rule on a grid of step 1e-4 instead; on a data set of some hundred faces the two agree to about 1e-4.
    """
    return float(np.maximum(0.0, threshold - np.asarray(nme, np.float64)).mean() / threshold)


def bootstrap_interval(nme_per_face: np.ndarray, seed: int, samples: int = 1000) -> tuple[float, float]:
    """Returns the 95 % percentile bootstrap interval of the mean, in the unit of its input (NaN entries left out).

    It tells how far the mean would move with other faces from the same source, not with another training seed.
    """
    values = np.asarray(nme_per_face, np.float64)
    values = values[~np.isnan(values)]
    if values.size == 0:
        return math.nan, math.nan
    generator = np.random.default_rng(seed)
    means = [values[generator.integers(0, values.size, values.size)].mean() for _ in range(samples)]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def threshold_label(threshold: float) -> str:
    """Returns a threshold as the field writes it: 0.08, 0.10; more decimals where it has them."""
    return f"{threshold:g}" if round(threshold, 2) != threshold else f"{threshold:.2f}"


def scores_to_dict(scores: Scores) -> dict[str, Any]:
    """Returns the scores as plain dicts, lists and numbers; NaN becomes None, thresholds become keys ("0.08")."""
    labels = [threshold_label(t) for t in scores.thresholds]

    def summary(s: Summary) -> dict[str, Any]:
        plain = {name: _number(value) for name, value in s._asdict().items() if not isinstance(value, tuple)}
        lists = {"failure_percent": s.failure_percent, "auc": s.auc}
        return plain | {n: dict(zip(labels, map(_number, v), strict=True)) for n, v in lists.items()}

    return scores._asdict() | {
        "thresholds": list(scores.thresholds),
        "overall": summary(scores.overall),
        "interval_percent": [_number(bound) for bound in scores.interval_percent],
        "by_subset": {flag: summary(s) for flag, s in scores.by_subset.items()},
        "by_group": {group: summary(s) for group, s in scores.by_group.items()},
    }


def scores_to_json(scores: Scores) -> str:
    """Returns `scores_to_dict` as JSON text."""
    return json.dumps(scores_to_dict(scores), indent=2, allow_nan=False)


def _number(value: float) -> float | int | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value
