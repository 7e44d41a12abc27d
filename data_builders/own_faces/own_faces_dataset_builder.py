"""A user's own faces, or anything else with landmarks: images, `.pts` or CSV or COCO JSON or dlib XML, and a scheme."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from lmkd.core import schemes
from lmkd.core.errors import UserError, report_together, unknown
from lmkd.data_builders import common, trees
from lmkd.data_builders.own_faces import formats

SPLITS = ("train", "validation", "test")
DEFAULTS: Mapping[str, Any] = {"annotations": "auto", "test_fraction": 0.1, "seed": 0, "scheme": None}


class Builder(common.FolderBuilder):
    """A user's folder, strictly checked. Every preparation is named by the folder's content."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Put images, their annotations (.pts files beside them, or *.csv, *.json or *.xml directly in the folder) and "
        "scheme.json into manual_dir."
    )
    LICENCE = "The user's own."
    NAMED_BY_CONTENT = True
    BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = []

    @classmethod
    def scheme_of(cls, root: Path, options: Mapping[str, Any]) -> schemes.Scheme:
        """Reads the folder's scheme file: `options["scheme"]`, or scheme.json."""
        report_together(
            [str(unknown("option of own_faces", name, DEFAULTS)) for name in options if name not in DEFAULTS],
            "own_faces",
        )
        path = Path(options.get("scheme") or root / "scheme.json").expanduser()
        if not path.is_file():
            raise UserError(
                f"no scheme file {path}. It says what the points are, such as "
                '{"name": "mine", "points": 5, "flip_pairs": [[0, 1], [3, 4]], "normalisers": {"eyes": [[0], [1]]}}'
            )
        try:
            return schemes.from_json(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{error.lineno}: is no JSON ({error.msg})") from error
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    @classmethod
    def read(cls, root: Path, findings: trees.Findings, options: Mapping[str, Any]) -> dict[str, list[common.Face]]:
        """Reads the annotations in their format and splits the faces by list, by folder, or by seed and fraction."""
        options = {**DEFAULTS, **options}
        scheme = cls.scheme_of(root, {"scheme": options["scheme"]})
        kind, files = _format(root, options["annotations"])
        faces = trees.number_faces(list(formats.READERS[kind](formats.Context(root, files, scheme, findings))), findings)
        # The scheme may lie elsewhere, and the split depends on options: both make it another preparation.
        chosen = {name: options[name] for name in ("test_fraction", "seed")}
        findings.salt = json.dumps([scheme.to_json(), kind, chosen], sort_keys=True)
        return split_faces(faces, root, findings, test_fraction=options["test_fraction"], seed=options["seed"])


def split_faces(
    faces: Sequence[common.Face], root: Path, findings: trees.Findings, *, test_fraction: float, seed: int
) -> dict[str, list[common.Face]]:
    """Splits faces by the first of these that the folder has.

    1. Lists train.txt, validation.txt, test.txt in the folder: an image's name a line, "#" begins a comment.
    2. Sub-folders train/, validation/, test/ (or images/train/ ...) that hold every annotated image.
    3. `seed` and `test_fraction`: whole people where they are known, else whole images; train and test.
    """
    lists = {split: root / f"{split}.txt" for split in SPLITS if (root / f"{split}.txt").is_file()}
    if lists:
        return _split_by_lists(faces, lists, root, findings)
    folders = [_folder(findings.name(Path(face.image))) for face in faces]
    if faces and all(folders):
        return {s: [f for f, folder in zip(faces, folders, strict=True) if folder == s] for s in SPLITS}
    if not 0 <= test_fraction < 1:
        raise UserError(f"test_fraction must be at least 0 and below 1, got {test_fraction}")
    groups = trees.fraction_order([_group(face, findings) for face in faces], seed)
    test = set(groups[: round(test_fraction * len(groups))])
    return {
        "train": [face for face in faces if _group(face, findings) not in test],
        "test": [face for face in faces if _group(face, findings) in test],
    }


def _format(root: Path, wanted: str) -> tuple[str, list[Path]]:
    found = formats.annotation_files(root)
    if wanted != "auto" and wanted not in formats.READERS:
        raise unknown("annotation format", wanted, ("auto", *formats.READERS))
    if wanted == "auto" and len(found) > 1:
        raise UserError(f"{root} holds annotations in several formats ({', '.join(found)}): say --own_annotations=FORMAT")
    kind = next(iter(found), "") if wanted == "auto" else wanted
    if kind not in found:
        raise UserError(f"{root} holds no {'' if wanted == 'auto' else wanted + ' '}annotations. "
                        f"{Builder.MANUAL_DOWNLOAD_INSTRUCTIONS}")  # fmt: skip
    return kind, found[kind]


def _split_by_lists(
    faces: Sequence[common.Face], lists: Mapping[str, Path], root: Path, findings: trees.Findings
) -> dict[str, list[common.Face]]:
    by_image: dict[str, list[common.Face]] = {}
    for face in faces:
        by_image.setdefault(findings.name(Path(face.image)), []).append(face)
    splits: dict[str, list[common.Face]] = {split: [] for split in lists}
    listed: dict[str, str] = {}
    for split, path in lists.items():
        for number, line in enumerate((findings.read_text(path) or "").splitlines(), start=1):
            name, where = line.partition("#")[0].strip(), f"{path.name}:{number}"
            name = name if name in by_image or f"images/{name}" not in by_image else f"images/{name}"
            if name in listed:
                findings.problem(where, f"{name} stands in {listed[name]} already")
            elif name and name not in by_image:
                findings.lacks(f"split {split}", f"{where}: no annotated face of {name}")
            elif name:
                listed[name] = where
                splits[split] += by_image[name]
    for name in by_image.keys() - listed.keys():
        findings.problem(by_image[name][0].where, f"{name} is in none of {', '.join(p.name for p in lists.values())}")
    return splits


def _folder(image: str) -> str:
    """Returns the split whose folder holds the image of that relative name, or ""."""
    first = image.removeprefix("images/").partition("/")[0]
    return first if first in SPLITS else ""


def _group(face: common.Face, findings: trees.Findings) -> str:
    return f"person {face.person}" if face.person else findings.name(Path(face.image))
