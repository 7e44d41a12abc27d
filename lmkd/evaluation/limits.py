"""Where a model's errors lie: faces sorted by what can be measured in them, cut into quarters, each with its scores.

    found = limits(result, measures)                 # measures: name -> f64 [n], one value a face, NaN where there is none
    measures = geometric(truth_px) | {"skin, ITA degrees": skin_tones}
    print(text(found))

Measures come from the annotated points and the pixels, not from any judgement of a person: what they say of groups of people is
as rough as they are, and each docstring says how rough. Points are those of the 68-point scheme. NumPy float64.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np

from lmkd.evaluation import offsets, scores
from lmkd.evaluation.content import Result, scored_points
from lmkd.evaluation.offsets import Offsets
from lmkd.evaluation.rows import nme_per_face

QUARTERS = 4
POINTS = "300w68"
_OUTER_CORNERS, _NOSE_TIP, _MOUTH, _LIPS = (36, 45), 30, (48, 54), (62, 66)
_CHEEKS = ((2, 31, 41, 48), (14, 35, 46, 54))  # jaw, nostril, lower lid and corner of the mouth: a cheek's middle is their mean
_CHEEK_RADIUS = 0.12  # in outer eye corner distances
_LEAST_CHROMA = 3.0  # of a cheek, in CIELAB: below it the picture is grey and has no skin tone


class Quarter(NamedTuple):
    """Faces between two values of a measure: their number, mean NME and failure rate in %."""

    low: float
    high: float
    faces: int
    nme_percent: float
    failure_percent: float


class Limits(NamedTuple):
    """What the errors of one result have to do with the faces.

    Attributes:
      name, checkpoint: of the result.
      threshold: of the failure rate, a fraction of the normaliser.
      quarters: measure -> its quarters, from the smallest values up.
      without: measure -> faces that it says nothing of; they are left out of its quarters.
      offsets: how the labels lie beside the points on all faces; None for too few.
    """

    name: str
    checkpoint: str
    threshold: float
    quarters: Mapping[str, tuple[Quarter, ...]]
    without: Mapping[str, int]
    offsets: Offsets | None


def geometric(points_px: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what the true points say of each face.

    turn: |a - b| / (a + b) of the distances a, b from the tip of the nose to the two outer eye corners, along the line between
    them: 0 for a face that looks into the camera, growing with yaw (no angle: it depends on the nose and the lens). tilt: of
    the eyes' line, degrees. mouth: its opening over its width. size: between the outer eye corners, px.

    Args:
      points_px: [n, 68, 2].
    """
    right, left = points_px[:, _OUTER_CORNERS[0]], points_px[:, _OUTER_CORNERS[1]]
    between = left - right
    span = np.linalg.norm(between, axis=-1)
    along = ((points_px[:, _NOSE_TIP] - right) * between).sum(-1) / span**2  # 0 at the right corner, 1 at the left one
    a, b = np.abs(along), np.abs(1 - along)

    def distance(pair: tuple[int, int]) -> np.ndarray:
        return np.linalg.norm(points_px[:, pair[0]] - points_px[:, pair[1]], axis=-1)

    return {
        "turn": np.abs(a - b) / (a + b),
        "tilt, degrees": np.degrees(np.abs(np.arctan2(between[:, 1], between[:, 0]))),
        "mouth, opening / width": distance(_LIPS) / distance(_MOUTH),
        "size, px between eye corners": span,
    }


def skin_tone(image: np.ndarray, points_px: np.ndarray) -> float:
    """Returns the individual typology angle of a face's cheeks, atan((L* - 50) / b*) in degrees (Chardon, Cretois and Hourseau,
    Int. J. Cosmet. Sci. 13, 1991): lighter skin has a larger one; above 41 is called light, below 10 brown or dark. The
    quadrant is kept: bluish cheeks (b* < 0), which the formula knows nothing of, lie beyond 90 degrees.

    It takes the picture's colours as they are: lamps, cameras and shadows move it by tens of degrees, so it sorts pictures of
    skin rather than people. NaN where both cheeks lie outside the picture or it is grey.

    Args:
      image: uint8 RGB [H, W, 3].
      points_px: [68, 2] in its pixels.
    """
    radius = _CHEEK_RADIUS * np.linalg.norm(points_px[_OUTER_CORNERS[0]] - points_px[_OUTER_CORNERS[1]])
    disc = np.zeros(image.shape[:2], np.uint8)
    for cheek in _CHEEKS:
        x, y = np.round(points_px[list(cheek)].mean(0)).astype(int)
        cv2.circle(disc, (int(x), int(y)), max(1, round(float(radius))), 1, thickness=-1)
    pixels = image[disc > 0]
    if not len(pixels):
        return math.nan
    lightness, a, b = np.median(cv2.cvtColor(pixels[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0], axis=0)
    return math.degrees(math.atan2(lightness - 50, b)) if math.hypot(a, b) >= _LEAST_CHROMA else math.nan


def limits(result: Result, measures: Mapping[str, np.ndarray]) -> Limits:
    """Returns each measure's quarters: a fourth of the faces each, by its value.

    Args:
      result: with its rows.
      measures: name -> f64 [n], one value a row of the result.
    """
    rows, scheme = scored_points(result)
    nme, threshold = nme_per_face(rows, scheme, result.normaliser), max(result.scores.thresholds)
    quarters, without = {}, {}
    for name, values in measures.items():
        known = np.flatnonzero(np.isfinite(values) & np.isfinite(nme))
        order = known[np.argsort(values[known], kind="stable")]
        parts = [part for part in np.array_split(order, QUARTERS) if len(part)]
        quarters[name] = tuple(_quarter(values[part], nme[part], threshold) for part in parts)
        without[name] = len(values) - len(known)
    return Limits(result.name, result.checkpoint, threshold, quarters, without, offsets.offsets(result))


def _quarter(values: np.ndarray, nme: np.ndarray, threshold: float) -> Quarter:
    found = scores.summarise(nme, (threshold,))
    return Quarter(float(values[0]), float(values[-1]), found.faces, found.nme_percent, found.failure_percent[0])


def text(found: Limits) -> str:
    """Returns the table in Markdown, which the terminal shows as it is."""
    label = scores.threshold_label(found.threshold)
    lines = [
        f"Where the errors lie, {found.name} ({found.checkpoint}): quarters of the faces by a measure, NME % (FR@{label} %)",
        "",
        "| measure | smallest | | | largest | without |",
        "| --- | --- | --- | --- | --- | ---: |",
    ]
    for name, quarters in found.quarters.items():
        cells = [f"{q.low:.2f} to {q.high:.2f}: **{q.nme_percent:.2f}** ({q.failure_percent:.1f})" for q in quarters]
        cells += [""] * (QUARTERS - len(cells))
        lines.append(f"| {name} | {' | '.join(cells)} | {found.without[name]} |")
    beside = ["", offsets.text(found.offsets)] if found.offsets else []
    return "\n".join(lines + beside)


def to_dict(found: Limits) -> dict[str, Any]:
    """Returns plain values for `limits.json`."""
    quarters = {name: [q._asdict() for q in found.quarters[name]] for name in found.quarters}
    return {**found._asdict(), "quarters": quarters, "offsets": found.offsets and offsets.to_dict(found.offsets)}
