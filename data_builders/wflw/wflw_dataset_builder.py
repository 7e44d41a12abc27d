"""WFLW: 98 points, a rectangle and six attributes a face, from the published folders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from lmkd.core.schemes import WFLW98
from lmkd.data_builders import common, landmark_files, trees

ANNOTATIONS = "WFLW_annotations"
MAIN_LIST = ANNOTATIONS + "/list_98pt_rect_attr_train_test/list_98pt_rect_attr_{}.txt"
SUBSET_LIST = ANNOTATIONS + "/list_98pt_test/list_98pt_test_{}.txt"
# Attributes in the order of the main lists -> (name of the test subset's list, its faces as counted there).
SUBSETS: Mapping[str, tuple[str, int]] = {
    "pose": ("largepose", 326),
    "expression": ("expression", 314),
    "illumination": ("illumination", 698),
    "makeup": ("makeup", 206),
    "occlusion": ("occlusion", 736),
    "blur": ("blur", 773),
}
NUM_COORDINATES = 2 * WFLW98.num_points
# A subset list's face is the main list's where no coordinate differs by more (both print six decimals).
SAME_FACE_PX = 0.01


class Line(NamedTuple):
    """One line of a list: points [98, 2] px, rectangle (None in subset lists), attribute names, image name."""

    points_px: np.ndarray
    rectangle_px: tuple[float, ...] | None
    attributes: tuple[str, ...]
    image: str


class Builder(common.FolderBuilder):
    """WFLW, strictly checked; the test subset lists must agree with the attributes."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Get the images and annotations from https://wywu.github.io/projects/LAB/WFLW.html and unpack them side by "
        "side into manual_dir: WFLW_images/ WFLW_annotations/."
    )
    SCHEME = WFLW98
    FLAGS = tuple(SUBSETS)
    PUBLISHED: ClassVar[dict[str, int]] = {"train": 7500, "test": 2500}
    SUBSET_COUNTS: ClassVar[dict[str, int]] = {flag: count for flag, (_, count) in SUBSETS.items()}
    LICENCE = "Research only; the images (WIDER FACE) belong to their owners."
    HOMEPAGE = "https://wywu.github.io/projects/LAB/WFLW.html"

    @classmethod
    def read(cls, root: Path, findings: trees.Findings, options: Mapping[str, Any]) -> dict[str, list[common.Face]]:
        """Reads both main lists and holds the six subset lists to the second."""
        del options
        splits = {split: _read_main_list(root, split, findings) for split in ("train", "test")}
        for flag, count in cls.SUBSET_COUNTS.items():
            _check_subset_list(flag, count, splits["test"], root, findings)
        return {split: trees.number_faces(faces, findings) for split, faces in splits.items()}


def parse_line(text: str, *, rect_attr: bool) -> tuple[Line | None, str]:
    """Parses one line of a list.

    Args:
      text: 196 coordinates, then (main lists alone) 4 of the rectangle and 6 attributes, then the image's name.
      rect_attr: whether it is a main list's line (207 fields) or a test subset list's (197).

    Returns:
      (line, "") or (None, what is wrong).
    """
    fields = text.split()
    expected = NUM_COORDINATES + (11 if rect_attr else 1)
    if len(fields) != expected:
        return None, f"{len(fields)} fields where {expected} are needed"
    end = NUM_COORDINATES + (4 if rect_attr else 0)
    values, wrong = landmark_files.numbers(fields[:end])
    if wrong:
        return None, wrong
    bits = fields[end:-1]
    if set(bits) - {"0", "1"}:
        return None, f"attributes must be 0 or 1, got {' '.join(bits)}"
    attributes = tuple(flag for flag, bit in zip(SUBSETS, bits, strict=False) if bit == "1")
    rectangle = tuple(values[NUM_COORDINATES:]) if rect_attr else None
    return Line(landmark_files.pairs(values[:NUM_COORDINATES]), rectangle, attributes, fields[-1]), ""


def read_list(path: Path, findings: trees.Findings, *, rect_attr: bool) -> list[tuple[str, Line]]:
    """Returns ("file:line", line) for every sound line of a list; the others are noted."""
    lines = []
    for number, text in enumerate((findings.read_text(path) or "").splitlines(), start=1):
        if text.strip():
            where = f"{findings.name(path)}:{number}"
            line, wrong = parse_line(text, rect_attr=rect_attr)
            if line is None:
                findings.problem(where, wrong)
            else:
                lines.append((where, line))
    return lines


def _read_main_list(root: Path, split: str, findings: trees.Findings) -> list[common.Face]:
    return [
        common.Face(
            key=line.image,
            image=root / "WFLW_images" / line.image,
            landmarks_px=line.points_px,
            rectangle_px=line.rectangle_px,
            subset=line.attributes,
            where=where,
        )
        for where, line in read_list(root / MAIN_LIST.format(split), findings, rect_attr=True)
    ]


def _check_subset_list(flag: str, count: int, faces: list[common.Face], root: Path, findings: trees.Findings) -> None:
    """Notes each face that is in the subset's list and lacks the attribute, or has it and is not in the list."""
    path = root / SUBSET_LIST.format(SUBSETS[flag][0])
    lines = read_list(path, findings, rect_attr=False)
    by_image: dict[str, list[common.Face]] = {}
    for face in faces:
        by_image.setdefault(face.key, []).append(face)
    listed: set[str] = set()
    for where, line in lines:
        same = [f for f in by_image.get(line.image, ()) if np.abs(f.landmarks_px - line.points_px).max() < SAME_FACE_PX]
        if not same:
            findings.lacks("split test", f"{where}: this face of {line.image} is not in the test list")
        elif flag not in same[0].subset:
            findings.problem(where, f"attribute {flag} is 0 for this face in {same[0].where}")
        listed.update(f.where for f in same)
    if len(lines) < count:  # what is not listed may stand in the lines that are missing
        findings.lacks(findings.name(path), f"{len(lines)} of {count} lines")
        return
    for face in faces:
        if flag in face.subset and face.where not in listed:
            findings.problem(face.where, f"attribute {flag} is 1, but the face is not in {findings.name(path)}")
