"""The one-euro filter against the paper's equations written out, and what it is for: calm at rest, quick in motion."""

import numpy as np
import pytest

from lmkd.prediction.smoothing import OneEuro

SECONDS = 1 / 25


def run(points, unit_px=100.0, **constants):
    """Filters points [frames, ..., 2]."""
    euro = OneEuro(**constants)
    states = [euro.start(points[0])]
    for point in points[1:]:
        states.append(euro.next(states[-1], point, seconds=SECONDS, unit_px=unit_px))
    return np.stack([s.points_px for s in states])


def test_one_point_by_the_papers_equations():
    # On one axis, in pixels (unit 1), the filter is the paper's own: written out for three frames.
    def alpha(cutoff):
        return 1 / (1 + (1 / (2 * np.pi * cutoff)) / SECONDS)

    measured, expected, dx, x = [10.0, 12.0, 11.0], [10.0], 0.0, 10.0
    for value in measured[1:]:
        # The raw derivative is taken to the last filtered value, as in the authors' published code.
        dx = alpha(1.0) * ((value - x) / SECONDS) + (1 - alpha(1.0)) * dx
        a = alpha(0.5 + 0.02 * abs(dx))
        x = a * value + (1 - a) * x
        expected.append(x)
    points = np.stack([measured, np.zeros(3)], axis=-1)
    found = run(points, unit_px=1.0, cutoff_hz=0.5, speed_factor=0.02)
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-12)
    assert (found[:, 1] == 0).all()


def test_a_point_at_rest_is_calmer_and_a_moving_one_keeps_up():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.5, (100, 68, 2))
    still = run(50 + noise)
    assert still[25:].std(axis=0).mean() < 0.5 * noise[25:].std(axis=0).mean()
    # One face side a second: 4 px a frame on a face of 100 px. A fixed cutoff of 1 Hz would lag by 1 / (2 pi) s: 16 px.
    way = np.arange(100)[:, None, None] * np.array([4.0, 0.0]) + noise
    lag = (way - run(way))[50:, :, 0].mean()
    assert 0 <= lag < 2.0
    assert (way - run(way, speed_factor=0.0))[50:, :, 0].mean() == pytest.approx(16, abs=2.5)


def test_a_face_filmed_twice_as_large_is_filtered_alike():
    points = np.random.default_rng(1).normal(0, 3, (10, 5, 2)).cumsum(axis=0)
    np.testing.assert_allclose(run(2 * points, unit_px=200.0), 2 * run(points, unit_px=100.0), rtol=1e-12)


def test_directions_are_alike():
    points = np.random.default_rng(2).normal(0, 3, (10, 5, 2)).cumsum(axis=0)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    np.testing.assert_allclose(run(points @ turn), run(points) @ turn, rtol=1e-9)
