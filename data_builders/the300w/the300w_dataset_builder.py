"""300W: 68 points placed by hand, from the folder of the published archives."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from lmkd.core.schemes import FACE68
from lmkd.data_builders import common, landmark_files, trees

# folder -> (faces published, split, subset flags). The counts are those of the 300W protocol: 3148 / 554 / 135 / 600.
SOURCES: Mapping[str, tuple[int, str, tuple[str, ...]]] = {
    "afw": (337, "train", ("afw",)),
    "helen/trainset": (2000, "train", ("helen",)),
    "lfpw/trainset": (811, "train", ("lfpw",)),
    "helen/testset": (330, "common", ("helen", "common")),
    "lfpw/testset": (224, "common", ("lfpw", "common")),
    "ibug": (135, "challenging", ("ibug", "challenging")),
    "Test/01_Indoor": (300, "private", ("indoor",)),
    "Test/02_Outdoor": (300, "private", ("outdoor",)),
}
VALIDATION_PHOTOS_PERCENT = 10


class Builder(common.FolderBuilder):
    """300W, strictly checked, with a split of the training faces by photograph."""

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {
        "1.0.0": "First version.",
        "1.1.0": "Splits train_photos and validation_photos.",
    }
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Get 300W (afw, helen, lfpw, ibug) and its private test set (Test) from "
        "https://ibug.doc.ic.ac.uk/resources/300-W/ and unpack them side by side into "
        "manual_dir: afw/ helen/{trainset,testset}/ lfpw/{trainset,testset}/ ibug/ Test/{01_Indoor,02_Outdoor}/."
    )
    SCHEME = FACE68
    FLAGS = ("common", "challenging", "helen", "lfpw", "ibug", "afw", "indoor", "outdoor")
    # The split by photograph has no published counts.
    PUBLISHED: ClassVar[dict[str, int]] = {
        "train": 3148, "common": 554, "challenging": 135, "full": 689, "private": 600,
    }  # fmt: skip
    LICENCE = "Research only; the images belong to their owners (see https://ibug.doc.ic.ac.uk/resources/300-W/)."
    HOMEPAGE = "https://ibug.doc.ic.ac.uk/resources/300-W/"

    @classmethod
    def read(cls, root: Path, findings: trees.Findings, options: Mapping[str, Any]) -> dict[str, list[common.Face]]:
        """Reads every folder of `SOURCES`; `full` is common plus challenging, where both are there. The training faces are also
        split by photograph: some show several people, and `photograph_of` keeps them on one side."""
        del options
        splits: dict[str, list[common.Face]] = {"train": [], "common": [], "challenging": [], "full": [], "private": []}
        for folder, (published, split, flags) in SOURCES.items():
            faces = _read_folder(root / folder, flags, findings)
            if len(faces) < published:
                findings.lacks(f"{folder}/", f"{len(faces)} of {published} faces")
            splits[split] += faces
        if splits["common"] and splits["challenging"]:
            splits["full"] = splits["common"] + splits["challenging"]
        else:  # `full` without one of its halves would be that other half under a wrong name
            findings.lacks("split full", "left out, as one of its halves (common, challenging) is empty")
        return splits | {
            "train_photos": [f for f in splits["train"] if not for_validation(photograph_of(f.key))],
            "validation_photos": [f for f in splits["train"] if for_validation(photograph_of(f.key))],
        }


def photograph_of(key: str) -> str:
    """Returns which photograph a face is in: "afw/111076519" for "afw/111076519_2"; LFPW numbers photographs, not faces."""
    path = PurePosixPath(key)
    photograph, _, number = path.name.rpartition("_")
    return str(path.with_name(photograph)) if number.isdigit() and photograph not in ("", "image") else key


def for_validation(photograph: str) -> bool:
    """Says, from the name alone, whether a training photograph belongs to `validation_photos` (10 % of them)."""
    return common.in_share(photograph, VALIDATION_PHOTOS_PERCENT)


def _read_folder(folder: Path, flags: tuple[str, ...], findings: trees.Findings) -> list[common.Face]:
    images, faces = landmark_files.by_stem(folder), []
    for path in sorted(folder.glob("*.pts")):
        if path.stem.endswith("_mirror"):  # some public copies add flipped images, which are not in the protocol
            continue
        points = landmark_files.read_pts(path, FACE68.num_points, findings)
        image = landmark_files.image_of(path, images, f"{findings.name(folder)}/", findings)
        if points is not None and image is not None:
            name = findings.name(path)
            faces.append(common.Face(name.removesuffix(".pts"), image, points, subset=flags, where=name))
    return faces
