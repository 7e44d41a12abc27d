"""Labels beside points: offsets that were put in are found again, in the face's frame and in the picture's."""

import json
import math

import numpy as np
import pytest

from lmkd.core import schemes
from lmkd.evaluation import offsets, report, rows, scores

SCHEME = schemes.get("300w68")


def result_of(truth, predicted, visible=None, scheme=SCHEME):
    n, k = truth.shape[:2]
    visible = np.ones((n, k), np.float32) if visible is None else visible
    found = rows.FaceRows(
        [str(i) for i in range(n)], predicted, truth, visible, np.ones((n, k), np.float32),
        np.zeros((n, 0), np.uint8), np.ones(n, np.uint8),
    )  # fmt: skip
    normaliser = scheme.default_normaliser
    return report.Result(
        "a on b:test", "last", "landmarks", normaliser, scores.score(found, scheme, ()), found, scheme, (), "trained"
    )


def faces(tilts_degrees):
    """Random points around each face's middle, 100 px between the outer eye corners, turned."""
    points = np.random.default_rng(0).normal(size=(len(tilts_degrees), 68, 2)) * 30
    points[:, 36], points[:, 45] = (-50, 0), (50, 0)
    angles = np.radians(tilts_degrees)
    turns = np.stack([np.cos(angles), -np.sin(angles), np.sin(angles), np.cos(angles)], axis=-1).reshape(-1, 2, 2)
    return np.einsum("nij,nkj->nki", turns, points) + 200


def test_an_offset_of_all_faces_is_found_in_both_frames():
    truth = faces([0, 0, 0, 0])
    predicted = truth - (2.0, -1.0)
    predicted[:, 48:] -= (1.0, 0.0)  # the mouth lies another pixel off
    found = offsets.offsets(result_of(truth, predicted))
    assert found.faces == 4
    assert found.groups["eyes"] == pytest.approx((math.hypot(2, 1), math.hypot(2, 1), 2.0, -1.0))
    assert found.groups["mouth"] == pytest.approx((math.hypot(3, 1), math.hypot(3, 1), 3.0, -1.0))
    assert found.groups[offsets.ALL].along == pytest.approx(2 + 20 / 68)
    assert found.right_px == pytest.approx((2 + 20 / 68, 0.0)) and found.down_px == pytest.approx((-1.0, 0.0))
    assert found.with_tilt_px == (0.0, 0.0)


def test_errors_that_differ_from_face_to_face_are_not_systematic():
    truth = faces([0] * 4)
    predicted = truth - np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])[:, None]
    found = offsets.offsets(result_of(truth, predicted))
    assert found.groups[offsets.ALL] == pytest.approx((1.0, 0.0, 0.0, 0.0), abs=1e-12)
    assert found.right_px == pytest.approx((0.0, math.sqrt(2 / 3) / 2))


def test_chance_is_taken_out_of_what_is_systematic():
    rng = np.random.default_rng(1)
    truth = faces([0] * 50)
    found = offsets.offsets(result_of(truth, truth - (1.0, 0.0) + 3 * rng.normal(size=truth.shape)))
    # Each mean over 50 faces of a noise of 3 px along both axes is 3 / sqrt(50) = 0.42 px off along either.
    assert found.groups[offsets.ALL].systematic == pytest.approx(1.0, abs=0.1)
    alone = offsets.offsets(result_of(truth, truth + 3 * rng.normal(size=truth.shape)))
    assert alone.groups[offsets.ALL].systematic < 0.3 < 3 / np.sqrt(50) * np.sqrt(np.pi / 2)  # as long as it would be else


def test_a_group_that_no_face_shows_is_left_out():
    truth = faces([0] * 4)
    visible = np.ones((4, 68), np.float32)
    visible[:, 48:] = 0
    found = offsets.offsets(result_of(truth, truth - (1.0, 0.0), visible))
    assert "mouth" not in found.groups and found.groups[offsets.ALL].systematic == pytest.approx(1.0)


def test_labels_that_lie_low_show_on_tilted_faces():
    tilts = np.array([-20.0, -10, 0, 10, 20])
    truth = faces(tilts)
    # The network expects labels 2 px lower along the face's own upright: (-sin, cos) of the tilt in the picture.
    low = 2 * np.stack([-np.sin(np.radians(tilts)), np.cos(np.radians(tilts))], axis=-1)
    found = offsets.offsets(result_of(truth, truth - (0.0, 2.0) + low[:, None]))
    assert found.with_tilt_px == pytest.approx((2.0, 0.0), abs=1e-9)
    assert found.right_px.value == pytest.approx(0.0, abs=1e-9)


def test_unseen_points_and_faces_without_eye_corners_count_nowhere():
    truth = faces([0] * 5)
    predicted, visible = truth - (1.0, 0.0), np.ones((5, 68), np.float32)
    predicted[0], visible[0, 36] = 1e6, 0
    predicted[1, 60], visible[1, 60] = 1e6, 0
    found = offsets.offsets(result_of(truth, predicted, visible))
    assert found.faces == 4 and found.groups["mouth"] == pytest.approx((1.0, 1.0, 1.0, 0.0))
    visible[:3, 45] = 0
    assert offsets.offsets(result_of(truth, predicted, visible)) is None  # two faces are left


def test_the_table_and_plain_values():
    truth = faces([0, 5, 10])
    found = offsets.offsets(result_of(truth, truth - (1.0, 0.0)))
    assert "| eyes | 1.00 | " in offsets.text(found) and "+1.00 ± 0.00 px to the right" in offsets.text(found)
    plain = json.loads(json.dumps(offsets.to_dict(found)))
    assert plain["faces"] == 3 and plain["right_px"]["value"] == pytest.approx(1.0)


def test_a_scheme_without_eyes_has_none():
    scheme = schemes.from_json('{"points": 4, "flip_pairs": [[0, 1]], "normalisers": {"eyes": [[0], [1]]}}')
    truth = faces([0, 0, 0])[:, :4]
    assert offsets.offsets(result_of(truth, truth, scheme=scheme)) is None
