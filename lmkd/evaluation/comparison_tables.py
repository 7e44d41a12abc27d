"""A comparison as tables and figures: for the report, for the terminal, for Markdown and for `ablation.json`.

    print(comparison_text(comparison))
    Path("ablation.md").write_text(comparison_markdown(comparison))
    json.dumps(to_json(comparison), allow_nan=False)

`tables` makes the cells once, as text; the three forms differ in how they join them.
"""

import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from lmkd.evaluation import page, plots
from lmkd.evaluation.comparison import (
    Comparison,
    Row,
    RowSummary,
    Spread,
    baseline_row,
    check,
    gain,
    pareto,
    pooled_nme,
    summary,
)
from lmkd.evaluation.faces import data_uri
from lmkd.evaluation.page import Html
from lmkd.evaluation.scores import scores_to_dict, threshold_label
from lmkd.evaluation.tables import fixed

LEAST_SHARE = 0.01  # of the student's gradient; a term with less is in the recipe's text, not in its result
_TERMINAL = 120  # columns


class Table(NamedTuple):
    """A table of text.

    Attributes:
      title: of the table.
      header: column titles; the first column names the row, the others are numbers unless in `words`.
      rows: as long as the header. A cell is a line; what follows a line break in it (spread, interval) is set small beneath
        it on the page, and stands beside it elsewhere.
      note: how to read it.
      second: columns from this one on make a second table on the page; None where all fit.
      words: indices of columns of text.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str
    second: int | None = None
    words: Sequence[int] = ()


def tables(comparison: Comparison) -> list[Table]:
    """Returns the tables: methods; NME by subset of faces, by group of points; shares of the gradient. Empty ones left out.

    Raises:
      UserError: what `comparison.check` finds.
    """
    check(comparison)
    summaries = {row.name: summary(row) for row in comparison.rows}
    found = [
        _methods(comparison, summaries),
        _parts(comparison, "NME % by subset of faces", {name: s.by_subset for name, s in summaries.items()}),
        _parts(comparison, "NME % by group of points", {name: s.by_group for name, s in summaries.items()}),
        _shares(comparison.rows),
    ]
    return [table for table in found if len(table.header) > 1]


def comparison_text(comparison: Comparison) -> str:
    """Returns the tables, aligned for a terminal of 120 columns; a wider table goes on below, its first column repeated."""
    parts = []
    for table in tables(comparison):
        cells = [[" ".join(cell.split()) for cell in row] for row in (table.header, *table.rows)]
        parts += [table.title, *("\n".join(block) for block in _blocks(cells))]
        parts += [textwrap.fill(table.note, _TERMINAL)] if table.note else []
    return "\n\n".join(parts)


def comparison_markdown(comparison: Comparison) -> str:
    """Returns the tables as GitHub Markdown."""
    return "\n\n".join(f"**{_markdown(table.title)}**\n\n{markdown(table)}" for table in tables(comparison)) + "\n"


def markdown(table: Table) -> str:
    """Returns a table and its note, without the title, as GitHub Markdown."""
    rule = ["---" if n == 0 or n in table.words else "---:" for n in range(len(table.header))]
    lines = [_markdown_row(map(_markdown, table.header)), _markdown_row(rule)]
    lines += [_markdown_row(map(_markdown, row)) for row in table.rows]
    return "\n".join([*lines, "", _markdown(table.note)])


def section(comparisons: Sequence[Comparison]) -> list[Html]:
    """Returns the report's section: for each comparison its tables and figures."""
    parts = []
    for comparison in comparisons:
        main, *others = tables(comparison)
        parts += [*html(main), page.element("div", *_figures(comparison), class_="figures")]
        parts += [part for table in others for part in html(table)]
    return parts


def html(table: Table) -> list[Html]:
    """Returns the title, the table, in two parts where it is too wide for a page, and the note."""

    def cell(text: str) -> Html:
        line, *small = text.split("\n")
        return page.join([line, *(page.element("div", s, class_="soft") for s in small)])

    columns = range(1, len(table.header))
    grids = []
    for part in (columns[: table.second - 1], columns[table.second - 1 :]) if table.second else (columns,):
        rows = [[cell(row[0]), *(cell(row[n]) for n in part)] for row in table.rows]
        numbers = [place for place, n in enumerate(part, start=1) if n not in table.words]
        header = [table.header[0], *(cell(table.header[n]) for n in part)]
        grids.append(page.table(header, rows, caption=table.title, numbers=numbers))
    return [page.element("h3", table.title), *grids, *([page.element("p", table.note, class_="soft")] if table.note else [])]


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Returns all numbers, every seed's included, as plain values; NaN becomes None."""
    check(comparison)
    rows = []
    for row in comparison.rows:
        per_seed = [
            {"seed": seed, "name": r.name, "checkpoint": r.checkpoint, "step": r.step, "scores": scores_to_dict(r.scores)}
            for seed, r in zip(row.seeds, row.results, strict=True)
        ]
        rows.append(row._asdict() | {"summary": summary(row), "gain": gain(comparison, row), "results": per_seed})
    return _plain(comparison._asdict() | {"rows": rows, "pareto": pareto(comparison.rows)})


def _methods(comparison: Comparison, summaries: Mapping[str, RowSummary]) -> Table:
    rows, baseline = comparison.rows, baseline_row(comparison)
    first = baseline.results[0]
    thresholds = first.scores.thresholds
    epsilons = sorted({e for row in rows for e in row.attacked or ()})
    unit, seconds_in_unit = _time_unit([row.seconds for row in rows if row.seconds is not None])
    header = ["method", "NME\n%", "gain\n[faces]\n[faces, seeds]"]
    header += [f"FR@{threshold_label(t)}\n%" for t in thresholds] + [f"AUC@{threshold_label(t)}" for t in thresholds]
    header += ["MSE\n%²", "seeds", "parameters\nM", "MACs\nM"]
    optional = {
        "corrupted\nNME %": [_given(row.robustness) for row in rows],
        f"attacked {' / '.join(map(str, epsilons))}\nNME %": [_attacked(row, epsilons) for row in rows],
        f"training\n{unit}": [_given(row.seconds, 1 / seconds_in_unit, 1) for row in rows],
        "steps": ["" if row.steps is None else str(row.steps) for row in rows],
        "float32\nMB": ["" if row.latency_ms is None else f"{4 * row.parameters / 1e6:.2f}" for row in rows],
        "latency\nms": [_given(row.latency_ms) for row in rows],
    }
    more = {title: cells for title, cells in optional.items() if any(cells)}
    cells = []
    for n, row in enumerate(rows):
        s = summaries[row.name]
        cost = [_spread(s.mse_percent2), str(len(row.seeds)), f"{row.parameters / 1e6:.3f}", f"{row.macs / 1e6:.1f}"]
        scores = [_spread(s.failure_percent[t], 1) for t in thresholds] + [_spread(s.auc[t], 3) for t in thresholds]
        cells.append(
            [row.name, _spread(s.nme_percent), _gain(comparison, row), *scores, *cost, *(column[n] for column in more.values())]
        )
    note = f"{_protocol(comparison)} {_methods_note(comparison, epsilons)}"
    return Table(f"Methods, {comparison.split}", [*header, *more], cells, note, len(header) if more else None)


def _protocol(comparison: Comparison) -> str:
    first = baseline_row(comparison).results[0]
    flip = "flip test" if first.flip_test else "no flip test"
    faces = f"{first.scores.evaluated} faces evaluated, {first.scores.skipped} skipped"
    how = f"{first.crop_protocol} crop, {first.normaliser} normaliser, {flip}, scheme {first.scores.scheme}"
    return f"{first.checkpoint.capitalize()} checkpoints, {how}: {faces}."


def _methods_note(comparison: Comparison, epsilons: Sequence[int]) -> str:
    several = any(len(row.seeds) > 1 for row in comparison.rows)
    parts = [
        "Mean ± sample standard deviation over seeds." if several else "One seed each: the spread over seeds is not known.",
        "MSE: squared coordinate error, in percent of the normaliser, squared.",
        f"gain: NME percentage points below {_baselines(comparison)}; above 0 is better.",
        "Beside it its 95 % paired percentile bootstrap intervals, 10000 draws: [faces], these networks on other faces; "
        "[faces, seeds], trained anew as well (only where both sides have two seeds or more; with few it is too narrow). Each "
        "row is held against its baseline by itself: of twenty rows that are no better or worse, about one misses 0 by chance.",
        "FR: share of faces above the threshold. AUC: area under the CED up to it.",
    ]
    if any(row.robustness is not None for row in comparison.rows):
        parts.append("corrupted: mean over all corruptions and strengths.")
    if epsilons:
        parts.append(f"attacked: projected gradient, epsilon of 255{'; 0: the same faces without attack' * (0 in epsilons)}.")
    return " ".join(parts)


def _parts(comparison: Comparison, title: str, by_row: Mapping[str, Mapping[str, Spread]]) -> Table:
    names = list(by_row[comparison.baseline])
    rows = [[row, *(_spread(spreads[name]) for name in names)] for row, spreads in by_row.items()]
    note = "Mean ± sample standard deviation over seeds." if any("±" in cell for row in rows for cell in row[1:]) else ""
    return Table(f"{title}, {comparison.split}", ["method", *names], rows, note)


def _shares(rows: Sequence[Row]) -> Table:
    terms = list(dict.fromkeys(term for row in rows for term in row.shares))

    def cell(share: float | None) -> str:
        if share is None:
            return ""
        return f"{fixed(100 * share, 1)}{' (not used)' if share < LEAST_SHARE else ''}"

    cells = [[row.name, *(cell(row.shares.get(term)) for term in terms)] for row in rows if row.shares]
    note = (
        "Norm of the student's gradient under a term alone, over the sum of these norms; mean over seeds and over what of the "
        "training the term's weight is not zero in. "
        f"A term under {100 * LEAST_SHARE:g} % does not count as used."
    )
    return Table("Shares of the student's gradient, %", ["method", *terms], cells, note)


def _baselines(comparison: Comparison) -> str:
    others = any(row.compared_with for row in comparison.rows)
    return f"the row named under it, or {comparison.baseline} where none is" if others else comparison.baseline


def _gain(comparison: Comparison, row: Row) -> str:
    found = gain(comparison, row)
    if found is None:
        return "baseline"
    intervals = [i for i in (found.over_faces, found.over_faces_and_seeds) if i is not None]
    on = [f"on {row.compared_with}"] * bool(row.compared_with)
    return "\n".join([_signed(found.gain), *(f"[{_signed(i.low)}, {_signed(i.high)}]" for i in intervals), *on])


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.2f}".replace("-0.00", "+0.00")


def _spread(found: Spread, digits: int = 2) -> str:
    return fixed(found.mean, digits) + ("" if math.isnan(found.sd) else f"\n± {found.sd:.{digits}f}")


def _given(value: float | None, factor: float = 1.0, digits: int = 2) -> str:
    return "" if value is None else fixed(factor * value, digits)


def _attacked(row: Row, epsilons: Sequence[int]) -> str:
    found = row.attacked or {}
    return " / ".join(fixed(found.get(e, math.nan)) for e in epsilons) if found else ""


def _time_unit(seconds: Sequence[float]) -> tuple[str, float]:
    longest = max(seconds, default=0.0)
    return ("s", 1.0) if longest < 120 else ("min", 60.0) if longest < 7200 else ("h", 3600.0)


def _blocks(cells: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    """Yields the lines of a table, as many columns at a time as fit."""
    widths = [max(len(row[n]) for row in cells) for n in range(len(cells[0]))]
    left = 1
    while left < len(widths):
        right = left + 1
        while right < len(widths) and widths[0] + sum(2 + w for w in widths[left : right + 1]) <= _TERMINAL:
            right += 1
        lines = ["  ".join([r[0].ljust(widths[0]), *map(str.rjust, r[left:right], widths[left:right])]).rstrip() for r in cells]
        yield [lines[0], "-" * max(map(len, lines)), *lines[1:]]
        left = right


def _figures(comparison: Comparison) -> list[Html]:
    baseline = baseline_row(comparison)
    ordered = [baseline, *(row for row in comparison.rows if row is not baseline)]
    summaries = [summary(row) for row in ordered]
    told = "; ".join(f"{row.name} {s.nme_percent.mean:.2f}" for row, s in zip(ordered, summaries, strict=True))
    curves = [plots.Curve(row.name, "", pooled_nme(row)) for row in ordered]
    drawn = [
        page.figure(
            data_uri(plots.compared_ced_figure(curves, baseline.results[0].scores.thresholds), "image/svg+xml"),
            f"Cumulative error distributions of all methods. NME in %: {told}",
            f"Cumulative error distributions (CED), {comparison.split}, all seeds' faces pooled: a curve is the mean of its "
            f"seeds' curves. Black: {comparison.baseline}. Dotted: thresholds.",
        )
    ]
    if comparison.fronts:
        front = pareto(comparison.rows)
        points = [
            plots.FrontPoint(row.name, row.macs, s.nme_percent.mean, s.nme_percent.sd, row.name in front)
            for row, s in zip(ordered, summaries, strict=True)
        ]
        drawn.append(
            page.figure(
                data_uri(plots.front_figure(points), "image/svg+xml"),
                f"Mean NME against multiply-accumulates. On the front: {', '.join(front)}. NME in %: {told}",
                f"Accuracy against cost, {comparison.split}. Bars: one standard deviation over seeds, each way. Blue line: the "
                "front; no method has both fewer multiply-accumulates and less error than one on it.",
            )
        )
    return drawn


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown(text: str) -> str:
    """Text as it is: no character of it is read as Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", " ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;")


def _plain(value: Any) -> Any:
    """Named tuples and mappings become dicts with text keys (thresholds "0.08"), sequences lists, NaN None."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {threshold_label(k) if isinstance(k, float) else str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
