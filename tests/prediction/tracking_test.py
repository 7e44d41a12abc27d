"""Faces keep their numbers from frame to frame, by overlap."""

import numpy as np

from lmkd.prediction.smoothing import OneEuro
from lmkd.prediction.tracking import Tracker, match, overlaps


def box(x, y, side=100.0):
    return [x, y, x + side, y + side]


def numbers(tracker, time_s, *boxes):
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    return [n for n, _ in tracker.update(time_s, boxes.reshape(-1, 2, 2), boxes)]


def test_overlap_is_intersection_over_union():
    shares = overlaps(np.array([box(0, 0), box(500, 0)]), np.array([box(0, 0), box(50, 0), box(0, 0, 50)]))
    np.testing.assert_allclose(shares, [[1, 1 / 3, 1 / 4], [0, 0, 0]])


def test_the_largest_overlap_is_paired_first():
    # The second box now covers the first track best, though the first box covers it as well.
    assert match(np.array([box(0, 0), box(200, 0)]), np.array([box(30, 0), box(5, 0), box(900, 0)])) == {1: 0}
    assert match(np.zeros((0, 4)), np.array([box(0, 0)])) == {} == match(np.array([box(0, 0)]), np.zeros((0, 4)))


def test_numbers_stay_with_faces_whatever_their_order():
    tracker = Tracker()
    assert numbers(tracker, 0.0, box(0, 0), box(300, 0)) == [1, 2]
    assert numbers(tracker, 0.1, box(310, 0), box(10, 5)) == [2, 1]
    assert numbers(tracker, 0.2, box(320, 0), box(600, 0), box(20, 10)) == [2, 3, 1]


def test_a_face_may_be_missed_for_a_while():
    tracker = Tracker(patience_s=0.5)
    assert numbers(tracker, 0.0, box(0, 0)) == [1]
    assert numbers(tracker, 0.2) == []
    assert numbers(tracker, 0.4, box(10, 0)) == [1]
    assert numbers(tracker, 1.0, box(10, 0)) == [2]  # 0.6 s later: another one


def test_points_are_smoothed_by_track_only_if_asked():
    boxes = np.array([box(0, 0), box(300, 0)])
    points = np.stack([np.full((3, 2), 50.0), np.full((3, 2), 350.0)])
    plain, smooth = Tracker(), Tracker(OneEuro(speed_factor=0.0))
    for tracker in (plain, smooth):
        tracker.update(0.0, points, boxes)
    # The faces change places in the list, and each moves by 10 px.
    moved = {n: p for n, p in plain.update(0.1, points[::-1] + 10, boxes[::-1])}
    calm = {n: p for n, p in smooth.update(0.1, points[::-1] + 10, boxes[::-1])}
    np.testing.assert_array_equal([moved[1][0, 0], moved[2][0, 0]], [60, 360])
    share = 1 / (1 + 1 / (2 * np.pi * 1.0 * 0.1))
    np.testing.assert_allclose([calm[1][0, 0], calm[2][0, 0]], [50 + 10 * share, 350 + 10 * share])
