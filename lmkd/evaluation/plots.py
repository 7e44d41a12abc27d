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
from matplotlib.ticker import MaxNLocator

from lmkd.core.schemes import Scheme
from lmkd.evaluation.rows import FaceRows, errors_px, norms_px

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D1F")
_WIDTH_IN = 5.2


class Curve(NamedTuple):
    """One CED: the set of faces (decides the colour), the checkpoint ("last" is dashed), NMEs (fractions or NaN)."""

    name: str
    checkpoint: str
    nme: np.ndarray


def ced_figure(curves: Sequence[Curve], thresholds: Sequence[float]) -> str:
    """Returns the cumulative error distributions up to the largest threshold, the thresholds marked."""
    figure, axes = _figure(3.7)
    end = max(thresholds, default=0.1)
    grid = np.linspace(0.0, end, 501)
    names = list(dict.fromkeys(curve.name for curve in curves))
    for curve in curves:
        nme = np.sort(curve.nme[~np.isnan(curve.nme)])
        share = np.searchsorted(nme, grid, side="right") / max(nme.size, 1)
        style, colour = ("--" if curve.checkpoint == "last" else "-", PALETTE[names.index(curve.name) % len(PALETTE)])
        label = f"{_short(curve.name)}, {curve.checkpoint}" if curve.checkpoint else _short(curve.name)
        axes.plot(100 * grid, 100 * share, style, color=colour, label=label)
    for threshold in thresholds:
        axes.axvline(100 * threshold, color="#777777", linewidth=0.9, linestyle=":")
    axes.set(xlabel="NME (%)", ylabel="faces with at most this NME (%)", xlim=(0, 100 * end * 1.01), ylim=(0, 101))
    _legend(axes, "lower right")
    return _svg(figure, "ced")


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


def _legend(axes: Axes, place: Literal["lower right", "upper right"], columns: int = 1) -> None:
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
