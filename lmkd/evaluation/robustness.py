"""What the robustness suite found: the numbers, their table, their plot and the report's section.

`lmkd.robustness.run` makes a `Robustness`; nothing here runs a network.
"""

import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from lmkd.evaluation import page
from lmkd.evaluation.faces import data_uri
from lmkd.evaluation.page import Html
from lmkd.evaluation.plots import PALETTE
from lmkd.evaluation.scores import threshold_label


class Entry(NamedTuple):
    """The score of one pass over the faces.

    Attributes:
      kind: "clean", a kind of corruption, or "attack".
      strength: 0 for clean, 1 to 5, or the attack's epsilon in 1/255 of full scale.
      setting: what the strength is, in words.
      nme_percent: mean NME over faces.
      failure_percent: share of faces whose NME is above the suite's threshold.
      error_px: mean over faces of the mean distance from predicted to true points, in original image pixels.
      faces: faces that have a score.
    """

    kind: str
    strength: float
    setting: str
    nme_percent: float
    failure_percent: float
    error_px: float
    faces: int


class Robustness(NamedTuple):
    """A landmarker's scores on one split under corruptions and attacks.

    Attributes:
      name: the faces ("the300w:common").
      checkpoint: "best", "last", ...
      crop_protocol: where crops were cut, before jitter and rotation.
      normaliser: what errors were divided by.
      flip_test: of the clean pass and the corruptions; attacks go without.
      threshold: of the failure rates, as a fraction.
      evaluated, skipped: faces of every pass, checked each time.
      available: faces that the split has; more than were used where the suite was limited to the first ones.
      clean: strength 0 of every corruption.
      entries: kinds x strengths, in order.
      attacks: in order of epsilon, the first at epsilon 0: the clean faces without flip test.
    """

    name: str
    checkpoint: str
    crop_protocol: str
    normaliser: str
    flip_test: bool
    threshold: float
    evaluated: int
    skipped: int
    available: int
    clean: Entry
    entries: tuple[Entry, ...]
    attacks: tuple[Entry, ...]

    @property
    def mean_corrupted(self) -> float:
        """Mean NME in % over all kinds and strengths; NaN where there are none."""
        return _mean(self.entries)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of corruption, in order."""
        return tuple(dict.fromkeys(entry.kind for entry in self.entries))

    def of(self, kind: str) -> tuple[Entry, ...]:
        """The entries of a kind, by strength."""
        return tuple(entry for entry in self.entries if entry.kind == kind)


def to_dict(found: Robustness) -> dict[str, Any]:
    """Returns plain values for `robustness.json`; NaN becomes None."""

    def plain(entry: Entry) -> dict[str, Any]:
        return {name: _number(value) for name, value in entry._asdict().items()}

    lists = {name: [plain(e) for e in getattr(found, name)] for name in ("entries", "attacks")}
    return found._asdict() | lists | {"clean": plain(found.clean), "mean_corrupted": _number(found.mean_corrupted)}


def text(found: Robustness) -> str:
    """Returns the tables for the terminal: NME and, in brackets, the failure rate, both in %."""
    header, *rows = _corruption_rows(found)
    lines = [f"Robustness. {_protocol(found)}", f"NME % (FR@{threshold_label(found.threshold)} %) by strength:"]
    lines += _aligned([header, *rows])
    lines.append(f"mean over kinds and strengths: NME {_fixed(found.mean_corrupted)} %")
    if found.attacks:
        header, *rows = _attack_rows(found)
        lines += ["", "Projected gradient attack, without flip test:", *_aligned([header, *rows])]
    return "\n".join(lines)


def section(all_found: Sequence[Robustness]) -> list[Html]:
    """Returns the report's section: a plot of all, then the tables of each."""
    if not all_found:
        return []
    told = "; ".join(
        f"{f.name} {f.checkpoint}: clean {_fixed(f.clean.nme_percent)} %, mean corrupted {_fixed(f.mean_corrupted)} %"
        for f in all_found
    )
    caption = "NME against strength, each kind on the same scale. Strength 0: clean faces. Dotted: the clean NME."
    parts = [page.figure(data_uri(figure(all_found), "image/svg+xml"), f"NME against strength. {told}", caption)]
    for found in all_found:
        parts += [page.element("h3", _title(found)), *_tables(found)]
    return parts


def figure(all_found: Sequence[Robustness]) -> str:
    """Returns the plot as SVG: a panel for each kind and one for the attack, all with one (logarithmic) NME axis."""
    kinds = list(dict.fromkeys(kind for found in all_found for kind in found.kinds))
    panels = [*kinds, *(["attack"] if any(found.attacks for found in all_found) else [])]
    rows = max(1, -(-len(panels) // 2))
    legend_in = 0.2 * len(all_found) if len(all_found) > 1 else 0.0
    drawing = Figure(figsize=(5.2, 0.4 + legend_in + 1.45 * rows), layout="constrained")
    axes = drawing.subplots(rows, 2, sharey=True, squeeze=False).ravel()
    for panel, kind in zip(axes, panels, strict=False):
        _panel(panel, kind, all_found)
    for panel in axes[len(panels) :]:
        panel.remove()
    values = [e.nme_percent for f in all_found for e in (f.clean, *f.entries, *f.attacks) if math.isfinite(e.nme_percent)]
    if values and min(values) > 0:
        _log_scale(axes[0], min(values), max(values))
    drawing.supylabel("NME (%)", fontsize=9)
    if len(all_found) > 1:
        handles, labels = axes[0].get_legend_handles_labels()
        drawing.legend(handles, labels, loc="outside lower center", fontsize=8, frameon=False)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "robustness"}):
        drawing.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return buffer.getvalue()


def _panel(panel: Axes, kind: str, all_found: Sequence[Robustness]) -> None:
    for n, found in enumerate(all_found):
        entries = found.attacks if kind == "attack" else (found.clean, *found.of(kind))
        x, y = [e.strength for e in entries], [e.nme_percent for e in entries]
        colour, mark = PALETTE[n % len(PALETTE)], "os^Dvp*X"[n % 8]
        label = _title(found).replace("$", r"\$").removeprefix("_")  # Matplotlib's own signs
        panel.plot(x, y, color=colour, marker=mark, markersize=3.5, linewidth=1.4, label=label)
        if entries:
            panel.axhline(entries[0].nme_percent, color=colour, linewidth=0.9, linestyle=":")
        panel.xaxis.set_major_locator(FixedLocator(sorted(set(x))))
    panel.set_title("attack (epsilon, of 255)" if kind == "attack" else kind.replace("_", " "), fontsize=9, loc="left")
    panel.tick_params(labelsize=8)
    panel.grid(True, color="#E3E3E3", linewidth=0.7)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _log_scale(panel: Axes, lowest: float, highest: float) -> None:
    """One logarithmic axis for all panels: kinds are compared by how many times the error grows."""
    panel.set_yscale("log")
    low, high = lowest / 1.15, highest * 1.15
    panel.set_ylim(low, high)
    per_decade = (1, 2, 5) if high / low > 4 else (1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)
    ticks = [m * 10.0**e for e in range(-3, 5) for m in per_decade if low <= m * 10.0**e <= high]
    panel.yaxis.set_major_locator(FixedLocator(ticks))
    panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panel.yaxis.set_minor_locator(NullLocator())


def _tables(found: Robustness) -> list[Html]:
    header, *rows = _corruption_rows(found)
    caption = f"NME in % and, in brackets, the share of faces above {100 * found.threshold:g} %, by strength"
    settings = [[kind.replace("_", " "), *(entry.setting for entry in found.of(kind))] for kind in found.kinds]
    parts = [
        page.element("p", f"{_protocol(found)} {caption}.", class_="soft"),
        page.table(header, rows, caption=caption, numbers=range(1, len(header))),
        page.details("What each strength is", page.table(header[:1] + header[2:-1], settings, caption="Strengths")),
        page.element("p", f"Mean over kinds and strengths: NME {_fixed(found.mean_corrupted)} %."),
    ]
    if found.attacks:
        header, *rows = _attack_rows(found)
        parts.append(page.element("p", "Projected gradient attack on the faces, without flip test:", class_="soft"))
        parts.append(page.table(header, rows, caption="Projected gradient attack", numbers=range(1, len(header))))
    return parts


def _title(found: Robustness) -> str:
    return f"{found.name}, {found.checkpoint} checkpoint, {found.crop_protocol} crop"


def _protocol(found: Robustness) -> str:
    flip = "flip test" if found.flip_test else "no flip test"
    faces = f"{found.evaluated} faces evaluated, {found.skipped} skipped"
    if found.evaluated + found.skipped < found.available:
        faces += f", the first {found.evaluated + found.skipped} of {found.available}"
    return f"{_title(found)}, {found.normaliser}, {flip}: {faces}."


def _corruption_rows(found: Robustness) -> list[list[str]]:
    strengths = sorted({entry.strength for entry in found.entries})
    rows = [["corruption", "clean", *(f"{s:g}" for s in strengths), "mean NME"]]
    for kind in found.kinds:
        at = {entry.strength: _score(entry) for entry in found.of(kind)}
        cells = [at.get(strength, "") for strength in strengths]
        rows.append([kind.replace("_", " "), _score(found.clean), *cells, _fixed(_mean(found.of(kind)))])
    return rows


def _attack_rows(found: Robustness) -> list[list[str]]:
    rows = [["attack", "NME %", f"FR@{threshold_label(found.threshold)} %", "mean error, px"]]
    return rows + [[e.setting, _fixed(e.nme_percent), _fixed(e.failure_percent), _fixed(e.error_px)] for e in found.attacks]


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    lines = ["  ".join(c.rjust(w) if n else c.ljust(w) for n, (c, w) in enumerate(zip(r, widths, strict=True))) for r in rows]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def _score(entry: Entry) -> str:
    return f"{_fixed(entry.nme_percent)} ({_fixed(entry.failure_percent, 1)})"


def _mean(entries: Sequence[Entry]) -> float:
    return sum(entry.nme_percent for entry in entries) / len(entries) if entries else math.nan


def _fixed(value: float, digits: int = 2) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
