"""Strict reading of folders: what is wrong or missing is collected, checked image by image, and reported together.

What a partial tree may lack (files, faces up to the published count) is kept apart from what is wrong (malformed lines,
damaged images, points outside the image, repeated keys), which is never forgiven.
"""

import collections
import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from lmkd.core import encoded_images
from lmkd.core.errors import report_together
from lmkd.core.schemes import Scheme

# A point may lie this many faces outside its image: enough for every face whose points annotators placed beyond the
# border, not for another image's line or a slipped decimal point. A face is the larger extent of the middle 80 % of its
# points, so that one wild point cannot stretch its own bound. Seen: 0.52 in WFLW (test subset lists, left and top side
# alone), 0.17 in YouTube Faces.
FARTHEST_OUTSIDE_FACES = 2.0


@dataclasses.dataclass
class Findings:
    """What reading a folder brings to light.

    Attributes:
      root: the folder; messages name files relative to it.
      problems: what is wrong, each with file and line.
      absent: folder or split -> what is missing there, one entry each.
      sources: annotation files that were read (part of the content hash).
      salt: text that belongs to the content hash besides files (options).
    """

    root: Path
    problems: list[str] = dataclasses.field(default_factory=list)
    absent: dict[str, list[str]] = dataclasses.field(default_factory=lambda: collections.defaultdict(list))
    sources: list[Path] = dataclasses.field(default_factory=list)
    salt: str = ""

    def name(self, path: Path) -> str:
        """Returns the path as messages write it."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    def problem(self, where: str | Path, what: str) -> None:
        """Notes something wrong at `where` ("file:line" or a path)."""
        self.problems.append(f"{self.name(where) if isinstance(where, Path) else where}: {what}")

    def lacks(self, group: str, what: str) -> None:
        """Notes something missing from `group` (a folder or a split)."""
        self.absent[group].append(what)

    def read_text(self, path: Path) -> str | None:
        """Returns an annotation file's text and remembers the file; None, noted, where there is no such text file."""
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except FileNotFoundError:
            self.lacks(self.name(path), "annotation file not there")
        except (OSError, UnicodeDecodeError) as error:
            self.problem(path, f"cannot be read as text ({error})")
        else:
            self.sources.append(path)
            return text
        return None


class Tree(NamedTuple):
    """A folder that passed every check.

    Attributes:
      faces: split -> faces; no empty split.
      scheme: its landmark scheme.
      missing: what it lacks, in words; "" for a complete tree.
      tree_hash: SHA-256 (hex) over the relative names and bytes of the annotations and images used.
    """

    faces: dict[str, list[Any]]
    scheme: Scheme
    missing: str
    tree_hash: str


class ImageFacts(NamedTuple):
    """What the checks need from one image file: width and height in pixels, hash of its bytes, "" or what is wrong."""

    size_px: tuple[int, int]
    digest: str
    problem: str


def check(
    splits: Mapping[str, Sequence[Any]],
    findings: Findings,
    *,
    scheme: Scheme,
    published: Mapping[str, int],
    partial: bool,
    progress: bool = False,
) -> Tree:
    """Checks faces, images and counts.

    Args:
      splits: split -> `common.Face`s as read.
      findings: what reading has brought to light so far.
      scheme: the landmark scheme every face must fit.
      published: split -> faces of the published set; splits without an entry are not counted.
      partial: forgive what is missing.
      progress: show a bar.

    Raises:
      UserError: all problems together, and what is missing too unless `partial`.
    """
    images = _existing_images(splits, findings)
    facts = examine(images, progress=progress)
    for path in images:
        if facts[path].problem:
            findings.problem(path, facts[path].problem)
    kept = {}
    for split, faces in splits.items():
        kept[split] = [face for face in faces if face.image in facts]
        _check_keys(split, kept[split], findings)
        for face in kept[split]:
            if not facts[face.image].problem:
                findings.problems += face_problems(face, facts[face.image].size_px, scheme)
    _check_counts(kept, published, findings)
    findings.problems = list(dict.fromkeys(findings.problems))  # a face may stand in two splits
    by_group = sorted(findings.absent.items(), key=lambda item: not item[0].startswith("split "))  # counts come first
    lacking = [f"{group}: {what}" for group, items in by_group for what in items]
    advice = "" if partial or not lacking else "; --partial accepts what is missing, and only that"
    report_together(findings.problems + ([] if partial else lacking), f"{findings.root} is not as published{advice}")
    if not any(kept.values()):
        report_together([*lacking, "no face is left"], f"{findings.root} holds nothing to prepare")
    return Tree(
        faces={split: faces for split, faces in kept.items() if faces},
        scheme=scheme,
        missing=_in_words(dict(by_group)),
        tree_hash=_tree_hash(findings, {findings.name(path): facts[path].digest for path in images}),
    )


def examine(paths: Sequence[Path], *, progress: bool = False) -> dict[Path, ImageFacts]:
    """Decodes each image once, in threads (OpenCV releases the GIL)."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        bar = tqdm(total=len(paths), desc="checking images", unit=" images", disable=None if progress else True)
        with bar:
            facts = {}
            for path, fact in zip(paths, pool.map(examine_image, paths), strict=True):
                facts[path] = fact
                bar.update()
    return facts


def examine_image(path: Path) -> ImageFacts:
    """Reads, hashes and fully decodes one image."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return ImageFacts((0, 0), "", f"cannot be read ({error.strerror})")
    size, problem = decoded_size(data)
    return ImageFacts(size, hashlib.sha256(data).hexdigest(), problem)


def decoded_size(data: bytes) -> tuple[tuple[int, int], str]:
    """Returns ((width, height), "") of encoded image bytes, or ((0, 0), what is wrong)."""
    if problem := encoded_images.problem(data):  # before a bomb's pixels are allocated
        return (0, 0), problem
    # Landmarks are in pixels as stored, so an EXIF rotation must not swap the sides. Grey decodes faster than
    # colour and, like it, not at all where the file is cut short.
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:  # a side beyond OpenCV's own limit
        image = None
    if image is None:
        return (0, 0), "damaged image (cut short, or does not decode)"
    return (image.shape[1], image.shape[0]), ""


def face_problems(face: Any, size_px: tuple[int, int], scheme: Scheme) -> list[str]:
    """Returns what is wrong with one face's points and rectangle in an image of (width, height)."""
    where, points = face.where or face.key, np.asarray(face.landmarks_px, np.float64)
    if points.shape != (scheme.num_points, 2):
        return [f"{where}: {len(points)} points where scheme {scheme.name} has {scheme.num_points}"]
    annotated = np.ones(len(points), bool) if face.visible is None else np.asarray(face.visible) > 0
    if not annotated.any():
        return [f"{where}: no point is annotated"]
    if not np.isfinite(points[annotated]).all():
        bad = np.flatnonzero(annotated & ~np.isfinite(points).all(axis=1))
        return [f"{where}: NaN or infinite coordinates at point {', '.join(map(str, bad[:10]))}"]
    problems = []
    shown, numbers = points[annotated], np.flatnonzero(annotated)
    outside = np.maximum(-0.5 - shown, shown - (np.asarray(size_px) - 0.5)).max(axis=1)
    face_px = np.subtract(*np.percentile(shown, (90, 10), axis=0)).max()
    if len(shown) > 1 and np.ptp(shown, axis=0).max() == 0:
        problems.append(f"{where}: all points are the same")
    worst = int(outside.argmax())
    if outside[worst] > FARTHEST_OUTSIDE_FACES * face_px:
        x, y = shown[worst]
        problems.append(
            f"{where}: point {numbers[worst]} at ({x:.1f}, {y:.1f}) is {outside[worst]:.0f} px outside the image "
            f"({size_px[0]} x {size_px[1]}); accepted is {FARTHEST_OUTSIDE_FACES:g} times the face ({face_px:.0f} px)"
        )
    if face.rectangle_px is not None:
        x0, y0, x1, y1 = face.rectangle_px
        if not (np.isfinite(face.rectangle_px).all() and x1 > x0 and y1 > y0):
            problems.append(f"{where}: rectangle ({x0:g}, {y0:g}, {x1:g}, {y1:g}) is empty or not finite")
    return problems


def is_file(path: Path) -> bool:
    """Says whether there is such a file; False too of a name that no file can have (too long for the file system)."""
    try:
        return path.is_file()
    except OSError:
        return False


def number_faces(faces: Sequence[Any], findings: Findings) -> list[Any]:
    """Gives the faces of each image the keys NAME#0, NAME#1, ... in order; notes a face that stands there twice."""
    seen: dict[Any, dict[bytes, str]] = {}
    keyed = []
    for face in faces:
        same_image = seen.setdefault(face.image, {})
        points = np.asarray(face.landmarks_px, np.float64).tobytes()
        if points in same_image:
            findings.problem(face.where, f"repeats the face of {same_image[points]}")
            continue
        keyed.append(face._replace(key=f"{face.key}#{len(same_image)}"))
        same_image[points] = face.where
    return keyed


def fraction_order(names: Sequence[str], seed: str | int) -> list[str]:
    """Returns `names` in a pseudo-random order that depends on `seed` and each name alone, on every machine."""
    return sorted(set(names), key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())


def _existing_images(splits: Mapping[str, Sequence[Any]], findings: Findings) -> list[Path]:
    """Returns every image file that is there, once; notes the faces whose image is missing."""
    exists: dict[Path, bool] = {}
    told = set()
    for split, faces in splits.items():
        for face in faces:
            if face.image not in exists:
                exists[face.image] = is_file(face.image)
            if not exists[face.image] and (face.where or face.key) not in told:
                told.add(face.where or face.key)
                findings.lacks(split, f"{face.where or face.key}: image {findings.name(face.image)} is missing")
    return [path for path, there in exists.items() if there]


def _check_keys(split: str, faces: Sequence[Any], findings: Findings) -> None:
    first: dict[str, str] = {}
    for face in faces:
        if face.key in first:
            findings.problem(face.where or split, f"repeats {face.key!r} of {first[face.key]}")
        first.setdefault(face.key, face.where or split)


def _check_counts(splits: Mapping[str, Sequence[Any]], published: Mapping[str, int], findings: Findings) -> None:
    for split, number in published.items():
        found = len(splits.get(split, ()))
        if found > number:
            findings.problem(f"split {split}", f"{found} faces, more than the {number} published")
        if found < number:
            findings.lacks(f"split {split}", f"{found} of {number} faces")


def _in_words(absent: Mapping[str, Sequence[str]]) -> str:
    """Sums up what is missing: counts as they stand, long lists of files by number."""
    return "; ".join(
        f"{group}: {', '.join(items) if len(items) < 3 else f'{len(items)} missing, first {items[0]}'}"
        for group, items in absent.items()
    )


def _tree_hash(findings: Findings, image_digests: Mapping[str, str]) -> str:
    digests = dict(image_digests)
    for path in findings.sources:
        digests[findings.name(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    total = hashlib.sha256(findings.salt.encode())
    for name in sorted(digests):
        total.update(f"{name}\0{digests[name]}\n".encode())
    return total.hexdigest()
