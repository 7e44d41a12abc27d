"""Published figures of the field, quoted row by row from their sources, and ours beside them.

    rows("wflw")                      # published.json, sorted by NME
    section(results, comparisons)     # of a report: the rows of the data sets that were scored
    python -m lmkd.evaluation.published > docs/literature.md

Nothing here was measured by us but the rows of `ours`, and no two rows need share a protocol: each names its own.
"""

import functools
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import NamedTuple

from lmkd.core.errors import unknown
from lmkd.evaluation import comparison_tables, page
from lmkd.evaluation.comparison import Comparison, Row, summary
from lmkd.evaluation.comparison_tables import Table
from lmkd.evaluation.content import Result
from lmkd.evaluation.page import Html
from lmkd.evaluation.tables import fixed

TITLES = {"300w": "300W", "wflw": "WFLW"}
PREPARED = {"the300w": "300w", "wflw": "wflw"}  # a prepared data set's name -> the name here
# Column -> its title. "full" is the whole test set; "unstated" are test faces of a source's own choice, or not stated.
COLUMNS: Mapping[str, Mapping[str, str]] = {
    "300w": {
        "common": "common\nNME %", "challenging": "challenging\nNME %", "full": "full\nNME %", "private": "private\nNME %",
        "FR@0.10": "FR@0.10\nfull, %", "unstated": "other faces\nNME %", "MSE": "MSE",
    },
    "wflw": {
        "full": "full\nNME %", "pose": "pose", "expression": "expr.", "illumination": "illum.", "makeup": "makeup",
        "occlusion": "occl.", "blur": "blur", "FR@0.10": "FR@0.10\n%", "AUC@0.10": "AUC@0.10",
    },
}  # fmt: skip
_COST = {"parameters_m": "params\nM", "gmacs": "MACs\nG", "file_mb": "file\nMB"}
_SPLITS = {"wflw": {"test": "full"}, "300w": {name: name for name in ("common", "challenging", "full", "private")}}
_THRESHOLD = 0.10

WARNING = (
    "Others' figures, quoted, under other protocols: crop, resolution, training data, recipe and choice of the checkpoint "
    "differ from row to row and from ours, and move an NME by as much as most methods do. None was measured here."
)


class Quoted(NamedTuple):
    """One published row, or one of ours in the same columns.

    Attributes:
      system: its name.
      data: "300w" or "wflw".
      scores: column of `COLUMNS` -> value: NME and failure rates in %, AUC as a fraction, MSE as its source counts it.
      protocol: crop, resolution, training data, remarks; "not known" where the source (or we) cannot say.
      source: repository and file, or paper.
      parameters_m, gmacs, file_mb: parameters in millions, multiply-accumulates in 1e9 (sources that say FLOPs seem to
        count them so), file in MB, where the source measured them.
    """

    system: str
    data: str
    scores: Mapping[str, float]
    protocol: str
    source: str
    parameters_m: float | None = None
    gmacs: float | None = None
    file_mb: float | None = None


def rows(data: str) -> list[Quoted]:
    """Returns the published rows of a data set ("300w", "wflw"), by NME on the whole test set; those without it last.

    Raises:
      UserError: there is no such data set here.
    """
    if data not in TITLES:
        raise unknown("data set", data, TITLES, "published figures")
    return sorted((row for row in _all() if row.data == data), key=lambda row: row.scores.get("full", float("inf")))


def ours(results: Sequence[Result], comparisons: Sequence[Comparison]) -> list[Quoted]:
    """Returns what a report scored on data sets with published figures: a comparison's rows, or else single results.

    Splits of one network join in one row; the means are over seeds.
    """
    joined: dict[tuple[str, str, str], Quoted] = {}
    for reference, row in _scored(results, comparisons):
        name, _, split = reference.partition(":")
        data = PREPARED.get(name.partition("/")[0], "")
        column = _SPLITS.get(data, {}).get(split)
        if column is None:
            continue
        key = (data, row.name, _protocol(row))
        faces = f"{split} {row.results[0].scores.evaluated} faces"
        old = joined.get(key)
        joined[key] = Quoted(
            system=row.name,
            data=data,
            scores={**(old.scores if old else {}), **_scores(row, data, column)},
            protocol=f"{old.protocol}, {faces}" if old else f"{key[2]}; {faces}",
            source="this report" if len(row.seeds) < 2 else f"this report, mean of {len(row.seeds)} seeds",
            parameters_m=row.parameters / 1e6 or None,
            gmacs=row.macs / 1e9 or None,
        )
    return list(joined.values())


def table(data: str, own: Sequence[Quoted] = ()) -> Table:
    """Returns the rows of a data set as a table, ours first; columns that no row fills are left out."""
    shown = [*own, *rows(data)]
    columns = {name: title for name, title in COLUMNS[data].items() if any(name in row.scores for row in shown)}
    costs = {name: title for name, title in _COST.items() if any(getattr(row, name) for row in shown)}
    cells = []
    for n, row in enumerate(shown):
        figures = [_cell(row.scores.get(name), 3 if name.startswith("AUC") else 2) for name in columns]
        figures += [_cell(getattr(row, name)) for name in costs]
        cells.append([f"{row.system}\nours" if n < len(own) else row.system, *figures, row.protocol, row.source])
    second = 1 + len(columns) + len(costs)
    header = ["system", *columns.values(), *costs.values(), "protocol", "source"]
    return Table(TITLES[data], header, cells, _note(columns), second=second, words=(second, second + 1))


def section(results: Sequence[Result], comparisons: Sequence[Comparison] = ()) -> list[Html]:
    """Returns the report's section: for each data set that was scored, ours and the published rows; [] for none."""
    own = ours(results, comparisons)
    parts = [page.element("p", WARNING, class_="notice", role="note")] if own else []
    for data in TITLES:
        mine = [row for row in own if row.data == data]
        parts += comparison_tables.html(table(data, mine)) if mine else []
    return parts


def markdown() -> str:
    """Returns docs/literature.md."""
    parts = [_INTRODUCTION.format(warning=textwrap.fill(WARNING, 120))]
    parts += [f"## {title}\n\n{comparison_tables.markdown(table(data))}\n" for data, title in TITLES.items()]
    return "\n".join(parts)


@functools.cache
def _all() -> tuple[Quoted, ...]:
    text = resources.files("lmkd.evaluation").joinpath("published.json").read_text(encoding="utf-8")
    return tuple(Quoted(**row) for row in json.loads(text))


def _scored(results: Sequence[Result], comparisons: Sequence[Comparison]) -> Iterator[tuple[str, Row]]:
    """Yields split and row; a single result makes a row of one seed, its cost not known here."""
    yield from ((c.split, row) for c in comparisons for row in c.rows)
    for result in () if comparisons else results:
        stage, _, reference = result.name.rpartition(" on ")
        yield reference, Row(stage or "this network", [result], [0], parameters=0, macs=0)


def _protocol(row: Row) -> str:
    first = row.results[0]
    flip = "flip test" if first.flip_test else "no flip test"
    how = f"{first.checkpoint} checkpoint, {first.crop_protocol} crop, {flip}, {first.normaliser}, {first.scores.scheme}"
    return "; ".join(part for part in (how, first.provenance) if part)


def _scores(row: Row, data: str, column: str) -> dict[str, float]:
    found = summary(row)
    scores = {column: found.nme_percent.mean}
    if column == "full":
        scores |= {name: spread.mean for name, spread in found.by_subset.items()}
        scores["MSE"] = found.mse_percent2.mean
        if _THRESHOLD in found.auc:
            scores["FR@0.10"], scores["AUC@0.10"] = found.failure_percent[_THRESHOLD].mean, found.auc[_THRESHOLD].mean
    return {name: value for name, value in scores.items() if name in COLUMNS[data]}


def _cell(value: float | None, digits: int = 2) -> str:
    return "" if value is None else fixed(value, digits)


def _note(columns: Mapping[str, str]) -> str:
    parts = ["NME by the distance of the outer eye corners, in %, unless the protocol says otherwise; rounded."]
    if "unstated" in columns:
        parts.append(
            "Other faces: a test set of the source's own, or not stated. MSE: as its source counts it, in a unit that is not "
            "stated; of our rows in percent of the normaliser, squared."
        )
    parts.append("MACs: as the source counts them, some under the name of FLOPs. Empty: the source does not say.")
    return " ".join(parts)


_INTRODUCTION = """\
# The field's published figures

Made from `lmkd/evaluation/published.json` by `python -m lmkd.evaluation.published > docs/literature.md`; a test holds the
two together. A report prints the same rows beside its own with `config.evaluation.quoted = True`.

{warning}
Before any two rows are compared:

1. **The crop.** H3R's HRNet-W18 has 3.81 on WFLW with the box of the true points and 3.95 with the data set's rectangle;
   AWing has 4.21 and 4.36. That is as much as most distillation gains. HIH's pre-cropped faces, which LDEQ and D-ViT share,
   are easier by about 0.2 than SLPT's (HeatmapInHeatmap, issue 4, by LDEQ's author).
2. **The recipe.** The same network, HRNetV2-W18, has 4.60 on WFLW in its authors' code and 4.06 in mmpose. The best row found
   is D-ViT's 3.75, on the easier crops.
3. **Students without a teacher are strong.** H3R's MobileNetV2 reaches 4.45 on WFLW with 0.60M parameters and 0.51 GMACs at
   256 px, 4.72 with 0.13 GMACs at 128 px, neither distilled; of the distilled, EfficientFAN has 4.54, MobileFAN 4.93, KD-Loss
   8.57.
4. **Distillation gains are small where both sides were measured**: MobileFAN 5.09 to 4.93, at half the width 5.70 to 5.59.
   A claimed gain below 0.05 needs several seeds.

Sources disagree on some figures (LAB's blur, Wing's mean): a row cites the source that it is from. HRNet's and STAR's code
keep the epoch that is best on the test list. Left out: what was trained on the test faces, figures over the distance of the
pupils or over the box, and what no source could be found for. The four networks of Shukla and Huang were scored on test faces
of their own, not on the 689 of 300W.
"""


if __name__ == "__main__":
    print(markdown(), end="")
