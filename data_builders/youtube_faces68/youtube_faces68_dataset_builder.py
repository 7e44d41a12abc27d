"""YouTube Faces with 68 points from an automatic annotator: the public facial-keypoints course archive."""

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from lmkd.core.errors import UserError
from lmkd.core.schemes import FACE68
from lmkd.data_builders import common, landmark_files, trees

LISTS = {
    "train": "training",
    "test": "test",
}  # split -> folder of the frames; FOLDER_frames_keypoints.csv lies beside it
VALIDATION_PEOPLE_PERCENT = 15
MOST_BYTES = 8 << 30  # of an unpacked archive; the published one has 0.4 GB


class Builder(common.FolderBuilder):
    """The course archive, strictly checked, with a split of the training list by person."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    URL = "https://s3.amazonaws.com/video.udacity-data.com/topher/2018/May/5aea1b91_train-test-data/train-test-data.zip"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Unpack {URL} into manual_dir: training/ test/ training_frames_keypoints.csv test_frames_keypoints.csv. "
        "Without manual_dir it is downloaded."
    )
    SCHEME = FACE68
    # The split by person has no published counts.
    PUBLISHED: ClassVar[dict[str, int]] = {"train": 3462, "test": 770}
    LICENCE = "Research only; the frames belong to their owners (YouTube Faces DB, Wolf, Hassner and Maoz 2011)."
    HOMEPAGE = "https://github.com/udacity/P1_Facial_Keypoints"

    @classmethod
    def read(cls, root: Path, findings: trees.Findings, options: Mapping[str, Any]) -> dict[str, list[common.Face]]:
        """Reads both lists; splits the training list by person besides, so that nobody is on both sides."""
        del options
        splits = {split: _read_list(root, folder, findings) for split, folder in LISTS.items()}
        return splits | {
            "train_people": [f for f in splits["train"] if not for_validation(f.person)],
            "validation_people": [f for f in splits["train"] if for_validation(f.person)],
        }

    def source_folder(self, dl_manager: tfds.download.DownloadManager) -> Path:
        """Returns `manual_dir` where there is one, else downloads and unpacks the archive."""
        try:
            return Path(dl_manager.manual_dir)
        except AssertionError:  # TFDS' answer to a manual_dir that is not there
            return unpack(Path(dl_manager.download(self.URL)))


def unpack(archive: Path) -> Path:
    """Unpacks the archive beside itself and returns the folder that holds the lists.

    Raises:
      UserError: damaged, larger than `MOST_BYTES`, or a member would be written outside the folder.
    """
    folder = archive.with_name(archive.name + ".unpacked")
    try:
        with zipfile.ZipFile(archive) as packed:
            members = packed.infolist()
            strays = [m.filename for m in members if not (folder / m.filename).resolve().is_relative_to(folder.resolve())]
            if strays:
                raise UserError(f"{archive} is refused: it would write outside its folder ({', '.join(strays[:3])})")
            if (size := sum(member.file_size for member in members)) > MOST_BYTES:
                raise UserError(f"{archive} is refused: it unpacks to {size / 2**30:.1f} GiB")
            packed.extractall(folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise UserError(f"{archive} is no sound zip archive ({error}); delete it and try again") from error
    lists = sorted(folder.rglob("training_frames_keypoints.csv"), key=lambda path: len(path.parts))
    return lists[0].parent if lists else folder


def person_of(file_name: str) -> str:
    """Returns who a frame shows: "Luis_Fonsi" for "Luis_Fonsi_21.jpg"."""
    return Path(file_name).stem.rpartition("_")[0]


def for_validation(person: str) -> bool:
    """Says, from the name alone, whether a person belongs to `validation_people` (15 % of people)."""
    return common.in_share(person, VALIDATION_PEOPLE_PERCENT)


def _read_list(root: Path, folder: str, findings: trees.Findings) -> list[common.Face]:
    path = root / f"{folder}_frames_keypoints.csv"
    text = findings.read_text(path)
    return list(_faces(text, path, root / folder, findings)) if text is not None else []


def _faces(text: str, path: Path, images: Path, findings: trees.Findings) -> Iterator[common.Face]:
    """Yields a list's faces: a file name and x0, y0 ... x67, y67 a line, after a header whose first field is empty."""
    k = FACE68.num_points
    for line, row in landmark_files.csv_rows(text, path, findings):
        where = f"{findings.name(path)}:{line}"
        if not row or (line == 1 and not row[0]):
            continue
        values, wrong = landmark_files.numbers(row[1:], [f"field {place}" for place in range(2, len(row) + 1)])
        if len(row) != 2 * k + 1:
            findings.problem(where, f"{len(row)} fields where {2 * k + 1} are needed")
        elif wrong:
            findings.problem(where, wrong)
        else:
            points = landmark_files.pairs(values)
            yield common.Face(row[0], images / row[0], points, person=person_of(row[0]), where=where)
