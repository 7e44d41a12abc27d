"""The Grain pipeline: records -> faces -> batches, for training (endless) and evaluation (once, padded).

Shuffling and augmentation go by global index; only then are the hosts' shares cut, so a run's data do not depend on how many
hosts share it. Threads, not processes: on few cores a worker process costs seconds to start, and OpenCV releases the GIL.
"""

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import grain
import numpy as np

from lmkd.core import batch as batch_table
from lmkd.core.errors import UserError
from lmkd.data.reading import Record, Records, UnreadableRecord
from lmkd.data.transforms import MakeFace, check_annotation, decode

ON_UNREADABLE = ("error", "skip")


class Unreadable:
    """The keys of records that could not be read, shared by the reading threads: damaged, no image, absurd points."""

    def __init__(self, policy: str):
        self.policy = policy
        self._keys: set[str] = set()
        self._lock = threading.Lock()

    def note(self, error: UnreadableRecord) -> None:
        """Counts a record, or raises where the policy is "error"."""
        if self.policy == "error":
            raise UserError(
                f"{error}. Mend the data set, or set config.data.on_unreadable='skip' to go on without such records."
            ) from error
        with self._lock:
            self._keys.add(error.key)

    def recall(self, keys: Sequence[str]) -> None:
        """Counts the records that an earlier session of the same run could not read."""
        with self._lock:
            self._keys.update(keys)

    def keys(self) -> list[str]:
        """The keys so far, sorted."""
        with self._lock:
            return sorted(self._keys)


def readable(records: Records, unreadable: Unreadable) -> Iterator[Record]:
    """Yields the records that can be read, images still encoded; the others are noted."""
    for index in range(len(records)):
        try:
            yield records[index]
        except UnreadableRecord as error:
            unreadable.note(error)


def training_batches(
    records: Records,
    make_face: MakeFace,
    *,
    batch_size: int,
    seed: int,
    unreadable: Unreadable,
    threads: int = 2,
    prefetch: int = 4,
    keep_mb: float = 0.0,
    host: int = 0,
    hosts: int = 1,
) -> grain.DatasetIterator:
    """Returns an endless, resumable iterator over shuffled, augmented batches: this host's share of each.

    Args:
      batch_size: faces a global batch; `hosts` must divide it.
      seed: orders and augmentations follow from it and the global index alone.
      keep_mb: decoded images, up to so many megabytes of them, stay in memory: later epochs neither read nor decode them.
    """
    cv2.setNumThreads(0)  # parallel over faces, not inside one
    faces = grain.MapDataset.range(len(records)).seed(seed).shuffle().repeat()
    faces = faces.random_map(_TrainingFace(_Decoded(records, unreadable, keep_mb), make_face))
    share = faces[host::hosts].batch(batch_size // hosts, batch_fn=_stack)
    return iter(share.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)))


def evaluation_batches(
    records: Records,
    make_face: MakeFace,
    *,
    batch_size: int,
    unreadable: Unreadable,
    threads: int = 2,
    host: int = 0,
    hosts: int = 1,
) -> Iterator[dict[str, Any]]:
    """Yields every face once, in order, this host's share of each batch; the last batch is padded with mask 0, never dropped.

    Besides the batch table a batch has `key` (list of str) and `counted` u8 [b]: 1 for a record, unreadable ones too (their
    mask is 0), 0 for padding.
    """
    cv2.setNumThreads(0)
    padded = -(-len(records) // batch_size) * batch_size
    faces = grain.MapDataset.range(padded).map(_EvaluationFace(_Decoded(records, unreadable), make_face))
    share = faces[host::hosts].batch(batch_size // hosts, batch_fn=_stack)
    yield from share.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4))


class _Decoded:
    """Index -> the record (without its encoded image) and the image; or the key of one that cannot be read, noted.

    The first images that come, up to `keep_mb` megabytes, are kept. None is thrown out for another: every epoch asks for each
    once, so the ones that are kept are as good as any.
    """

    def __init__(self, records: Records, unreadable: Unreadable, keep_mb: float = 0.0):
        self.records = records
        self._unreadable = unreadable
        self._room = keep_mb * 1e6
        self._kept: dict[int, tuple[Record, np.ndarray]] = {}
        self._lock = threading.Lock()

    def __getitem__(self, index: int) -> tuple[Record, np.ndarray] | str:
        if index in self._kept:
            return self._kept[index]
        try:
            record = self.records[index]
            image = decode(record)
            check_annotation(record, image.shape[1], image.shape[0])
        except UnreadableRecord as error:
            self._unreadable.note(error)
            return error.key
        found = record._replace(image=b""), image
        with self._lock:
            if image.nbytes <= self._room and index not in self._kept:
                self._kept[index] = found
                self._room -= image.nbytes
        return found


class _TrainingFace(grain.transforms.RandomMap):
    """Global index -> augmented face. An unreadable record is replaced by the next valid one."""

    def __init__(self, decoded: _Decoded, make_face: MakeFace):
        self._decoded, self._make = decoded, make_face

    def random_map(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        total = len(self._decoded.records)
        for step in range(total):
            found = self._decoded[(int(index) + step) % total]
            if not isinstance(found, str):
                return self._make(*found, rng)
        raise UserError(f"none of the {total} training records can be read")


class _EvaluationFace(grain.transforms.Map):
    """Global index -> face with its key; beyond the last record, padding."""

    def __init__(self, decoded: _Decoded, make_face: MakeFace):
        self._decoded, self._make = decoded, make_face

    def map(self, index: int) -> dict[str, Any]:
        index, records = int(index), self._decoded.records
        padding = index >= len(records)
        found = "" if padding else self._decoded[index]
        if isinstance(found, str):
            face, key = batch_table.empty_face(self._make.size_px, records.scheme.num_points, len(records.flags)), found
        else:
            face, key = self._make(*found, None), found[0].key
        return face | {"key": key, "counted": np.uint8(not padding)}


def _stack(faces: Sequence[dict[str, Any]]) -> dict[str, Any]:
    stacked = {name: np.stack([face[name] for face in faces]) for name in faces[0] if name != "key"}
    return stacked | ({"key": [face["key"] for face in faces]} if "key" in faces[0] else {})
