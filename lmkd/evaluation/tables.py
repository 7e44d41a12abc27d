"""Tables of scores, for the page and for the terminal."""

import math
from collections.abc import Mapping, Sequence

from lmkd.evaluation import page
from lmkd.evaluation.content import Result
from lmkd.evaluation.page import Html
from lmkd.evaluation.scores import Scores, Summary, threshold_label

_WORDS = ("data set", "checkpoint", "crop", "flip", "normaliser", "result", "subset", "group of points")


def summary_text(results: Sequence[Result]) -> str:
    """Returns the scores as an aligned table for the terminal, and below it what each network was trained on."""
    if not results:
        return "no scores: nothing was evaluated"
    thresholds = _thresholds(results)
    header = ["data set", "checkpoint", "crop", "normaliser", "flip", "faces", "skipped", "NME %"]
    header += _threshold_titles(thresholds)
    protocol = [[r.name, _checkpoint(r), r.crop_protocol, r.normaliser, "yes" if r.flip_test else "no"] for r in results]
    numbers = [_counts(r) + _numbers(r.scores.overall, r.scores.thresholds, thresholds) for r in results]
    cells = [header, *(words + values for words, values in zip(protocol, numbers, strict=True))]
    widths = [max(len(row[n]) for row in cells) for n in range(len(header))]
    right = _number_columns(header)
    lines = [
        "  ".join(cell.rjust(widths[n]) if n in right else cell.ljust(widths[n]) for n, cell in enumerate(row)).rstrip()
        for row in cells
    ]
    provenance = {r.provenance: [o.name for o in results if o.provenance == r.provenance] for r in results}
    told = [f"{', '.join(dict.fromkeys(names))}: {text}" for text, names in provenance.items() if text]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:], *told])


def scores(results: Sequence[Result]) -> list[Html]:
    """Returns the table of all results, best and last checkpoints alike, each with its protocol and provenance."""
    if not results:
        return []
    thresholds = _thresholds(results)
    header = ["result", "NME %", *_threshold_titles(thresholds), "P50 %", "P90 %", "P99 %"]
    rows = []
    for r in results:
        nme, *rest = _numbers(r.scores.overall, r.scores.thresholds, thresholds)
        with_interval = page.join([nme, page.element("div", interval(r.scores), class_="soft")])
        rows.append([_identity(r), with_interval, *rest, *_percentiles(r.scores.overall)])
    explanation = (
        "NME: mean over points, then over faces; below it the 95 % bootstrap interval over faces. FR: share of faces "
        "above the threshold. AUC: area under the CED up to the threshold, over the threshold. P50, P90, P99: "
        "percentiles. best: lowest validation NME on the way; last: where training ended. A best checkpoint that was "
        "picked on the faces it is scored on flatters itself: read both rows."
    )
    table = page.table(header, rows, caption="Scores of every checkpoint", numbers=_number_columns(header))
    return [table, page.element("p", explanation, class_="soft")]


def breakdown(results: Sequence[Result]) -> list[Html]:
    """Returns the tables by subset and by group of points, the last checkpoint's folded away beside a best one's."""
    parts = []
    for r in results:
        tables = [
            _summaries("subset", "all faces", r, r.scores.by_subset),
            _summaries("group of points", "all points", r, r.scores.by_group),
        ]
        tables = [t for t in tables if t]
        if not tables:
            continue
        title = f"{r.name}, {r.checkpoint} checkpoint, {r.crop_protocol} crop"
        shown = [page.element("p", f"{r.normaliser} normaliser. {r.provenance}", class_="soft"), *tables]
        better = any((o.checkpoint, o.name, o.crop_protocol) == ("best", r.name, r.crop_protocol) for o in results)
        folded = r.checkpoint != "best" and better
        parts.append(page.details(title, page.join(shown)) if folded else page.join([page.element("h3", title), *shown]))
    return parts


def interval(scores: Scores) -> str:
    """Returns the bootstrap interval of the NME in words, in %."""
    low, high = scores.interval_percent
    return "" if math.isnan(low) else f"{low:.2f} to {high:.2f}"


def fixed(value: float, digits: int = 2) -> str:
    """Returns a number with so many decimals, "-" for NaN."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _identity(result: Result) -> Html:
    """The cell that names a result: the faces, the protocol, and what the network was trained on."""
    flip, (evaluated, skipped) = "flip test" if result.flip_test else "no flip test", _counts(result)
    protocol = f"{result.crop_protocol} crop, {result.normaliser}, {flip}, scheme {result.scores.scheme}"
    faces = f"{evaluated} faces evaluated, {skipped} skipped"
    lines = [page.element("div", text, class_="soft") for text in (protocol, faces, result.provenance) if text]
    return page.element("div", f"{result.name}, {_checkpoint(result)}", *lines, class_="identity")


def _checkpoint(result: Result) -> str:
    return result.checkpoint if result.step is None else f"{result.checkpoint} (step {result.step})"


def _counts(result: Result) -> list[str]:
    return [str(result.scores.evaluated), str(result.scores.skipped)]


def _thresholds(results: Sequence[Result]) -> list[float]:
    return sorted({t for r in results for t in r.scores.thresholds})


def _numbers(summary: Summary, own: Sequence[float], shown: Sequence[float]) -> list[str]:
    """NME, then failure rates, then AUCs at the thresholds shown; empty where a result has no such threshold."""
    at = {t: n for n, t in enumerate(own)}
    failure = [fixed(summary.failure_percent[at[t]]) if t in at else "" for t in shown]
    return [fixed(summary.nme_percent), *failure, *(fixed(summary.auc[at[t]], 4) if t in at else "" for t in shown)]


def _summaries(kind: str, whole: str, result: Result, parts: Mapping[str, Summary]) -> Html:
    if not parts:
        return Html("")
    thresholds = result.scores.thresholds
    header = [kind, "faces", "NME %", *_threshold_titles(thresholds), "P50 %", "P90 %", "P99 %"]
    rows = [
        [name, str(p.faces), *_numbers(p, thresholds, thresholds), *_percentiles(p)]
        for name, p in {whole: result.scores.overall, **parts}.items()
    ]
    caption = f"Scores by {kind}, {result.name}, {result.checkpoint} checkpoint"
    return page.table(header, rows, caption=caption, numbers=_number_columns(header))


def _number_columns(header: Sequence[str]) -> set[int]:
    return {n for n, title in enumerate(header) if title not in _WORDS}


def _threshold_titles(thresholds: Sequence[float]) -> list[str]:
    return [f"FR@{threshold_label(t)} %" for t in thresholds] + [f"AUC@{threshold_label(t)}" for t in thresholds]


def _percentiles(s: Summary) -> list[str]:
    return [fixed(s.p50_percent), fixed(s.p90_percent), fixed(s.p99_percent)]
