"""Predicting on files: each picture and video read, run, drawn and written into one table.

job = Job(predictor, folder=Path("predictions"))
skipped = predict(inputs.gather(["faces.jpg"], job.folder)[0], job)
"""

import contextlib
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from tqdm import tqdm

from lmkd.core.errors import UserError
from lmkd.core.schemes import Scheme
from lmkd.prediction import drawing, images, outputs, videos
from lmkd.prediction.inputs import Input
from lmkd.prediction.outputs import Face, Seen
from lmkd.prediction.smoothing import OneEuro
from lmkd.prediction.tracking import Tracker

FRAMES_AT_ONCE = 8
LONGEST_DRAWN_PX = 4096
"""A larger picture is shrunk before points are drawn in: nobody looks at more. The table keeps the picture's own pixels."""

Add = Callable[[Seen], None]


class Predicts(Protocol):
    """What `lmkd.predictor.Predictor` offers."""

    @property
    def scheme(self) -> Scheme: ...

    def many(self, images: Sequence[Any], boxes: Sequence[Any] | None = None) -> list[Any]: ...


class Job(NamedTuple):
    """What every file is treated with.

    Attributes:
      predictor: finds the points.
      folder: for the table and the drawn files.
      kind: of the table, one of `outputs.FILES`; with own_faces the pictures with a face are kept too.
      boxes: where the faces are, in every file; None looks for them.
      draw: also write pictures and videos with the points drawn in.
      smooth: filter the points of videos over time.
      model: its name, for the table.
    """

    predictor: Predicts
    folder: Path
    kind: str = "json"
    boxes: Sequence[Sequence[float]] | None = None
    draw: bool = True
    smooth: bool = False
    model: str = ""

    @property
    def table(self) -> Path:
        """The table's file."""
        return self.folder / outputs.FILES[self.kind]

    def drawn(self, item: Input) -> Path:
        """Where a file with points drawn in goes, below the folder: never where a data set's pictures are looked for."""
        return "drawn" / item.drawn if self.kind == outputs.OWN_FACES else item.drawn

    def keep(self, name: Path, image: np.ndarray, found: Any) -> str:
        """Writes a picture, of which a folder of own_faces is made; returns its name there, "" where it is not kept."""
        if self.kind != outputs.OWN_FACES or not len(found.landmarks_px):
            return ""
        inside = "images" / name
        images.write(self.folder / inside, image)
        return inside.as_posix()


def predict(
    found: Sequence[Input],
    job: Job,
    *,
    tell: Callable[[str], None] = print,
    warn: Callable[[str], None] = print,
) -> list[tuple[str, str]]:
    """Predicts on files and writes the table; one that cannot be read does not stop the others.

    Args:
      found: the files, of `inputs.gather`.
      job: what they are treated with.
      tell: takes a line for each file that is done.
      warn: takes a line for each file that could not be used.

    Returns:
      (path, why) of the files that could not be used.
    """
    skipped: list[tuple[str, str]] = []
    with outputs.table(job.table, job.kind, model=job.model, scheme=job.predictor.scheme, skipped=skipped) as add:
        for item in found:
            try:
                tell(f"{item.path}: {_video(item, job, add) if item.is_video else _picture(item, job, add)}")
            except UserError as error:
                skipped.append((str(item.path), str(error)))
                warn(f"left out: {error}")
    return skipped


def _picture(item: Input, job: Job, add: Add) -> str:
    """Predicts on a picture and says what was found."""
    picture = images.read(item.path)
    height, width = picture.image.shape[:2]
    (found,) = job.predictor.many([picture.image], [job.boxes])
    drawn, kept = job.drawn(item), job.keep(item.drawn, picture.image, found)
    if job.draw:
        with_points = drawing.draw(picture.image, found.landmarks_px, job.predictor.scheme, longest_px=LONGEST_DRAWN_PX)
        images.write(job.folder / drawn, with_points)
    faces = [Face(*parts) for parts in zip(*found, strict=True)]
    seen = Seen(str(item.path), width, height, faces, picture.notes, str(drawn) if job.draw else "", kept)
    add(seen)
    return "; ".join([_told(seen), *picture.notes])


def _told(seen: Seen) -> str:
    """Says how many faces there are and how many the border cuts."""
    if not seen.faces:
        return "no face found (--box says where one is, --detector=whole takes the picture for one)"
    cut = sum(outputs.cut_by_border(face, seen.width, seen.height) for face in seen.faces)
    if len(seen.faces) == 1:
        return "1 face" + ", cut by the border" * cut
    return f"{len(seen.faces)} faces" + (f", {cut} of them cut by the border" if cut else "")


def _video(item: Input, job: Job, add: Add) -> str:
    """Predicts on a video, some frames at a time, and says what was found."""
    tracker = Tracker(OneEuro() if job.smooth else None)
    count = with_faces = 0
    drawn = job.drawn(item)
    with contextlib.ExitStack() as stack:
        info, frames = stack.enter_context(videos.reading(item.path))
        write = None
        if job.draw:
            write = stack.enter_context(videos.writing(job.folder / drawn, info.fps, info.width, info.height))
        told = Seen(str(item.path), info.width, info.height, (), info.notes, str(drawn) if job.draw else "")
        frames = iter(tqdm(frames, str(item.path), total=info.frames or None, unit="frame", leave=False, disable=None))
        while some := list(itertools.islice(frames, FRAMES_AT_ONCE)):
            for frame, found in zip(some, job.predictor.many(some, [job.boxes] * len(some)), strict=True):
                time_s = count / info.fps
                tracked = tracker.update(time_s, found.landmarks_px, found.boxes_px)
                parts = zip(tracked, found.confidences, found.boxes_px, strict=True)
                faces = [Face(points, confidences, box, track) for (track, points), confidences, box in parts]
                if write is not None:
                    write(drawing.draw(frame, [face.landmarks_px for face in faces], job.predictor.scheme))
                second = count % max(1, round(info.fps)) == 0  # frames in between are much the same
                kept = job.keep(item.drawn / f"{count:06d}.jpg", frame, found) if second else ""
                add(told._replace(faces=faces, frame=count, time_s=time_s, kept=kept))
                count, with_faces = count + 1, with_faces + bool(faces)
    short = [f"the file claims {info.frames} frames"] if info.frames > count else []
    return "; ".join([f"{count} frames at {info.fps:g} fps, {with_faces} of them with a face", *short, *info.notes])
