"""Landmark schemes: names, flip pairs, groups, normalisers and subsets of point sets.

A scheme is data, never a guess from a number of points or a data set's name. It travels with prepared data and with
checkpoints as JSON (`to_json`, `from_json`). Sources: 300W's and WFLW's own figures and flip files; field notes 4c.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lmkd.core.errors import UserError, report_together, unknown

BOX = "box"
MOST_POINTS = 10_000  # the densest published schemes have a few thousand


@dataclasses.dataclass(frozen=True)
class Scheme:
    """A set of K landmark points.

    Attributes:
      name: unique name.
      names: K point names.
      flip: K indices: the point that stands at i after a horizontal flip (an involution).
      groups: group name -> point indices ("contour", "brows", "nose", "eyes", "mouth" for faces).
      normalisers: name -> (indices, indices); the distance in px between the two means. "box" always exists besides:
        the square root of the area of the points' tight box.
      default_normaliser: the one that `norm_px` and plain "NME" use.
      lines: polylines (point indices) for drawing.
      subsets: target scheme name -> indices of this scheme's points that make it up.
    """

    name: str
    names: tuple[str, ...]
    flip: tuple[int, ...]
    groups: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    normalisers: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = dataclasses.field(default_factory=dict)
    default_normaliser: str = BOX
    lines: tuple[tuple[int, ...], ...] = ()
    subsets: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        report_together(_problems(self), f"landmark scheme {self.name!r} is not consistent")

    @property
    def num_points(self) -> int:
        """K."""
        return len(self.names)

    def normaliser_names(self) -> tuple[str, ...]:
        """The NME normalisers this scheme offers, "box" included."""
        return (*self.normalisers, BOX)

    def norm_px(self, points_px: np.ndarray, normaliser: str | None = None) -> np.ndarray:
        """Returns the normalising distance [...] in px of ground-truth points [..., K, 2], float64."""
        points = np.asarray(points_px, np.float64)
        which = normaliser or self.default_normaliser
        if which == BOX:
            extent = np.nanmax(points, axis=-2) - np.nanmin(points, axis=-2)
            return np.asarray(np.sqrt(extent[..., 0] * extent[..., 1]))
        if which not in self.normalisers:
            raise unknown("normaliser", which, self.normaliser_names(), f"scheme {self.name}")
        left, right = self.normalisers[which]
        gap = points[..., list(left), :].mean(axis=-2) - points[..., list(right), :].mean(axis=-2)
        return np.asarray(np.linalg.norm(gap, axis=-1))

    def subset_indices(self, target: str) -> tuple[int, ...]:
        """Returns the indices of this scheme's points that form scheme `target` (itself included)."""
        if target == self.name:
            return tuple(range(self.num_points))
        if target not in self.subsets:
            raise unknown("target scheme", target, (self.name, *self.subsets), f"from scheme {self.name}")
        return tuple(self.subsets[target])

    def to_json(self) -> str:
        """Returns the scheme as a JSON string that `from_json` reads back equal."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


def from_json(text: str) -> Scheme:
    """Reads a scheme from JSON; `flip` may be given as `flip_pairs` (list of pairs), names may be left out
    when `points` (their number) is there.

    Raises:
      UserError: missing or unknown fields, or an inconsistent scheme; all problems together.
      json.JSONDecodeError: no JSON; it knows the line.
    """
    try:
        raw = json.loads(text)
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets thousands deep
        raise UserError(f"scheme JSON: {error}") from error
    if not isinstance(raw, dict):
        raise UserError("scheme JSON: no JSON object")
    fields = {f.name for f in dataclasses.fields(Scheme)}
    extra = set(raw) - fields - {"points", "flip_pairs"}
    report_together([str(unknown("field", e, fields | {"points", "flip_pairs"})) for e in sorted(extra)], "scheme JSON")
    if "names" not in raw and "points" not in raw:
        raise UserError("scheme JSON: give `names` (a list) or `points` (their number)")
    try:
        return _from_fields(raw)
    except UserError:
        raise
    except (TypeError, ValueError, AttributeError, OverflowError, IndexError) as error:  # a list where a dict belongs, ...
        raise UserError(f"scheme JSON: a field is not of its kind ({error})") from error


def _from_fields(raw: Mapping[str, Any]) -> Scheme:
    names = tuple(raw.get("names") or _numbered(raw.get("points")))
    flip = raw.get("flip")
    if flip is None:
        flip = permutation_from_pairs(len(names), raw.get("flip_pairs", ()))
    return Scheme(
        name=raw.get("name", f"own_{len(names)}"),
        names=names,
        flip=tuple(flip),
        groups={g: tuple(i) for g, i in raw.get("groups", {}).items()},
        normalisers={n: (tuple(a), tuple(b)) for n, (a, b) in raw.get("normalisers", {}).items()},
        default_normaliser=raw.get("default_normaliser") or next(iter(raw.get("normalisers", {})), BOX),
        lines=tuple(tuple(line) for line in raw.get("lines", ())),
        subsets={s: tuple(i) for s, i in raw.get("subsets", {}).items()},
    )


def _numbered(points: Any) -> tuple[str, ...]:
    if not (isinstance(points, int) and 1 <= points <= MOST_POINTS):
        raise UserError(f"scheme JSON: `points` must be a whole number within 1..{MOST_POINTS}, got {points!r}")
    return tuple(f"point_{i}" for i in range(points))


def permutation_from_pairs(num_points: int, pairs: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Returns the flip permutation of `num_points` points in which each (i, j) of `pairs` swaps."""
    flip = list(range(num_points))
    for i, j in pairs:
        if not (0 <= i < num_points and 0 <= j < num_points):
            raise UserError(f"flip pair ({i}, {j}) is outside 0..{num_points - 1}")
        flip[i], flip[j] = j, i
    return tuple(flip)


def get(name: str) -> Scheme:
    """Returns the shipped scheme of that name."""
    if name not in SHIPPED:
        raise unknown("landmark scheme", name, SHIPPED)
    return SHIPPED[name]


def _problems(s: Scheme) -> list[str]:
    k, problems = len(s.names), []
    texts = (s.name, s.default_normaliser, *s.names, *s.groups, *s.normalisers, *s.subsets)
    numbers = (*s.flip, *_flat(s.groups.values()), *_flat(s.lines), *_flat(s.subsets.values()))
    numbers += tuple(_flat(_flat(s.normalisers.values())))
    if not all(isinstance(text, str) for text in texts) or not all(type(number) is int for number in numbers):
        return ["names must be texts, and points whole numbers"]
    if not 1 <= k <= MOST_POINTS:
        return [f"it has {k} points; allowed are 1..{MOST_POINTS}"]
    if sorted(s.flip) != list(range(k)):
        problems.append(f"flip must be a permutation of 0..{k - 1}, got {len(s.flip)} entries")
    elif any(s.flip[s.flip[i]] != i for i in range(k)):
        bad = [i for i in range(k) if s.flip[s.flip[i]] != i]
        problems.append(f"flip is no involution at points {bad[:10]}")
    index_sets = {f"groups.{g}": i for g, i in s.groups.items()}
    index_sets |= {f"lines[{n}]": i for n, i in enumerate(s.lines)} | {f"subsets.{n}": i for n, i in s.subsets.items()}
    index_sets |= {f"normalisers.{n}": (*a, *b) for n, (a, b) in s.normalisers.items()}
    for where, indices in index_sets.items():
        outside = [i for i in indices if not 0 <= i < k]
        if outside or not indices:
            problems.append(f"{where}: needs indices within 0..{k - 1}, got {outside or 'none'}")
    if len(set(s.names)) != k:
        problems.append("point names repeat")
    if s.default_normaliser not in s.normaliser_names():
        problems.append(str(unknown("default_normaliser", s.default_normaliser, s.normaliser_names())))
    return problems


def _flat(parts: Iterable[Iterable[Any]]) -> Iterator[Any]:
    return (item for part in parts for item in part)


def _names(groups: Sequence[tuple[str, int]]) -> tuple[str, ...]:
    return tuple(f"{name}_{i}" for name, count in groups for i in range(count))


def _pairs(*runs: tuple[Sequence[int], Sequence[int]]) -> list[tuple[int, int]]:
    return [pair for left, right in runs for pair in zip(left, right, strict=True)]


def _span(first: int, last: int) -> tuple[int, ...]:
    return tuple(range(first, last + 1))


def _wflw98() -> Scheme:
    pairs = _pairs(
        (_span(0, 15), _span(17, 32)[::-1]),
        (_span(33, 41), (46, 45, 44, 43, 42, 50, 49, 48, 47)),
        ((55, 56), (59, 58)),
        (_span(60, 67), (72, 71, 70, 69, 68, 75, 74, 73)),
        ((76, 77, 78, 87, 86), (82, 81, 80, 83, 84)),
        ((88, 89, 95), (92, 91, 93)),
        ((96,), (97,)),
    )
    to68 = (
        *range(0, 33, 2), *_span(33, 37), *_span(42, 46), *_span(51, 59),
        60, 61, 63, 64, 65, 67, 68, 69, 71, 72, 73, 75, *_span(76, 95),
    )  # fmt: skip
    return Scheme(
        name="wflw98",
        names=_names(
            (
                ("contour", 33),
                ("left_brow", 9),
                ("right_brow", 9),
                ("nose_bridge", 4),
                ("nose_base", 5),
                ("left_eye", 8),
                ("right_eye", 8),
                ("outer_lip", 12),
                ("inner_lip", 8),
                ("left_pupil", 1),
                ("right_pupil", 1),
            )
        ),  # fmt: skip
        flip=permutation_from_pairs(98, pairs),
        groups={
            "contour": _span(0, 32),
            "brows": _span(33, 50),
            "nose": _span(51, 59),
            "eyes": (*_span(60, 75), 96, 97),
            "mouth": _span(76, 95),
        },  # fmt: skip
        normalisers={"inter_ocular": ((60,), (72,)), "inter_pupil": ((96,), (97,))},
        default_normaliser="inter_ocular",
        lines=(
            _span(0, 32),
            (*_span(33, 41), 33),
            (*_span(42, 50), 42),
            _span(51, 54),
            _span(55, 59),
            (*_span(60, 67), 60),
            (*_span(68, 75), 68),
            (*_span(76, 87), 76),
            (*_span(88, 95), 88),
        ),  # fmt: skip
        subsets={"300w68": to68, "inner51": to68[17:]},
    )


def _300w68() -> Scheme:
    pairs = _pairs(
        (_span(0, 7), _span(9, 16)[::-1]),
        (_span(17, 21), _span(22, 26)[::-1]),
        ((31, 32), (35, 34)),
        (_span(36, 41), (45, 44, 43, 42, 47, 46)),
        ((48, 49, 50, 58, 59), (54, 53, 52, 56, 55)),
        ((60, 61, 67), (64, 63, 65)),
    )
    return Scheme(
        name="300w68",
        names=_names((("contour", 17), *_INNER_NAMES)),
        flip=permutation_from_pairs(68, pairs),
        groups={
            "contour": _span(0, 16),
            "brows": _span(17, 26),
            "nose": _span(27, 35),
            "eyes": _span(36, 47),
            "mouth": _span(48, 67),
        },  # fmt: skip
        normalisers={"inter_ocular": ((36,), (45,)), "inter_pupil": (_span(36, 41), _span(42, 47))},
        default_normaliser="inter_ocular",
        lines=(
            _span(0, 16),
            _span(17, 21),
            _span(22, 26),
            _span(27, 30),
            _span(31, 35),
            (*_span(36, 41), 36),
            (*_span(42, 47), 42),
            (*_span(48, 59), 48),
            (*_span(60, 67), 60),
        ),  # fmt: skip
        subsets={"inner51": _span(17, 67)},
    )


_INNER_NAMES = (
    ("left_brow", 5), ("right_brow", 5), ("nose_bridge", 4), ("nose_base", 5),
    ("left_eye", 6), ("right_eye", 6), ("outer_lip", 12), ("inner_lip", 8),
)  # fmt: skip


def _inner51(full: Scheme) -> Scheme:
    def shift(indices):
        return tuple(i - 17 for i in indices)

    return Scheme(
        name="inner51",
        names=_names(_INNER_NAMES),
        flip=shift(full.flip[17:]),
        groups={g: shift(i) for g, i in full.groups.items() if g != "contour"},
        normalisers={n: (shift(a), shift(b)) for n, (a, b) in full.normalisers.items()},
        default_normaliser="inter_ocular",
        lines=tuple(shift(line) for line in full.lines[1:]),
    )


WFLW98 = _wflw98()
FACE68 = _300w68()
INNER51 = _inner51(FACE68)
SHIPPED: dict[str, Scheme] = {s.name: s for s in (WFLW98, FACE68, INNER51)}
