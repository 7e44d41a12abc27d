"""Figures of the report, as SVG text. Matplotlib's object interface alone: no pyplot, no global state, no display.

Colours are Okabe and Ito's, told apart with any colour vision; what differs in colour differs in shape or dash as well.
Figures are drawn 5.2 inches wide, so that 10 pt stays legible on a phone.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from lmkd.core.schemes import Scheme
from lmkd.evaluation.rows import FaceRows, errors_px, norms_px

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D1F")
_WIDTH_IN = 5.2
_DASHES = ("-", "--", "-.", ":", (0, (7, 1.5, 1, 1.5, 1, 1.5)))  # 5 and the 7 colours besides black: 35 that differ
_LABEL_PT, _LABEL_GAP_PT = 8.5, 6.0
_COLOURS = tuple(colour for colour in PALETTE if colour != "#000000")


class Curve(NamedTuple):
    """One CED: the set of faces (decides the colour), the checkpoint (decides the dash), NMEs (fractions or NaN)."""

    name: str
    checkpoint: str
    nme: np.ndarray


class FrontPoint(NamedTuple):
    """One method: multiply-accumulates of a face, mean NME in % and its standard deviation over seeds (NaN: one seed)."""

    name: str
    macs: int
    nme_percent: float
    sd_percent: float
    on_front: bool


def ced_figure(curves: Sequence[Curve], thresholds: Sequence[float]) -> str:
    """Returns the cumulative error distributions up to the largest threshold, the thresholds marked."""
    figure, axes = _figure(3.7)
    end = max(thresholds, default=0.1)
    grid = np.linspace(0.0, end, 501)
    names = list(dict.fromkeys(curve.name for curve in curves))
    dashes = _dashes([curve.checkpoint for curve in curves])
    for curve in curves:
        nme = np.sort(curve.nme[~np.isnan(curve.nme)])
        share = np.searchsorted(nme, grid, side="right") / max(nme.size, 1)
        colour = PALETTE[names.index(curve.name) % len(PALETTE)]
        label = f"{_short(curve.name)}, {curve.checkpoint}" if curve.checkpoint else _short(curve.name)
        axes.plot(100 * grid, 100 * share, linestyle=dashes[curve.checkpoint], color=colour, label=label)
    for threshold in thresholds:
        axes.axvline(100 * threshold, color="#777777", linewidth=0.9, linestyle=":")
    axes.set(xlabel="NME (%)", ylabel="faces with at most this NME (%)", xlim=(0, 100 * end * 1.01), ylim=(0, 101))
    _legend(axes, "best")
    return _svg(figure, "ced")


def _dashes(checkpoints: Sequence[str]) -> dict[str, Any]:
    """A dash for each kind of checkpoint: "last" is dashed, of the others (the best, exported files) each has its own."""
    others = [c for c in dict.fromkeys(checkpoints) if c != "last"]
    free = [dash for dash in _DASHES if dash != "--"]
    return {c: free[n % len(free)] for n, c in enumerate(others)} | {"last": "--"}


def compared_ced_figure(curves: Sequence[Curve], thresholds: Sequence[float]) -> str:
    """Returns the cumulative error distributions of many methods, the first one (the baseline) in black, a legend beneath.

    The axis ends at the largest threshold, or where the first curve reaches 90 % if that is later: of networks that are
    not good yet, something is to be seen too.
    """
    figure, axes = _figure(3.3 + 0.19 * -(-len(curves) // 2))
    found = [np.sort(curve.nme[np.isfinite(curve.nme)]) for curve in curves]
    reached = float(np.quantile(found[0], 0.9)) if found and found[0].size else 0.0
    end = max(*thresholds, min(reached, 0.5), 0.0) if thresholds else max(reached, 1e-3)
    grid = np.linspace(0.0, end, 501)
    for n, (curve, nme) in enumerate(zip(curves, found, strict=True)):
        share = np.searchsorted(nme, grid, side="right") / max(nme.size, 1)
        colour = _COLOURS[(n - 1) % len(_COLOURS)] if n else "#000000"
        width = 1.5 if n else 2.2
        axes.plot(
            100 * grid, 100 * share, linestyle=_DASHES[n % len(_DASHES)], color=colour, lw=width, label=_short(curve.name)
        )
    for threshold in thresholds:
        axes.axvline(100 * threshold, color="#777777", linewidth=0.9, linestyle=":")
    axes.set(xlabel="NME (%)", ylabel="faces with at most this NME (%)", xlim=(0, 100 * end), ylim=(0, 101))
    figure.legend(loc="outside lower center", ncols=2, fontsize=8.5, frameon=False, handlelength=3.2, columnspacing=1.2)
    return _svg(figure, "compared_ced")


def front_figure(points: Sequence[FrontPoint]) -> str:
    """Returns mean NME against MACs (log axis), a bar of one standard deviation each way, the front as a step line."""
    figure, axes = _figure(4.2)
    points = sorted((p for p in points if np.isfinite(p.nme_percent)), key=lambda p: (p.macs, p.nme_percent))
    front = [p for p in points if p.on_front]
    axes.set_xscale("log")
    if front:
        axes.step([p.macs for p in front], [p.nme_percent for p in front], where="post", color="#0072B2", lw=1.4, zorder=1)
    for p in points:
        colour, mark = ("#0072B2", "o") if p.on_front else ("#777777", "s")
        bar = None if np.isnan(p.sd_percent) else p.sd_percent
        axes.errorbar(
            p.macs, p.nme_percent, yerr=bar, fmt=mark, color=colour, markersize=5, capsize=2.5, elinewidth=1.1, zorder=2
        )
    axes.set(xlabel="multiply-accumulates of one face (millions)", ylabel="mean NME (%)")
    if points:
        axes.margins(y=0.1)
        axes.set_xlim(*_limits_with_labels(points))
        _millions(axes)
        _label_points(figure, axes, points)
    return _svg(figure, "front")


def training_figure(history: Sequence[Mapping[str, Any]]) -> str:
    """Returns losses (above, log scale) and validation NMEs (below) over training steps; "" where there are neither.

    Args:
      history: lines of `metrics.jsonl`: "step", "loss/<term>" and "validation/<...>nme" (in %), each where logged.
    """
    losses = _series(history, lambda name: name.startswith("loss"))
    scores = _series(history, lambda name: name.startswith("validation") and name.endswith("nme"))
    panels = [("training loss", losses), ("validation NME (%)", scores)]
    panels = [(label, series) for label, series in panels if series]
    if not panels:
        return ""
    figure, axes = _figure(1.2 + 2.0 * len(panels), rows=len(panels))
    for panel, (label, series) in zip(np.atleast_1d(axes), panels, strict=True):
        for n, (name, (steps, values)) in enumerate(list(series.items())[: len(PALETTE)]):
            thin_steps, thin_values = _thin(steps, values)
            mark = "o" if len(thin_steps) <= 30 else ""
            short = name.removeprefix("loss/").removeprefix("validation/")
            panel.plot(thin_steps, thin_values, color=PALETTE[n], marker=mark, markersize=3, label=_short(short))
        if all((values > 0).all() for _, values in series.values()) and label == "training loss":
            panel.set_yscale("log")
        panel.set_ylabel(label)
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        _legend(panel, "upper right")
    np.atleast_1d(axes)[-1].set_xlabel("step")
    return _svg(figure, "training")


def point_figure(rows: FaceRows, scheme: Scheme, normaliser: str) -> str:
    """Returns a bar for every point: its mean error in % of the normalising distance, coloured by group."""
    figure, axes = _figure(3.2)
    mean = mean_point_errors(rows, scheme, normaliser)
    rest = tuple(sorted(set(range(scheme.num_points)) - {i for points in scheme.groups.values() for i in points}))
    groups = {**scheme.groups, **({"other points": rest} if rest else {})}
    for n, (group, points) in enumerate(groups.items()):
        axes.bar(points, 100 * mean[list(points)], width=0.85, color=PALETTE[n % len(PALETTE)], label=_short(group))
    axes.set(xlabel="point (index in the scheme, from 0)", ylabel=f"mean error (% of {_words(normaliser)})")
    axes.set_xlim(-1, scheme.num_points)
    axes.set_ylim(0, 1.3 * np.nanmax(100 * mean, initial=1e-9))  # room for the legend
    _legend(axes, "upper right", columns=3)
    return _svg(figure, "points")


def shape_figure(rows: FaceRows, scheme: Scheme, normaliser: str) -> str:
    """Returns the mean true face, each point coloured and sized by its mean error in % of the normalising distance."""
    figure, axes = _figure(4.2)
    mean, shape = (100 * mean_point_errors(rows, scheme, normaliser), _mean_shape(rows, scheme, normaliser))
    for line in scheme.lines:
        axes.plot(*shape[list(line)].T, color="#BBBBBB", linewidth=1.0, zorder=1)
    top = max(float(np.nanmax(mean, initial=0.0)), 1e-9)
    sizes = 8 + 60 * np.nan_to_num(mean) / top
    dots = axes.scatter(*shape.T, c=mean, s=sizes, cmap="viridis_r", vmin=0, vmax=top, zorder=2, edgecolors="#222222",
                        linewidths=0.4)  # fmt: skip
    axes.set_aspect("equal")
    axes.invert_yaxis()  # image coordinates: y grows downwards
    axes.set_axis_off()
    figure.colorbar(dots, ax=axes, label=f"mean error (% of {_words(normaliser)})", shrink=0.8)
    return _svg(figure, "shape")


def mean_point_errors(rows: FaceRows, scheme: Scheme, normaliser: str) -> np.ndarray:
    """Returns each point's mean error over the faces in which it counts, f64 [K], as a fraction; NaN where in none."""
    relative = errors_px(rows) / norms_px(rows, scheme, normaliser)[:, None]
    there = np.isfinite(relative)
    count = there.sum(axis=0)
    return np.where(count > 0, np.where(there, relative, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)


def _series(history: Sequence[Mapping[str, Any]], wanted: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """name -> (steps, values) of the wanted metrics, finite values only, in the order they first occur."""
    found: dict[str, list[tuple[float, float]]] = {}
    for line in history:
        for name, value in line.items():
            if wanted(name) and isinstance(value, (int, float)) and np.isfinite(value):
                found.setdefault(name, []).append((line["step"], value))
    return {name: tuple(np.asarray(pairs, np.float64).T) for name, pairs in found.items()}


def _thin(steps: np.ndarray, values: np.ndarray, most: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """At most `most` points: means over runs of neighbours."""
    if len(steps) <= most:
        return steps, values
    runs = [(np.mean(s), np.mean(v)) for s, v in zip(np.array_split(steps, most), np.array_split(values, most), strict=True)]
    return tuple(np.asarray(runs).T)


def _mean_shape(rows: FaceRows, scheme: Scheme, normaliser: str) -> np.ndarray:
    """The mean of the true faces, each moved to its mean point and scaled to its normalising distance; [K, 2]."""
    norms = norms_px(rows, scheme, normaliser)
    usable = ((rows.visible > 0) & np.isfinite(norms)[:, None])[..., None]
    truth = np.where(usable, rows.truth_px, 0.0)
    centre = truth.sum(axis=1, keepdims=True) / np.maximum(usable.sum(axis=1, keepdims=True), 1)
    aligned = np.where(usable, (truth - centre) / norms[:, None, None], 0.0)
    count = usable.sum(axis=0)
    return np.where(count > 0, aligned.sum(axis=0) / np.maximum(count, 1), np.nan)


def _figure(height_in: float, rows: int = 1) -> tuple[Figure, Any]:
    figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
    axes = figure.subplots(rows, 1, sharex=True)
    for panel in np.atleast_1d(axes):
        panel.grid(True, color="#E3E3E3", linewidth=0.7)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _millions(axes: Axes) -> None:
    """Ticks of a log axis at 1, 2 and 5 times powers of ten, in millions."""
    low, high = axes.get_xlim()
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    steps = (1, 2, 5) if high / low < 300 else (1,)
    axes.xaxis.set_major_locator(FixedLocator([m * 10.0**e for e in decades for m in steps if low <= m * 10.0**e <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1e6:g}"))


def _limits_with_labels(points: Sequence[FrontPoint]) -> tuple[float, float]:
    """Limits of the log axis that leave every label room on the right of its point."""
    low = min(p.macs for p in points) / 1.6
    room_pt = 0.86 * 72 * _WIDTH_IN - _LABEL_GAP_PT  # the axes' width, about
    needed = [low * (p.macs / low) ** (room_pt / (room_pt - _label_width_pt(p))) for p in points]
    return low, max(*needed, 3 * low)  # a factor of 2.5 at least, so that there is a tick


def _label_width_pt(point: FrontPoint) -> float:
    return _LABEL_GAP_PT + 0.6 * _LABEL_PT * len(_short(point.name, 28))


def _label_points(figure: Figure, axes: Axes, points: Sequence[FrontPoint]) -> None:
    """Writes names right above their points, where the front never runs, or further off until none lies on another.

    A name that had to move has a line to its point.
    """
    figure.draw_without_rendering()  # lays the axes out: places are known from here on
    scale = figure.dpi / 72
    height, placed = 1.25 * _LABEL_PT * scale, list[tuple[float, float, float]]()
    bottom, top = axes.bbox.y0 + height / 2, axes.bbox.y1 - height / 2
    above = height / 2
    offsets = sorted((above + n * height / 4 for n in range(-120, 121)), key=lambda offset: abs(offset - above))
    line = {"arrowstyle": "-", "color": "#999999", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2}
    for p in sorted(points, key=lambda p: -p.nme_percent):
        x, y = axes.transData.transform((p.macs, p.nme_percent))
        right = x + _label_width_pt(p) * scale
        free = (
            y + o
            for o in offsets
            if bottom <= y + o <= top
            and not (p.on_front and abs(o) < 0.45 * height)  # the front goes through there
            and all(abs(y + o - other) >= height or x > end or right < begin for begin, end, other in placed)
        )
        where = next(free, y)
        placed.append((x, right, where))
        axes.annotate(
            _short(p.name, 28), (p.macs, p.nme_percent), xytext=(_LABEL_GAP_PT, (where - y) / scale),
            textcoords="offset points", va="center", fontsize=_LABEL_PT, zorder=3,
            color="#0072B2" if p.on_front else "#333333", arrowprops=line if abs(where - y - above) > height / 3 else None,
        )  # fmt: skip


def _legend(axes: Axes, place: Literal["best", "upper right"], columns: int = 1) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=place, ncols=columns, fontsize=8.5, framealpha=0.9, borderpad=0.35, handlelength=1.8)


def _svg(figure: Figure, salt: str) -> str:
    """The figure as SVG text; text becomes outlines, so that it looks the same wherever it is opened."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return buffer.getvalue()


def _short(label: str, most: int = 34) -> str:
    # Matplotlib hides labels that begin with "_" and reads "$" as mathematics.
    label = label.replace("$", r"\$").removeprefix("_")
    return label if len(label) <= most else label[: most - 1] + "…"


def _words(name: str) -> str:
    return f"{name.replace('_', '-')} distance" if name != "box" else "box size"
