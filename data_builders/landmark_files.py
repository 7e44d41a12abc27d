"""Parsers of landmark files that more than one builder reads: numbers, `.pts`, images by stem.

Parsers return what is wrong as (line, text) pairs and never raise for it, so that builders report everything together.
"""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lmkd.data_builders.trees import Findings

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


class Parsed(NamedTuple):
    """Points [K, 2], 0-based pixels, None where something is wrong; and what is wrong: (line number, text) pairs."""

    points_px: np.ndarray | None
    problems: list[tuple[int, str]]


def numbers(fields: Iterable[str], labels: Sequence[str] = ()) -> tuple[list[float], str]:
    """Returns (values, "") for text fields that are finite numbers, else ([], what is wrong).

    Args:
      fields: the text fields.
      labels: what messages call them; "field 1" and so on if left out.
    """
    values = []
    for place, field in enumerate(fields):
        label = labels[place] if labels else f"field {place + 1}"
        try:
            value = float(field)
        except ValueError:
            return [], f"{label} is no number: {field!r}"
        if not math.isfinite(value):
            return [], f"{label} is {field}"
        values.append(value)
    return values, ""


def parse_pts(text: str, num_points: int) -> Parsed:
    """Parses a `.pts` file, 1-based as published, with or without its header and braces.

    Args:
      text: the file's text: one "x y" line a point, after optional `version:`, `n_points:` and `{` lines.
      num_points: how many points there must be.
    """
    rows, problems, last = [], [], 1
    for number, line in enumerate(text.splitlines(), start=1):
        body = line.strip().strip("{}").strip()
        if not body:
            continue
        last = number
        name, colon, value = body.partition(":")
        if colon:
            problems += _header_problems(number, name.strip(), value.strip(), num_points)
            continue
        fields = body.split()
        values, wrong = numbers(fields)
        if len(fields) != 2:
            problems.append((number, f"{len(fields)} fields where a point has 2"))
        elif wrong:
            problems.append((number, wrong))
        rows.append(values)
    if len(rows) != num_points:
        problems.append((last, f"{len(rows)} points where {num_points} are needed"))
    return Parsed(None, problems) if problems else Parsed(np.asarray(rows, np.float64) - 1, [])


def read_pts(path: Path, num_points: int, findings: Findings) -> np.ndarray | None:
    """Returns the points [K, 2] of a `.pts` file in 0-based pixels, or None with the problems noted."""
    text = findings.read_text(path)
    if text is None:
        return None
    parsed = parse_pts(text, num_points)
    for line, what in parsed.problems:
        findings.problem(f"{findings.name(path)}:{line}", what)
    return parsed.points_px


def csv_rows(text: str, path: Path, findings: Findings) -> Iterator[tuple[int, list[str]]]:
    """Yields (line number, fields) of CSV text, up to where it is none, which is noted."""
    rows = csv.reader(io.StringIO(text, newline=""))
    try:
        for row in rows:
            yield rows.line_num, row
    except csv.Error as error:
        findings.problem(f"{findings.name(path)}:{rows.line_num}", f"is no CSV ({error})")


def by_stem(folder: Path) -> dict[str, list[Path]]:
    """Returns stem -> image files of that stem in `folder` (suffixes in any case)."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.lower() in IMAGE_SUFFIXES:
            found.setdefault(path.stem, []).append(path)
    return found


def image_of(path: Path, images: dict[str, list[Path]], group: str, findings: Findings) -> Path | None:
    """Returns the one image with the stem of annotation file `path`; None, noted, where there is none or several."""
    candidates: Sequence[Path] = images.get(path.stem, ())
    if not candidates:
        findings.lacks(group, f"{findings.name(path)}: no image of that stem (.png or .jpg)")
    elif len(candidates) > 1:
        findings.problem(path, f"several images of that stem: {', '.join(c.name for c in candidates)}")
    return candidates[0] if len(candidates) == 1 else None


def _header_problems(line: int, name: str, value: str, num_points: int) -> list[tuple[int, str]]:
    if name == "version":
        return []
    if name == "n_points":
        return [] if value == str(num_points) else [(line, f"n_points is {value or 'empty'}, not {num_points}")]
    return [(line, f"unknown header {name!r}")]


def pairs(values: Sequence[float]) -> np.ndarray:
    """Returns x0, y0, x1, y1, ... as points float64 [K, 2]."""
    return np.asarray(values, np.float64).reshape(-1, 2)
