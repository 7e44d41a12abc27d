"""How labels lie beside a network's points: what all faces have in common, which is no face's error.

    found = offsets(result)
    print(text(found))

What is the same on every face is the labels' or the network's habit: a pixel counted from 1, another annotator, another
contour. A network that learned from every face and its mirror image alike, scored with flip test, has no side of its own; an
offset along the eyes' line is then the labels'. Labels that lie too low make a network that learned from turned faces expect
them so in the face's own frame: beside a tilted face they then seem to move sideways, by as many pixels times the sine of the
tilt. NumPy float64.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lmkd.evaluation.content import Result, scored_points

EYES = "inter_ocular"
ALL = "all points"
_FEWEST = 3  # faces that a line can be laid through with an error of its own


class Beside(NamedTuple):
    """Label less point over one group of points, in % of the distance between the outer eye corners.

    Attributes:
      error: mean distance.
      systematic: how far each point's mean over faces is off, root mean square over points, less what chance makes of it.
      along, down: the mean along the eyes' line, to the picture's right, and at right angles to it, to the chin.
    """

    error: float
    systematic: float
    along: float
    down: float


class Measured(NamedTuple):
    """A mean over faces and its standard error."""

    value: float
    error: float


class Offsets(NamedTuple):
    """What all faces have in common.

    Attributes:
      faces: that were measured: scored, with both outer eye corners.
      groups: `ALL` and the scheme's groups of points.
      right_px, down_px: of the labels, in the picture.
      with_tilt_px: by how much right_px grows with the sine of the eyes' tilt (clockwise); 0 where no face is tilted.
    """

    faces: int
    groups: Mapping[str, Beside]
    right_px: Measured
    down_px: Measured
    with_tilt_px: Measured


def offsets(result: Result) -> Offsets | None:
    """Returns what is the same on all faces of a result.

    None where fewer than three were scored with both outer eye corners, or the scheme names none.
    """
    rows, scheme = scored_points(result)
    if EYES not in scheme.normalisers:
        return None
    ends = [list(indices) for indices in scheme.normalisers[EYES]]
    seen = (rows.visible > 0) & (rows.evaluated[:, None] > 0)
    known = np.flatnonzero(seen[:, ends[0] + ends[1]].all(axis=1))
    if len(known) < _FEWEST:
        return None
    truth = rows.truth_px[known]
    beside_px = np.where(seen[known, :, None], truth - rows.predicted_px[known], np.nan)
    line = truth[:, ends[1]].mean(axis=1) - truth[:, ends[0]].mean(axis=1)
    span = np.linalg.norm(line, axis=-1, keepdims=True)
    unit = line / span
    frame = np.stack([unit, np.stack([-unit[:, 1], unit[:, 0]], axis=-1)], axis=1)  # [n, (along, down), (x, y)]
    percent = 100 * np.einsum("nij,nkj->nki", frame, beside_px) / span[:, None]
    means = np.nanmean(beside_px, axis=1)
    groups = {ALL: tuple(range(scheme.num_points))} | dict(scheme.groups)
    return Offsets(
        len(known),
        {name: _beside(percent[:, list(points)]) for name, points in groups.items() if seen[known][:, list(points)].any()},
        _mean(means[:, 0]),
        _mean(means[:, 1]),
        _slope(unit[:, 1], means[:, 0]),
    )


def _beside(percent: np.ndarray) -> Beside:
    """`percent`: f64 [n, k, 2] in the face's frame, NaN where unseen."""
    percent = percent[:, ~np.isnan(percent).all(axis=(0, 2))]
    by_point = np.nanmean(percent, axis=0)
    faces = (~np.isnan(percent[..., 0])).sum(axis=0)
    chance = np.nanvar(percent, axis=0).sum(axis=-1) / np.maximum(faces - 1, 1)  # of the squared length of a mean over faces
    systematic = np.sqrt(max((np.square(by_point).sum(axis=-1) - chance).mean(), 0.0))
    along, down = by_point.mean(axis=0)
    return Beside(float(np.nanmean(np.linalg.norm(percent, axis=-1))), float(systematic), float(along), float(down))


def _mean(values: np.ndarray) -> Measured:
    return Measured(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))))


def _slope(across: np.ndarray, values: np.ndarray) -> Measured:
    """The slope of the least-squares line, and its standard error."""
    centred = across - across.mean()
    spread = float(centred @ centred)
    if spread < 1e-12:
        return Measured(0.0, 0.0)
    slope = float(centred @ values) / spread
    left = values - values.mean() - slope * centred
    return Measured(slope, float(np.sqrt(left @ left / (len(values) - 2) / spread)))


def text(found: Offsets) -> str:
    """Returns the table in Markdown, which the terminal shows as it is."""
    lines = [
        f"Labels beside points, {found.faces} faces, % of the distance between the outer eye corners",
        "",
        "| points | error | of it systematic | along the eyes' line | down |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, b in found.groups.items():
        lines.append(f"| {name} | {b.error:.2f} | {b.systematic:.2f} | {b.along:+.2f} | {b.down:+.2f} |")
    right, down, tilt = (f"{m.value:+.2f} ± {m.error:.2f} px" for m in (found.right_px, found.down_px, found.with_tilt_px))
    lines += ["", f"In the picture: {right} to the right, {down} down; to the right with the sine of the tilt {tilt}."]
    return "\n".join(lines)


def to_dict(found: Offsets) -> dict[str, Any]:
    """Returns plain values for `limits.json`."""
    measured = {key: getattr(found, key)._asdict() for key in ("right_px", "down_px", "with_tilt_px")}
    return {"faces": found.faces, "groups": {name: b._asdict() for name, b in found.groups.items()}, **measured}
