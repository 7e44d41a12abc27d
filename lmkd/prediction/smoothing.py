"""Points that hold still while a face does: the one-euro filter.

    smoothed = OneEuro().start(points)
    smoothed = OneEuro().next(smoothed, points, seconds=1 / 25, unit_px=face_side_px)
    smoothed.points_px

Reference: G. Casiez, N. Roussel, D. Vogel: 1 EUR filter, a simple speed-based low-pass filter for noisy input in interactive
systems, CHI 2012. A low-pass filter whose cutoff grows with the speed: slow points lose their jitter, fast ones get no lag.
"""

import dataclasses
from typing import NamedTuple

import numpy as np


class Smoothed(NamedTuple):
    """The filter's state, which is also its answer.

    Attributes:
      points_px: float64 [..., 2], filtered.
      velocity: float64 [..., 2], filtered, in units a second.
    """

    points_px: np.ndarray
    velocity: np.ndarray


@dataclasses.dataclass(frozen=True)
class OneEuro:
    """The filter's constants. Two deviations from the paper, both so that one setting serves every picture.

    Lengths are in units that the caller gives (a face's side), not pixels, so that a face filmed larger is filtered alike;
    and the speed is that of a point, the length of its velocity, not of each coordinate, so that directions are alike.

    Attributes:
      cutoff_hz: fc_min, of points at rest: smaller is calmer.
      speed_factor: beta, in Hz a (unit a second): larger follows fast points sooner.
      velocity_cutoff_hz: of the velocity's own low-pass filter, 1 Hz in the paper.
    """

    cutoff_hz: float = 1.0
    speed_factor: float = 30.0
    velocity_cutoff_hz: float = 1.0

    def start(self, points_px: np.ndarray) -> Smoothed:
        """Returns the state at a face's first frame: the points as they are, at rest."""
        points = np.asarray(points_px, np.float64)
        return Smoothed(points, np.zeros_like(points))

    def next(self, before: Smoothed, points_px: np.ndarray, *, seconds: float, unit_px: float) -> Smoothed:
        """Returns the state at the next frame.

        With Te the time since the last frame, every low-pass filter is x_i = a X_i + (1 - a) x_{i-1}, a = 1 / (1 + tau / Te),
        tau = 1 / (2 pi fc); that of the points has fc = fc_min + beta |v|, v the filtered velocity.

        Args:
          before: the state at the last frame.
          points_px: float [..., 2], measured.
          seconds: Te, above 0.
          unit_px: a unit of length, above 0: the side of the face's box.
        """
        points = np.asarray(points_px, np.float64)
        measured = (points - before.points_px) / (unit_px * seconds)
        velocity = before.velocity + _share(self.velocity_cutoff_hz, seconds) * (measured - before.velocity)
        speed = np.linalg.norm(velocity, axis=-1, keepdims=True)
        share = _share(self.cutoff_hz + self.speed_factor * speed, seconds)
        return Smoothed(before.points_px + share * (points - before.points_px), velocity)


def _share(cutoff_hz, seconds: float):
    """a = 1 / (1 + tau / Te) with tau = 1 / (2 pi fc)."""
    return 1 / (1 + 1 / (2 * np.pi * cutoff_hz * seconds))
