"""Predictions as JSON or CSV, or as a folder of own_faces: original pixels, written whole.

with table("predictions.json", "json", model="runs/faces68", scheme=scheme, skipped=[]) as add:
    add(Seen("faces.jpg", 640, 480, faces))
"""

import contextlib
import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lmkd.core.errors import unknown
from lmkd.core.schemes import Scheme
from lmkd.evaluation.files import whole_file

OWN_FACES = "own_faces"
"""Pictures, points and scheme as `lmkd.prepare --dataset=own_faces` reads them: for teaching on, or for mending by hand."""

FILES = {"json": "predictions.json", "csv": "predictions.csv", OWN_FACES: "faces.csv"}
PIXELS = "x to the right, y down, of the upright picture; the centre of its top-left pixel is (0, 0)"
_CSV_COLUMNS = ("path", "frame", "time_s", "face", "track", "cut_by_border", "box_x0", "box_y0", "box_x1", "box_y1")


class Face(NamedTuple):
    """One face's prediction: points [K, 2], confidences [K], box [4] in pixels; a video's face has its track's number."""

    landmarks_px: np.ndarray
    confidences: np.ndarray
    box_px: np.ndarray
    track: int | None = None


class Seen(NamedTuple):
    """One picture or one frame of a video, and the faces in it.

    Attributes:
      path: of the file, as it was named.
      width, height: in pixels, upright.
      faces: largest first, or in the order of the boxes that were given.
      notes: how it was read.
      drawn: the file with the points in it, "" where there is none.
      kept: the picture's name in a folder of own_faces, "" where it is not kept.
      frame: a video's frame, from 0; None for a picture.
      time_s: its time.
    """

    path: str
    width: int
    height: int
    faces: Sequence[Face]
    notes: Sequence[str] = ()
    drawn: str = ""
    kept: str = ""
    frame: int | None = None
    time_s: float | None = None


def cut_by_border(face: Face, width: int, height: int) -> bool:
    """Says whether a point lies outside the picture, which covers -0.5 to width - 0.5."""
    return bool((face.landmarks_px < -0.5).any() or (face.landmarks_px > np.array([width, height]) - 0.5).any())


@contextlib.contextmanager
def table(
    path: str | Path, kind: str, *, model: str, scheme: Scheme, skipped: Sequence[tuple[str, str]]
) -> Iterator[Callable[[Seen], None]]:
    """Gives a function that takes what was seen, one picture or frame a call; the file is there when the block ends well.

    Args:
      path: of the file to write.
      kind: one of FILES; with own_faces scheme.json is written beside.
      model: name of the model, for JSON.
      scheme: names the points.
      skipped: (path, why) of files without a prediction, looked at when the block ends, for JSON.
    """
    if kind not in FILES:
        raise unknown("format", kind, FILES, "--format")
    with whole_file(path) as file:
        if kind == OWN_FACES:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["image", "person", *(f"{axis}{n}" for n in range(scheme.num_points) for axis in "xy")])
            yield lambda seen: writer.writerows(_own_row(seen, face) for face in seen.faces if seen.kept)
            with whole_file(Path(path).with_name("scheme.json")) as beside:
                beside.write(scheme.to_json())
        elif kind == "csv":
            writer = csv.writer(file, lineterminator="\n")
            names = [f"{part}_{name}" for name in scheme.names for part in ("x", "y", "confidence")]
            writer.writerow([*_CSV_COLUMNS, *names])
            yield lambda seen: writer.writerows(_csv_row(seen, n, face) for n, face in enumerate(seen.faces))
        else:
            head = {"format": 1, "model": model, "scheme": scheme.name, "names": list(scheme.names), "pixels": PIXELS}
            file.write(json.dumps(head)[:-1] + ',\n"images": [')
            between = ["\n", ",\n"]

            def add(seen: Seen) -> None:
                file.write(between[0] + json.dumps(_json_image(seen)))
                between[0] = between[1]

            yield add
            lost = [{"path": name, "why": why} for name, why in skipped]
            file.write(f'\n],\n"skipped": {json.dumps(lost)}}}\n')


def _json_image(seen: Seen) -> dict[str, Any]:
    video = {} if seen.frame is None else {"frame": seen.frame, "time_s": _rounded(seen.time_s)}
    faces = [
        {
            **({} if face.track is None else {"track": face.track}),
            "box_px": _rounded(face.box_px),
            "cut_by_border": cut_by_border(face, seen.width, seen.height),
            "landmarks_px": _rounded(face.landmarks_px),
            "confidences": _rounded(face.confidences, 4),
        }
        for face in seen.faces
    ]
    told: dict[str, Any] = {"path": seen.path, **video, "width": seen.width, "height": seen.height}
    return told | {"notes": list(seen.notes), "drawn": seen.drawn, "faces": faces}


def _csv_row(seen: Seen, n: int, face: Face) -> list[Any]:
    points = np.concatenate([_rounded_array(face.landmarks_px, 3), _rounded_array(face.confidences, 4)[:, None]], axis=1)
    of_video = ["" if value is None else value for value in (seen.frame, seen.time_s and round(seen.time_s, 3))]
    track = "" if face.track is None else face.track
    cut = int(cut_by_border(face, seen.width, seen.height))
    return [seen.path, *of_video, n, track, cut, *_rounded(face.box_px), *points.ravel().tolist()]


def _own_row(seen: Seen, face: Face) -> list[Any]:
    """A video counts as a person: its frames are much alike and belong in one split."""
    person = "" if seen.frame is None else seen.path
    return [seen.kept, person, *_rounded_array(face.landmarks_px, 3).ravel().tolist()]


def _rounded(values: Any, digits: int = 3) -> Any:
    """Returns plain numbers, to a thousandth of a pixel by default."""
    return _rounded_array(values, digits).tolist()


def _rounded_array(values: Any, digits: int) -> np.ndarray:
    return np.asarray(np.round(np.asarray(values, np.float64), digits))
