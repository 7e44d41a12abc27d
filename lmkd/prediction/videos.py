"""Videos: frames in, frames out, at the rate they came.

with reading("in.mp4") as (info, frames), writing("out.mp4", info.fps, info.width, info.height) as write:
    for frame in frames:            # uint8 RGB [H, W, 3], upright
        write(frame)
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from lmkd.core.encoded_images import MOST_PIXELS
from lmkd.core.errors import UserError
from lmkd.evaluation.files import whole_path

SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
CODEC = "mp4v"
USUAL_FPS = 25.0


class Info(NamedTuple):
    """What a video says of itself.

    Attributes:
      width, height: of its frames, upright.
      fps: frames a second; `USUAL_FPS` where the file gives none.
      frames: how many it claims to have, 0 where it does not say.
      notes: what a person should know.
    """

    width: int
    height: int
    fps: float
    frames: int
    notes: tuple[str, ...] = ()


def is_video(path: Path) -> bool:
    """Says by the suffix whether a file is a video. Content does not tell: FFmpeg plays text files too."""
    return path.suffix.lower() in SUFFIXES


@contextlib.contextmanager
def reading(path: str | Path) -> Iterator[tuple[Info, Iterator[np.ndarray]]]:
    """Opens a video and gives what it says of itself, and its frames.

    Raises:
      UserError: it cannot be read, has no frame, or frames of more than `core.encoded_images.MOST_PIXELS`.
    """
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        if capture.isOpened():
            claimed = capture.get(cv2.CAP_PROP_FRAME_WIDTH) * capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
            if claimed > MOST_PIXELS:
                raise UserError(f"{path}: frames of {claimed / 1e6:.0f} megapixels, more than {MOST_PIXELS // 1_000_000}")
        first = capture.read()[1] if capture.isOpened() else None
        if first is None:
            raise UserError(f"{path}: cannot be read as a video")
        fps = capture.get(cv2.CAP_PROP_FPS)
        usable = math.isfinite(fps) and 0 < fps <= 1000
        notes = () if usable else (f"the file gives no frame rate: {USUAL_FPS:g} frames a second are assumed",)
        height, width = first.shape[:2]
        frames = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        yield Info(width, height, fps if usable else USUAL_FPS, frames, notes), _frames(capture, first)
    finally:
        capture.release()


def _frames(capture: cv2.VideoCapture, first: np.ndarray) -> Iterator[np.ndarray]:
    frame: np.ndarray | None = first
    while frame is not None:
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        frame = capture.read()[1]


@contextlib.contextmanager
def writing(path: str | Path, fps: float, width: int, height: int) -> Iterator[Callable[[np.ndarray], None]]:
    """Gives a function that takes frames uint8 RGB [H, W, 3]; the video is there, whole, when the block ends well.

    The codec wants even sides: OpenCV leaves out the last column or row of odd ones. There is no sound.

    Raises:
      UserError: OpenCV here cannot write such a video.
    """
    with whole_path(path) as temporary:
        writer = cv2.VideoWriter(str(temporary), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*CODEC), fps, (width, height))
        try:
            if not writer.isOpened():
                raise UserError(f"{path}: OpenCV cannot write {CODEC} video of {width} x {height} pixels at {fps:g} fps here")

            def write(frame: np.ndarray) -> None:
                writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

            yield write
        finally:
            writer.release()
