"""Annotation formats of a user's own folder: `.pts`, CSV, COCO keypoints JSON, dlib XML.

Each reader yields faces whose `key` is the image's name relative to the folder; what is wrong is noted in the context's
findings. A point that a format declares as not annotated (COCO v = 0, empty CSV fields, a part that dlib leaves out)
becomes NaN; a literal NaN is a problem. All formats but `.pts` (1-based) count pixels from 0.
"""

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lmkd.core.errors import nearest
from lmkd.core.schemes import Scheme
from lmkd.data_builders import landmark_files, trees
from lmkd.data_builders.common import Face

RECTANGLE = ("x_min", "y_min", "x_max", "y_max")


class Context(NamedTuple):
    """What every reader needs: the folder, its annotation files, its scheme, and where to note what is wrong."""

    root: Path
    files: Sequence[Path]
    scheme: Scheme
    findings: trees.Findings

    def face(self, image: str, points_px: np.ndarray, where: str, **more: Any) -> Face:
        """Returns a face of the image named relative to the folder, or to its `images/`."""
        inside = self.root / image
        if not trees.is_file(inside) and trees.is_file(self.root / "images" / image):
            inside = self.root / "images" / image
        return Face(self.findings.name(inside), inside, points_px, where=where, **more)


def annotation_files(root: Path) -> dict[str, list[Path]]:
    """Returns format -> its annotation files: `.pts` anywhere below `root`, the others directly in it."""
    found = {
        "pts": sorted(root.rglob("*.pts")),
        "csv": sorted(root.glob("*.csv")),
        "coco": sorted(path for path in root.glob("*.json") if path.name != "scheme.json"),
        "dlib": sorted(root.glob("*.xml")),
    }
    return {name: files for name, files in found.items() if files}


def read_pts(context: Context) -> Iterator[Face]:
    """Yields the face of every `.pts` file that has an image of the same stem beside it."""
    root, files, scheme, findings = context
    images = {folder: landmark_files.by_stem(folder) for folder in {path.parent for path in files}}
    for path in files:
        points = landmark_files.read_pts(path, scheme.num_points, findings)
        image = landmark_files.image_of(path, images[path.parent], "images", findings)
        if points is not None and image is not None:
            yield Face(findings.name(image), image, points, where=findings.name(path))
    annotated = set(files)
    for image in sorted(p for stems in images.values() for same in stems.values() for p in same):
        if image.with_suffix(".pts") not in annotated:
            findings.lacks("annotations", f"{findings.name(image)} has no .pts file")


def read_csv(context: Context) -> Iterator[Face]:
    """Yields the faces of CSV files: a header with `image`, x0, y0 ... in any order, maybe `person` or a rectangle."""
    for path in context.files:
        text = context.findings.read_text(path)
        rows = landmark_files.csv_rows(text or "", path, context.findings)
        header = [name.strip() for name in next(rows, (1, []))[1]]
        wrong = _header_problems(header, context.scheme.num_points)
        for what in wrong:
            context.findings.problem(f"{context.findings.name(path)}:1", what)
        if wrong:
            continue
        for line, row in rows:
            if row:
                where = f"{context.findings.name(path)}:{line}"
                if len(row) == len(header):
                    yield from _csv_face(dict(zip(header, map(str.strip, row), strict=True)), where, context)
                else:
                    context.findings.problem(where, f"{len(row)} fields where the header has {len(header)}")


def read_coco(context: Context) -> Iterator[Face]:
    """Yields the faces of COCO keypoint files. Annotations without a labelled keypoint, and crowds, are no faces."""
    for path in context.files:
        name = context.findings.name(path)
        try:
            content = json.loads(context.findings.read_text(path) or "{}")
            images = {image["id"]: image["file_name"] for image in content["images"]}
            annotations = list(content["annotations"])
        except json.JSONDecodeError as error:
            context.findings.problem(f"{name}:{error.lineno}", f"is no JSON ({error.msg})")
            continue
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets thousands deep
            context.findings.problem(name, f"is no JSON ({error})")
            continue
        except (KeyError, TypeError) as error:
            context.findings.problem(name, f"is no COCO file: `images` (id, file_name) and `annotations` needed ({error})")
            continue
        for place, annotation in enumerate(annotations):
            try:
                where = f"{name}: annotation {annotation.get('id', f'at place {place}')}"
                yield from _coco_face(annotation, images, where, context)
            except (TypeError, AttributeError, KeyError) as error:
                context.findings.problem(f"{name}: annotation at place {place}", f"is no COCO annotation ({error})")


def read_dlib(context: Context) -> Iterator[Face]:
    """Yields the faces of dlib's XML files: one a `box` with `part`s; a part is named by number or by point name."""
    for path in context.files:
        name = context.findings.name(path)
        text = context.findings.read_text(path) or ""
        if "<!ENTITY" in text:  # a few of them can stand for gigabytes
            context.findings.problem(name, "declares entities, which dlib's files do not")
            continue
        try:
            tree = ElementTree.fromstring(text)
        except ElementTree.ParseError as error:
            context.findings.problem(f"{name}:{error.position[0]}", f"is no XML ({error})")
            continue
        for image in tree.iter("image"):
            for number, box in enumerate(image.iter("box")):
                where = f"{name}: image {image.get('file')!r}, box {number + 1}"
                if image.get("file") and box.find("part") is not None:
                    yield from _dlib_face(image.get("file", ""), box, where, context)


READERS: Mapping[str, Callable[[Context], Iterator[Face]]] = {
    "pts": read_pts, "csv": read_csv, "coco": read_coco, "dlib": read_dlib,
}  # fmt: skip


def _header_problems(header: Sequence[str], num_points: int) -> list[str]:
    needed = {"image", *(f"{axis}{i}" for i in range(num_points) for axis in "xy")}
    allowed = needed | {"person", *RECTANGLE}
    problems = [f"unknown column {name!r}.{nearest(name, allowed)}" for name in header if name not in allowed]
    missing = [name for name in sorted(needed) if name not in header]
    if missing:
        problems.append(f"columns missing: {', '.join(missing[:8])}{' ...' if len(missing) > 8 else ''}")
    if len(set(header)) != len(header):
        problems.append("columns repeat")
    if set(RECTANGLE) & set(header) and not set(RECTANGLE) <= set(header):
        problems.append(f"a rectangle needs the columns {', '.join(RECTANGLE)}")
    return problems


def _csv_face(row: Mapping[str, str], where: str, context: Context) -> Iterator[Face]:
    k = context.scheme.num_points
    annotated = [i for i in range(k) if row[f"x{i}"] or row[f"y{i}"]]
    columns = [f"{axis}{i}" for i in annotated for axis in "xy"]
    values, wrong = landmark_files.numbers((row[column] for column in columns), columns)
    rectangle = None
    if not wrong and row.get(RECTANGLE[0]):
        rectangle, wrong = landmark_files.numbers((row[column] for column in RECTANGLE), RECTANGLE)
    if wrong or not row["image"]:
        context.findings.problem(where, wrong or "no image is named")
        return
    points = np.full((k, 2), np.nan)
    points[annotated] = landmark_files.pairs(values)
    yield _declared(context.face(row["image"], points, where, rectangle_px=rectangle, person=row.get("person", "")))


def _coco_face(annotation: Mapping[str, Any], images: Mapping[Any, str], where: str, context: Context) -> Iterator[Face]:
    keypoints, k = annotation.get("keypoints") or (), context.scheme.num_points
    if annotation.get("iscrowd") or not any(keypoints[2::3]):
        return
    box = annotation.get("bbox") or ()
    values, wrong = landmark_files.numbers(map(str, keypoints))
    sides, wrong_box = landmark_files.numbers(map(str, box), ("bbox x", "bbox y", "bbox width", "bbox height", *box[4:]))
    if annotation.get("image_id") not in images:
        wrong = f"image_id {annotation.get('image_id')!r} is not among the images"
    elif len(keypoints) != 3 * k:
        wrong = f"{len(keypoints)} keypoint numbers where {3 * k} are needed"
    elif len(box) not in (0, 4):
        wrong = f"bbox has {len(box)} numbers where 4 are needed"
    if wrong or wrong_box:
        context.findings.problem(where, wrong or wrong_box)
        return
    rows = np.asarray(values).reshape(-1, 3)
    points = np.where(rows[:, 2:] > 0, rows[:, :2], np.nan)
    yield _declared(context.face(images[annotation["image_id"]], points, where, rectangle_px=_corners(sides)))


def _dlib_face(image: str, box: ElementTree.Element, where: str, context: Context) -> Iterator[Face]:
    scheme = context.scheme
    points = np.full((scheme.num_points, 2), np.nan)
    problems = []
    for part in box.iter("part"):
        name = part.get("name", "")
        index = int(name) if name.isdecimal() and len(name) < 9 else scheme.names.index(name) if name in scheme.names else -1
        values, wrong = landmark_files.numbers([part.get("x", ""), part.get("y", "")])
        if not 0 <= index < scheme.num_points:
            problems.append(f"part {name!r} is no point of scheme {scheme.name}")
        elif wrong or np.isfinite(points[index]).any():
            problems.append(f"part {name!r}: {wrong or 'stands there twice'}")
        else:
            points[index] = values
    sides, wrong = landmark_files.numbers([box.get(side, "") for side in ("left", "top", "width", "height")])
    if wrong:
        problems.append(f"box: {wrong}")
    for what in problems:
        context.findings.problem(where, what)
    if not problems:
        yield _declared(context.face(image, points, where, rectangle_px=_corners(sides)))


def _corners(sides: Sequence[float]) -> tuple[float, ...] | None:
    """Returns (x0, y0, x1, y1) of (left, top, width, height), None of nothing."""
    return (sides[0], sides[1], sides[0] + sides[2], sides[1] + sides[3]) if sides else None


def _declared(face: Face) -> Face:
    """Marks the points that the format declares as not annotated, so that their NaN is no problem."""
    return face._replace(visible=np.isfinite(face.landmarks_px).all(axis=1).astype(np.float32))
