"""Methods against a baseline on the same faces: means and spreads over seeds, paired bootstrap intervals, the Pareto front.

    comparison = Comparison("the300w:common", "plain", [Row("plain", ...), Row("everything", ...)])
    check(comparison)                            # one error that names all that is not alike
    paired(comparison.rows[1], comparison.rows[0]).gain   # NME percentage points; above 0 is better than the baseline

Nothing here formats: `comparison_tables` does. NumPy float64.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lmkd.core.errors import UserError, report_together, unknown
from lmkd.evaluation.content import Result, scored_points
from lmkd.evaluation.rows import mse_per_face, nme_per_face

_CHUNK = 1_000_000  # drawn faces held at a time: 8 MB for each of a few arrays


class Row(NamedTuple):
    """One method: the same recipe trained with one or more seeds, scored on the same faces.

    Attributes:
      name: "plain", "everything", ...
      results: one a seed, all on the same split, crop and normaliser.
      seeds: of the results.
      parameters: of the deployed network.
      macs: multiply-accumulates of one face.
      seconds: training wall-clock, mean over seeds.
      robustness: mean NME % over all corruptions, where measured; mean over seeds.
      attacked: epsilon of 255 -> NME %; 0 is the same faces, not attacked.
      shares: term -> mean share of the student's gradient, 0..1.
      steps: of training.
      latency_ms: of one face through the deployed network on the machine of the report, where measured.
      compared_with: name of the row that this one's gain is measured on; "" is the comparison's baseline.
    """

    name: str
    results: Sequence[Result]
    seeds: Sequence[int]
    parameters: int
    macs: int
    seconds: float | None = None
    robustness: float | None = None
    attacked: Mapping[int, float] | None = None
    shares: Mapping[str, float] = {}
    steps: int | None = None
    latency_ms: float | None = None
    compared_with: str = ""


class Comparison(NamedTuple):
    """Methods on one split.

    Attributes:
      split: the faces ("the300w:common").
      baseline: name of the row that the others are measured against, where they name none.
      rows: the methods, the baseline among them.
      fronts: also draw accuracy against MACs with the Pareto front.
    """

    split: str
    baseline: str
    rows: Sequence[Row]
    fronts: bool = False


class Spread(NamedTuple):
    """A figure over seeds: its mean, its sample standard deviation (over n - 1; NaN for one seed), its values."""

    mean: float
    sd: float
    values: tuple[float, ...]


class RowSummary(NamedTuple):
    """A row's scores over seeds.

    Attributes:
      nme_percent: mean NME.
      mse_percent2: mean squared coordinate error in (percent of the normaliser) squared, mean over faces.
      failure_percent, auc: threshold (a fraction) -> failure rate in %, area under the CED.
      by_subset, by_group: name -> mean NME in %.
    """

    nme_percent: Spread
    mse_percent2: Spread
    failure_percent: Mapping[float, Spread]
    auc: Mapping[float, Spread]
    by_subset: Mapping[str, Spread]
    by_group: Mapping[str, Spread]


class Interval(NamedTuple):
    """A 95 % percentile bootstrap interval in NME percentage points, and the share (0..1) of the draws above 0."""

    low: float
    high: float
    share_above_zero: float


class Paired(NamedTuple):
    """A row's gain on the baseline.

    Attributes:
      gain: NME percentage points, baseline minus row: above 0 is better than the baseline.
      over_faces: with other faces from the same source, these very networks.
      over_faces_and_seeds: with other faces and other training seeds; None unless both sides have two seeds or more, for
        nothing is known of how far training alone moves a single one.
      faces: faces with a score from every network of both sides; no other is used.
    """

    gain: float
    over_faces: Interval
    over_faces_and_seeds: Interval | None
    faces: int


def summary(row: Row) -> RowSummary:
    """Returns the means and sample standard deviations of a row's scores over its seeds."""
    scores = [result.scores for result in row.results]
    first = scores[0]
    return RowSummary(
        nme_percent=spread([s.overall.nme_percent for s in scores]),
        mse_percent2=spread([_mse_percent2(result) for result in row.results]),
        failure_percent={t: spread([s.overall.failure_percent[n] for s in scores]) for n, t in enumerate(first.thresholds)},
        auc={t: spread([s.overall.auc[n] for s in scores]) for n, t in enumerate(first.thresholds)},
        by_subset={name: spread([s.by_subset[name].nme_percent for s in scores]) for name in first.by_subset},
        by_group={name: spread([s.by_group[name].nme_percent for s in scores]) for name in first.by_group},
    )


def _mse_percent2(result: Result) -> float:
    values = mse_per_face(result.rows, result.scheme, result.normaliser)
    scored = values[np.isfinite(values)]
    return float(1e4 * scored.mean()) if scored.size else math.nan


def spread(values: Sequence[float]) -> Spread:
    """Returns mean and sample standard deviation of one value a seed."""
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return Spread(float(np.mean(values)), sd, tuple(float(v) for v in values))


def paired(row: Row, baseline: Row, *, seed: int = 0, draws: int = 10000) -> Paired:
    """Compares a row with the baseline face by face.

    Every draw takes n of the n faces with replacement, the same for both sides, and compares the mean NMEs: what both sides
    find hard or easy cancels (paired bootstrap; Koehn, Statistical Significance Tests for Machine Translation Evaluation,
    EMNLP 2004). The second interval also takes, on each side by itself, S of the side's S seeds with replacement. Both are
    percentile intervals (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). With few seeds the second
    is too narrow: means of S values drawn from S vary with (S - 1) / S of the variance that they should have.

    Args:
      row, baseline: scored on the same faces, in any order.
      seed: of the draws.
      draws: their number.

    Raises:
      UserError: some result has other faces than the baseline's first.
    """
    keys = baseline.results[0].rows.keys
    report_together(
        [problem for side in (baseline, row) for problem in _other_faces(side, keys)],
        f"rows {baseline.name!r} and {row.name!r} cannot be paired face by face",
    )
    ours, theirs = _nme_matrix(row, keys), _nme_matrix(baseline, keys)
    scored = np.isfinite(ours).all(axis=0) & np.isfinite(theirs).all(axis=0)
    ours, theirs = 100 * ours[:, scored], 100 * theirs[:, scored]
    faces, several = int(scored.sum()), min(len(ours), len(theirs)) > 1
    if not faces:
        none = Interval(math.nan, math.nan, math.nan)
        return Paired(math.nan, none, none if several else None, 0)
    generator = np.random.default_rng(seed)
    over_faces, over_both = [], []
    for counts in _drawn_counts(generator, faces, draws):
        our_means, their_means = counts @ ours.T / faces, counts @ theirs.T / faces  # [draws of this chunk, seeds]
        over_faces.append(their_means.mean(axis=1) - our_means.mean(axis=1))
        over_both.append(_mean_of_drawn_seeds(generator, their_means) - _mean_of_drawn_seeds(generator, our_means))
    return Paired(
        gain=float(theirs.mean() - ours.mean()),
        over_faces=_interval(np.concatenate(over_faces)),
        over_faces_and_seeds=_interval(np.concatenate(over_both)) if several else None,
        faces=faces,
    )


def pareto(rows: Sequence[Row]) -> tuple[str, ...]:
    """Returns the rows that no other beats, by MACs: none has at most as many MACs and as high a mean NME, and less of one."""
    points = [(row.macs, summary(row).nme_percent.mean, row.name) for row in rows]
    points = sorted(point for point in points if math.isfinite(point[1]))
    return tuple(
        name for macs, nme, name in points if not any(m <= macs and e <= nme and (m, e) != (macs, nme) for m, e, _ in points)
    )


def check(comparison: Comparison) -> None:
    """Raises ONE `UserError` that names all in which the rows' results are not alike.

    Results must have the same faces (by key: a result's name may tell its network as well), normaliser, crop, flip test,
    landmarks, thresholds, subset flags and kind of checkpoint as the baseline's first.
    """
    where = f"comparison on {comparison.split}"
    names = [row.name for row in comparison.rows]
    for name in (comparison.baseline, *(row.compared_with for row in comparison.rows if row.compared_with)):
        if name not in names:
            raise unknown("baseline", name, names, where)
    problems = [f"row {name!r} is there {names.count(name)} times" for name in dict.fromkeys(names) if names.count(name) > 1]
    problems += [
        f"row {row.name!r} has {len(row.results)} results for {len(row.seeds)} seeds: one each, and at least one"
        for row in comparison.rows
        if not row.results or len(row.results) != len(row.seeds)
    ]
    report_together(problems, f"{where}: rows that cannot be compared")
    reference = baseline_row(comparison).results[0]
    expected = _protocol(reference)
    for row in comparison.rows:
        for seed, result in zip(row.seeds, row.results, strict=True):
            problems += [
                f"row {row.name!r}, seed {seed}: {what} {value!r}, but {expected[what]!r} in {comparison.baseline!r}"
                for what, value in _protocol(result).items()
                if value != expected[what]
            ]
        problems += _other_faces(row, reference.rows.keys)
    report_together(problems, f"{where}: rows that are not scored alike; score them again under one protocol")


def baseline_row(comparison: Comparison) -> Row:
    """Returns the row that the others are measured against, where they name none."""
    return _named(comparison, comparison.baseline)


def gain(comparison: Comparison, row: Row) -> Paired | None:
    """Returns a row's gain on the row that it is compared with; None for the baseline itself."""
    if row.name == comparison.baseline:
        return None
    return paired(row, _named(comparison, row.compared_with or comparison.baseline))


def _named(comparison: Comparison, name: str) -> Row:
    for row in comparison.rows:
        if row.name == name:
            return row
    raise unknown("baseline", name, [r.name for r in comparison.rows], f"comparison on {comparison.split}")


def pooled_nme(row: Row) -> np.ndarray:
    """Returns the per-face NMEs of all seeds in one array: its CED is the mean of the seeds' CEDs."""
    return np.concatenate([_nme(result) for result in row.results])


def _protocol(result: Result) -> dict[str, object]:
    return {
        "normaliser": result.normaliser,
        "crop": result.crop_protocol,
        "flip test": result.flip_test,
        "checkpoint": result.checkpoint,
        "scheme": result.scores.scheme,
        "thresholds": tuple(result.scores.thresholds),
        "subset flags": tuple(result.flags),
    }


def _other_faces(row: Row, keys: Sequence[str]) -> list[str]:
    """A line for each result of a row whose faces are not `keys`."""
    expected, problems = set(keys), []
    for seed, result in zip(row.seeds, row.results, strict=True):
        found = set(result.rows.keys)
        told = [
            f"{len(some)} faces {word} ({', '.join(map(repr, sorted(some)[:3]))}{', ...' if len(some) > 3 else ''})"
            for word, some in (("missing", expected - found), ("too many", found - expected))
            if some
        ]
        if told:
            problems.append(f"row {row.name!r}, seed {seed}: {' and '.join(told)}")
        elif len(result.rows.keys) != len(found):
            problems.append(f"row {row.name!r}, seed {seed}: keys of faces that are not unique")
    return problems


def _nme(result: Result) -> np.ndarray:
    rows, scheme = scored_points(result)
    return nme_per_face(rows, scheme, result.normaliser)


def _nme_matrix(row: Row, keys: Sequence[str]) -> np.ndarray:
    """f64 [seeds, n]: per-face NMEs (fractions) in the order of `keys`."""
    if not row.results:
        raise UserError(f"row {row.name!r} has no results")
    ordered = []
    for result in row.results:
        place = {key: n for n, key in enumerate(result.rows.keys)}
        ordered.append(_nme(result)[[place[key] for key in keys]])
    return np.stack(ordered)


def _drawn_counts(generator: np.random.Generator, faces: int, draws: int) -> Iterator[np.ndarray]:
    """Yields f64 [some draws, faces]: how often each face was drawn; a bounded number of draws at a time."""
    at_once = max(1, _CHUNK // faces)
    for begin in range(0, draws, at_once):
        size = min(at_once, draws - begin)
        drawn = generator.integers(0, faces, (size, faces)) + faces * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * faces).reshape(size, faces).astype(np.float64)


def _mean_of_drawn_seeds(generator: np.random.Generator, means: np.ndarray) -> np.ndarray:
    """f64 [draws]: for each draw the mean of S of its S columns, drawn with replacement."""
    return np.take_along_axis(means, generator.integers(0, means.shape[1], means.shape), axis=1).mean(axis=1)


def _interval(values: np.ndarray) -> Interval:
    low, high = np.percentile(values, (2.5, 97.5))
    return Interval(float(low), float(high), float((values > 0).mean()))
