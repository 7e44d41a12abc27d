"""One row a face: what a model predicted, what is true, and the errors that follow. NumPy float64.

Every score, picture and `faces.csv` comes from these rows, so that nothing is ever a mean of means:

    rows = evaluator.evaluate(predict_batch, batches, expected_faces=554)
    rows_module.write_csv("faces.csv", rows, scheme, flags)
    nme = nme_per_face(rows, scheme, "inter_ocular")  # f64 [n], NaN where a face has no score

Axis letters: n faces, K points, F subset flags.
"""

import csv
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lmkd.core.errors import UserError, report_together
from lmkd.core.schemes import Scheme
from lmkd.evaluation.files import whole_file

_POINT_COLUMNS = ("err_px", "pred_x", "pred_y", "true_x", "true_y", "visible", "confidence")


class FaceRows(NamedTuple):
    """Faces in the data set's order; coordinates (x, y) in ORIGINAL image pixels.

    Attributes:
      keys: n texts, unique.
      predicted_px: f64 [n, K, 2]; NaN for a face that was skipped.
      truth_px: f64 [n, K, 2]; of use only where `visible` is 1.
      visible: f32 [n, K]; 1 where a point is annotated and counts.
      confidence: f32 [n, K]; the decoder's, in its own unit.
      subset: u8 [n, F]; 1 where the face belongs to the data set's n-th subset flag.
      evaluated: u8 [n]; 0 for a face that was skipped, its record being unreadable.
    """

    keys: list[str]
    predicted_px: np.ndarray
    truth_px: np.ndarray
    visible: np.ndarray
    confidence: np.ndarray
    subset: np.ndarray
    evaluated: np.ndarray


def concatenate(parts: Sequence[FaceRows]) -> FaceRows:
    """Returns the rows of all parts, in order; at least one part, all with the same K and F."""
    keys = [key for part in parts for key in part.keys]
    return FaceRows(keys, *(np.concatenate(columns) for columns in zip(*(p[1:] for p in parts), strict=True)))


def take(rows: FaceRows, indices: Sequence[int] | np.ndarray) -> FaceRows:
    """Returns the faces at `indices`, in that order."""
    indices = np.asarray(indices, np.int64)
    return FaceRows([rows.keys[i] for i in indices], *(column[indices] for column in rows[1:]))


def take_points(rows: FaceRows, indices: Sequence[int] | np.ndarray) -> FaceRows:
    """Returns the same faces with the points at `indices` only: rows of a sub-scheme (`Scheme.subset_indices`)."""
    chosen = np.asarray(indices, np.int64)
    names = ("predicted_px", "truth_px", "visible", "confidence")
    return rows._replace(**{name: getattr(rows, name)[:, chosen] for name in names})


def errors_px(rows: FaceRows) -> np.ndarray:
    """Returns the distance from predicted to true point, f64 [n, K] in px; NaN where nothing counts."""
    distance = np.linalg.norm(rows.predicted_px - rows.truth_px, axis=-1)
    return np.where(_counts(rows), distance, np.nan)


def norms_px(rows: FaceRows, scheme: Scheme, normaliser: str | None = None) -> np.ndarray:
    """Returns each face's normalising distance, f64 [n] in px, from annotated points alone.

    NaN where it does not exist: a skipped face, a normaliser whose points are not annotated, a distance of 0.
    """
    check_points(rows, scheme)
    usable = _counts(rows)
    some = usable.any(axis=1)
    result = np.full(len(rows.keys), np.nan)
    if some.any():
        truth = np.where(usable[some, :, None], rows.truth_px[some], np.nan)
        result[some] = scheme.norm_px(truth, normaliser)
    return np.where(result > 0, result, np.nan)


def nme_per_face(
    rows: FaceRows, scheme: Scheme, normaliser: str | None = None, *, points: Sequence[int] | None = None
) -> np.ndarray:
    """Returns each face's mean error over its annotated points, divided by its normalising distance.

    Args:
      rows: n faces of `scheme`.
      scheme: their landmark scheme.
      normaliser: one of `scheme.normaliser_names()`; the scheme's default when None.
      points: the points to average over (a group); all when None. The normaliser always sees all points.

    Returns:
      f64 [n], a FRACTION (0.03 is 3 %); NaN for a face that has no such score.
    """
    norms = norms_px(rows, scheme, normaliser)
    errors = errors_px(rows)
    if points is not None:
        errors = errors[:, list(points)]
    there = np.isfinite(errors)
    count = there.sum(axis=1)
    total = np.where(there, errors, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan) / norms


def mse_per_face(rows: FaceRows, scheme: Scheme, normaliser: str | None = None) -> np.ndarray:
    """Returns each face's mean squared coordinate error, (dx^2 + dy^2) / 2 over its annotated points, over the square of its
    normalising distance.

    Returns:
      f64 [n], a FRACTION squared (times 10,000: percent squared); NaN for a face that has no such score.
    """
    squares = np.square(errors_px(rows)) / 2
    there = np.isfinite(squares)
    count = there.sum(axis=1)
    total = np.where(there, squares, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan) / np.square(norms_px(rows, scheme, normaliser))


def check_points(rows: FaceRows, scheme: Scheme) -> None:
    """Raises `UserError` where the rows' number of points is not the scheme's."""
    if rows.truth_px.shape[1] != scheme.num_points:
        raise UserError(
            f"rows of {rows.truth_px.shape[1]} points cannot be scored in scheme {scheme.name!r} "
            f"of {scheme.num_points}. Take the points first: take_points(rows, scheme.subset_indices(...))."
        )


def write_csv(path: str | os.PathLike, rows: FaceRows, scheme: Scheme, flags: Sequence[str]) -> None:
    """Writes `faces.csv`: one line a face, whole or not at all. Empty fields are NaN.

    Columns: key, evaluated, nme (fraction, the scheme's default normaliser), norm_<normaliser> in px for each,
    subset_<flag>, then for every point err_px_, pred_x_, pred_y_, true_x_, true_y_, visible_ and confidence_<point>
    (coordinates in original image pixels, to 1e-6 px).
    """
    check_points(rows, scheme)
    if rows.subset.shape[1] != len(flags):
        raise UserError(f"rows have {rows.subset.shape[1]} subset flags, {len(flags)} names given: {list(flags)}")
    norms = {name: norms_px(rows, scheme, name) for name in scheme.normaliser_names()}
    per_point = (
        errors_px(rows), rows.predicted_px[..., 0], rows.predicted_px[..., 1],
        rows.truth_px[..., 0], rows.truth_px[..., 1], rows.visible, rows.confidence,
    )  # fmt: skip
    per_face = np.stack([nme_per_face(rows, scheme), *norms.values()], axis=1)
    points = np.concatenate(per_point, axis=1)
    with whole_file(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_header(scheme, tuple(norms), flags))
        for n, key in enumerate(rows.keys):
            numbers = [*map(_text, per_face[n]), *map(str, rows.subset[n].tolist()), *map(_text, points[n].tolist())]
            writer.writerow([key, int(rows.evaluated[n]), *numbers])


def read_csv(path: str | os.PathLike) -> tuple[FaceRows, tuple[str, ...]]:
    """Reads a `faces.csv` back: the rows and the names of the subset flags.

    Raises:
      UserError: a column that `write_csv` writes is missing, or a line does not fit; all problems together.
    """
    with open(path, encoding="utf-8", newline="") as file:
        header, *lines = list(csv.reader(file)) or [[]]
    columns = {kind: [i for i, name in enumerate(header) if name.startswith(f"{kind}_")] for kind in _POINT_COLUMNS}
    num_points = len(columns["pred_x"])
    problems = [
        f"line 1: {len(found)} columns {kind}_<point>, expected {num_points}"
        for kind, found in columns.items()
        if len(found) != num_points or not found
    ]
    problems += [f"line 1: no column {name!r}" for name in ("key", "evaluated") if name not in header]
    flag_columns = [i for i, name in enumerate(header) if name.startswith("subset_")]
    values = np.full((len(lines), len(header)), np.nan)
    for n, line in enumerate(lines if not problems else ()):
        try:
            values[n] = [np.nan if i == header.index("key") or t == "" else float(t) for i, t in enumerate(line)]
        except ValueError as error:  # a field that is no number, or a wrong count of fields
            problems.append(f"line {n + 2}: {len(line)} fields of {len(header)}; {error}")
    if not problems:
        whole = [header.index("evaluated"), *flag_columns, *columns["visible"]]
        empty = np.flatnonzero(np.isnan(values[:, whole]).any(axis=1))
        problems += [f"line {n + 2}: empty field in evaluated, subset_ or visible_" for n in empty]
    report_together(problems, f"{os.fspath(path)} is no faces.csv")
    block = {kind: values[:, found] for kind, found in columns.items()}
    rows = FaceRows(
        keys=[line[header.index("key")] for line in lines],
        predicted_px=np.stack([block["pred_x"], block["pred_y"]], axis=-1),
        truth_px=np.stack([block["true_x"], block["true_y"]], axis=-1),
        visible=block["visible"].astype(np.float32),
        confidence=block["confidence"].astype(np.float32),
        subset=values[:, flag_columns].astype(np.uint8),
        evaluated=values[:, header.index("evaluated")].astype(np.uint8),
    )
    return rows, tuple(header[i].removeprefix("subset_") for i in flag_columns)


def _counts(rows: FaceRows) -> np.ndarray:
    """bool [n, K]: the points that count, of faces that were evaluated."""
    return (rows.visible > 0) & (rows.evaluated[:, None] > 0)


def _header(scheme: Scheme, norms: Sequence[str], flags: Sequence[str]) -> list[str]:
    per_face = ["key", "evaluated", "nme", *(f"norm_{n}" for n in norms), *(f"subset_{f}" for f in flags)]
    return per_face + [f"{kind}_{point}" for kind in _POINT_COLUMNS for point in scheme.names]


def _text(value: float) -> str:
    """Fixed point to 1e-6 without trailing zeros; NaN is an empty field."""
    return "" if not np.isfinite(value) else f"{value:.6f}".rstrip("0").rstrip(".")
