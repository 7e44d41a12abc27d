"""What a person named on the command line: pictures, videos and folders of them, and the names their results get."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from lmkd.core.errors import report_together
from lmkd.prediction import images, videos

SOME = 3  # names that a message shows before it counts the rest


class Input(NamedTuple):
    """One file to predict on.

    Attributes:
      path: as a person would write it.
      is_video: else it is a picture.
      drawn: where the file with points goes, below the output folder; no two inputs share one.
    """

    path: Path
    is_video: bool
    drawn: Path


def gather(words: Sequence[str], output: Path) -> tuple[list[Input], list[str]]:
    """Finds the files to predict on.

    Folders are walked, their files sorted by path; hidden files and the output folder are left out. A file that is named
    twice is taken once.

    Args:
      words: paths of pictures, videos and folders.
      output: where results will go.

    Returns:
      The inputs, and lines that tell what was left out.

    Raises:
      UserError: a path does not exist, a folder holds no picture or video, a named file is neither, or an input lies in the
        output folder, where results could take its place; all problems together.
    """
    found: dict[Path, tuple[Path, Path]] = {}  # resolved path -> (path, name of its result)
    problems: list[str] = []
    notes: list[str] = []
    for word in words:
        path = Path(word)
        if path.is_dir():
            inside, left_out = _walk(path, output)
            notes += left_out
            if not inside:
                problems.append(f"{word}: the folder holds no picture or video ({_known()})")
            for file in inside:
                found.setdefault(file.resolve(), (file, file.relative_to(path)))
        elif not path.exists():
            problems.append(f"{word}: there is no such file or folder")
        elif not (videos.is_video(path) or _is_picture(path)):
            problems.append(f"{word}: neither a picture nor a video ({_known()})")
        else:
            found.setdefault(path.resolve(), (path, Path(path.name)))
    problems += [f"{path}: lies in --output={output}; choose another folder for results" for path in _within(found, output)]
    report_together(problems, "what to predict on")
    return _named(found.values()), notes


def _walk(folder: Path, output: Path) -> tuple[list[Path], list[str]]:
    """Returns the pictures and videos below a folder, and a line about the rest."""
    taken: list[Path] = []
    strangers: list[Path] = []
    own = output.resolve()
    for parent, folders, names in os.walk(folder):
        here = Path(parent)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and (here / f).resolve() != own)
        for name in sorted(n for n in names if not n.startswith(".")):
            path = here / name
            known = path.suffix.lower() in images.SUFFIXES or videos.is_video(path)
            (taken if known else strangers).append(path)
    if not strangers:
        return sorted(taken), []
    shown = ", ".join(str(s.relative_to(folder)) for s in strangers[:SOME]) + (", ..." if len(strangers) > SOME else "")
    return sorted(taken), [f"{folder}: {len(strangers)} files that are neither picture nor video left out ({shown})"]


def _is_picture(path: Path) -> bool:
    """Says whether a file is a picture by its suffix, or by its content where the suffix says nothing."""
    if path.suffix.lower() in images.SUFFIXES:
        return True  # a damaged one is told when it is read
    try:
        with Image.open(path):
            return True
    except Exception:  # parsers raise whatever a foreign file takes them to
        return False


def _within(resolved: Iterable[Path], output: Path) -> list[Path]:
    own = output.resolve()
    return [path for path in resolved if own in path.parents]


def _named(found: Iterable[tuple[Path, Path]]) -> list[Input]:
    """Gives every input a result's name of its own: photo.jpg, photo-2.jpg, ... (case aside, as some file systems do)."""
    taken: set[str] = set()
    named = []
    for path, name in found:
        is_video = videos.is_video(path)
        suffix = ".mp4" if is_video else ".jpg" if path.suffix.lower() in images.LOSSY else ".png"
        drawn, n = name.with_suffix(suffix), 1
        while str(drawn).lower() in taken:
            n += 1
            drawn = name.with_name(f"{name.stem}-{n}{suffix}")
        taken.add(str(drawn).lower())
        named.append(Input(path, is_video, drawn))
    return named


def _known() -> str:
    return f"known: {' '.join(s[1:] for s in (*images.SUFFIXES, *videos.SUFFIXES))}"
