"""Draws many faces in order, on several processes where that pays."""

import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import NamedTuple

import cv2
import numpy as np

from lmkd.data_builders.synthetic_faces.render import draw_face

JPEG_QUALITY = 95
_CHUNK = 32  # faces a task
_WORTH_A_POOL = 400  # below this, starting the workers costs more than it saves


class Record(NamedTuple):
    """A face ready to store: `jpeg` bytes, `landmarks98_px` f32 [98, 2], `subset` u8 [6], `rectangle_px` f32 [4]."""

    jpeg: bytes
    landmarks98_px: np.ndarray
    subset: np.ndarray
    rectangle_px: np.ndarray


def draw_records(seed: int, indices: Sequence[int], size_px: int, workers: int | None = None) -> Iterator[Record]:
    """Yields the faces of stream `seed` in the order of `indices`, the same for any number of workers.

    Args:
      seed: the stream.
      indices: which faces of it.
      size_px: side of the pictures.
      workers: processes; None for one a core, 1 for none besides this one.
    """
    workers = workers or _cores()
    if workers == 1 or len(indices) < _WORTH_A_POOL:
        yield from _draw_chunk(seed, indices, size_px)
        return
    done = 0
    chunks = [indices[i : i + _CHUNK] for i in range(0, len(indices), _CHUNK)]
    try:
        # "spawn", because a fork of a process that runs JAX's threads may hang
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
            for chunk in pool.map(_draw_chunk, itertools.repeat(seed), chunks, itertools.repeat(size_px)):
                yield from chunk
                done += len(chunk)
    except BrokenProcessPool:
        # a script without `if __name__ == "__main__"` cannot be imported by its own workers
        yield from _draw_chunk(seed, indices[done:], size_px)


def _draw_chunk(seed: int, indices: Sequence[int], size_px: int) -> list[Record]:
    return [_draw_record(seed, index, size_px) for index in indices]


def _draw_record(seed: int, index: int, size_px: int) -> Record:
    face = draw_face(seed, index, size_px)
    _, jpeg = cv2.imencode(".jpg", face.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return Record(jpeg.tobytes(), face.landmarks98_px, face.subset, face.rectangle_px)


def _one_thread() -> None:
    cv2.setNumThreads(1)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
