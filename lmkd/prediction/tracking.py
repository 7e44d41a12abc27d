"""Which face of a frame is which face of the frames before: by the overlap of their boxes, and smoothed if asked.

tracker = Tracker(OneEuro(), patience_s=0.5)
for time_s, found in frames:
    faces = tracker.update(time_s, found.landmarks_px, found.boxes_px)      # (track number, points) of each face
"""

from typing import NamedTuple

import numpy as np

from lmkd.prediction.smoothing import OneEuro, Smoothed

LEAST_OVERLAP = 0.3
"""Intersection over union from which two boxes of neighbouring frames are one face."""


class _Track(NamedTuple):
    number: int
    box_px: np.ndarray
    time_s: float
    smoothed: Smoothed


class Tracker:
    """The faces of one video, frame by frame; one thread, one video.

    Args:
      smoothing: filters each face's points; None leaves them as they are.
      patience_s: a face not seen for longer is a new one when it comes back.
    """

    def __init__(self, smoothing: OneEuro | None = None, *, patience_s: float = 0.5):
        self._smoothing, self._patience_s = smoothing, patience_s
        self._tracks: list[_Track] = []
        self._next = 1

    def update(self, time_s: float, landmarks_px: np.ndarray, boxes_px: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """Takes a frame's faces, returns each one's track number (from 1) and points [K, 2], smoothed if asked.

        Args:
          time_s: of the frame, larger than that of the frame before.
          landmarks_px: [n, K, 2].
          boxes_px: [n, 4].
        """
        kept = [track for track in self._tracks if time_s - track.time_s <= self._patience_s]
        pairs = match(np.array([t.box_px for t in kept]).reshape(-1, 4), boxes_px)
        now = []
        for n, (points, box) in enumerate(zip(landmarks_px, boxes_px, strict=True)):
            if n in pairs:
                now.append(self._continued(kept[pairs[n]], time_s, points, box))
            else:
                now.append(_Track(self._next, box, time_s, OneEuro().start(points)))
                self._next += 1
        unseen = [track for t, track in enumerate(kept) if t not in pairs.values()]
        self._tracks = [*now, *unseen]
        return [(track.number, track.smoothed.points_px) for track in now]

    def _continued(self, track: _Track, time_s: float, points_px: np.ndarray, box_px: np.ndarray) -> _Track:
        if self._smoothing is None:
            return _Track(track.number, box_px, time_s, OneEuro().start(points_px))
        seconds, unit_px = time_s - track.time_s, float((box_px[2:] - box_px[:2]).max())
        return _Track(
            track.number, box_px, time_s, self._smoothing.next(track.smoothed, points_px, seconds=seconds, unit_px=unit_px)
        )


def match(before_px: np.ndarray, now_px: np.ndarray) -> dict[int, int]:
    """Pairs boxes of two frames, the largest overlap first; returns index now -> index before."""
    shares = overlaps(before_px, now_px)
    pairs: dict[int, int] = {}
    for flat in np.argsort(-shares, axis=None, kind="stable"):
        i, j = np.unravel_index(flat, shares.shape)
        if shares[i, j] < LEAST_OVERLAP:
            break
        if int(j) not in pairs and int(i) not in pairs.values():
            pairs[int(j)] = int(i)
    return pairs


def overlaps(a_px: np.ndarray, b_px: np.ndarray) -> np.ndarray:
    """Returns the intersection over union [n, m] of boxes [n, 4] and [m, 4]."""
    a, b = (np.asarray(boxes, np.float64) for boxes in (a_px, b_px))
    lo, hi = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.clip(hi - lo, 0, None).prod(axis=-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=-1) for boxes in (a, b)]
    return common / np.maximum(areas[0][:, None] + areas[1][None, :] - common, 1e-12)
