"""Scores against hand arithmetic, plain loops and Simpson's rule."""

import json
import math

import numpy as np
import pytest

from lmkd.core import schemes
from lmkd.core.errors import UserError
from lmkd.evaluation import rows, scores


def random_rows(scheme, n=200, seed=3):
    """Faces with missing points, skipped faces and flags; deterministic."""
    generator = np.random.default_rng(seed)
    k = scheme.num_points
    truth = generator.uniform(0, 200, (n, k, 2))
    evaluated = (generator.random(n) > 0.1).astype(np.uint8)
    return rows.FaceRows(
        keys=[f"{i}" for i in range(n)],
        predicted_px=truth + generator.normal(0, 6, truth.shape) * generator.exponential(1, (n, 1, 1)),
        truth_px=truth,
        visible=(generator.random((n, k)) > 0.02).astype(np.float32),
        confidence=np.ones((n, k), np.float32),
        subset=(generator.random((n, 2)) > 0.6).astype(np.uint8),
        evaluated=evaluated,
    )


def loop_nmes(faces, left, right, points, members):
    """One NME after the other, in plain Python: mean over visible points, over the distance of two point means."""
    found = []
    for n in range(len(faces.keys)):
        if not faces.evaluated[n] or not members[n] or any(not faces.visible[n, i] for i in (*left, *right)):
            continue
        ends = [[sum(faces.truth_px[n, i, axis] for i in side) / len(side) for axis in (0, 1)] for side in (left, right)]
        norm = math.dist(*ends)
        errors = [math.dist(faces.predicted_px[n, i], faces.truth_px[n, i]) for i in points if faces.visible[n, i]]
        if errors:
            found.append(sum(errors) / len(errors) / norm)
    return found


def check(summary, expected, thresholds):
    assert summary.faces == len(expected)
    ordered = sorted(expected)
    assert summary.nme_percent == pytest.approx(100 * sum(expected) / len(expected), abs=1e-6)
    for t, failure, auc in zip(thresholds, summary.failure_percent, summary.auc, strict=True):
        assert failure == pytest.approx(100 * sum(e > t for e in expected) / len(expected), abs=1e-6)
        # The CED as steps: between neighbouring errors its height is the share of faces passed so far.
        edges = [0.0, *(e for e in ordered if e < t), t]
        area = sum((b - a) * i / len(ordered) for i, (a, b) in enumerate(zip(edges, edges[1:], strict=False)))
        assert auc == pytest.approx(area / t, abs=1e-6)
    for p, value in ((50, summary.p50_percent), (90, summary.p90_percent), (99, summary.p99_percent)):
        place = p / 100 * (len(ordered) - 1)
        low = ordered[int(place)]
        high = ordered[min(int(place) + 1, len(ordered) - 1)]
        assert value == pytest.approx(100 * (low + (place - int(place)) * (high - low)), abs=1e-6)


@pytest.mark.parametrize("normaliser", ["inter_ocular", "inter_pupil"])
def test_agrees_with_plain_loops(normaliser):
    scheme = schemes.get("300w68")
    faces = random_rows(scheme)
    thresholds = (0.08, 0.10, 0.2)
    found = scores.score(faces, scheme, ("pose", "blur"), normaliser=normaliser, thresholds=thresholds)
    left, right = {"inter_ocular": ((36,), (45,)), "inter_pupil": (range(36, 42), range(42, 48))}[normaliser]
    everyone, every_point = [1] * len(faces.keys), range(68)
    expected = loop_nmes(faces, left, right, every_point, everyone)
    check(found.overall, expected, thresholds)
    for f, flag in enumerate(("pose", "blur")):
        check(found.by_subset[flag], loop_nmes(faces, left, right, every_point, faces.subset[:, f]), thresholds)
    assert set(found.by_group) == {"contour", "brows", "nose", "eyes", "mouth"}
    check(found.by_group["mouth"], loop_nmes(faces, left, right, range(48, 68), everyone), thresholds)
    assert found.evaluated + found.skipped == 200
    assert found.skipped == list(faces.evaluated).count(0)
    assert found.undefined == found.evaluated - len(expected) > 0


def test_summary_by_hand():
    # Five faces: 2, 4, 6, 9 and 12 %.
    found = scores.summarise(np.array([0.02, 0.04, 0.06, 0.09, 0.12, np.nan]), (0.08, 0.10))
    assert found.faces == 5
    assert found.nme_percent == pytest.approx(6.6)
    assert found.failure_percent == pytest.approx((40.0, 20.0))
    # (6 + 4 + 2) / 8 / 5 and (8 + 6 + 4 + 1) / 10 / 5
    assert found.auc == pytest.approx((0.3, 0.38))
    assert found.p50_percent == pytest.approx(6.0)
    assert found.p90_percent == pytest.approx(10.8)  # 0.6 of the way from 9 to 12


def test_a_face_at_the_threshold_is_no_failure():
    assert scores.summarise(np.array([0.08]), (0.08,)).failure_percent == (0.0,)


def test_exact_auc_agrees_with_simpson_on_a_fine_grid():
    nme = np.random.default_rng(0).gamma(4.0, 0.01, 3000)
    for threshold in (0.08, 0.10):
        grid = np.arange(0, round(threshold / 1e-4) + 1) * 1e-4
        ced = np.array([(nme < x).mean() for x in grid])
        weights = np.ones(len(grid))
        weights[1:-1:2], weights[2:-1:2] = 4, 2
        simpson = (weights * ced).sum() * 1e-4 / 3 / threshold
        assert scores.area_under_ced(nme, threshold) == pytest.approx(simpson, abs=1e-4)


def test_target_scheme_takes_its_own_points_and_normaliser():
    wflw, face68 = schemes.get("wflw98"), schemes.get("300w68")
    faces = random_rows(wflw, n=30)
    found = scores.score(faces, wflw, ("a", "b"), normaliser="inter_ocular", target="300w68")
    picked = rows.take_points(faces, wflw.subset_indices("300w68"))
    assert (found.scheme, picked.truth_px.shape[1]) == ("300w68", 68)
    check(found.overall, loop_nmes(picked, (36,), (45,), range(68), [1] * 30), (0.08, 0.10))
    assert face68.default_normaliser == found.normaliser


def test_unknown_normaliser_and_target_say_what_there_is():
    scheme = schemes.get("300w68")
    with pytest.raises(UserError, match="inter_oculr.*Did you mean 'inter_ocular'"):
        scores.score(random_rows(scheme, n=3), scheme, ("a", "b"), normaliser="inter_oculr")
    with pytest.raises(UserError, match="unknown target scheme 'wflw98'"):
        scores.score(random_rows(scheme, n=3), scheme, ("a", "b"), target="wflw98")


def test_no_faces_gives_nan_and_json_null():
    scheme = schemes.get("inner51")
    faces = random_rows(scheme, n=4)._replace(evaluated=np.zeros(4, np.uint8))
    found = scores.score(faces, scheme, ("a", "b"))
    assert (found.evaluated, found.skipped, found.overall.faces) == (0, 4, 0)
    assert math.isnan(found.overall.nme_percent)
    plain = json.loads(scores.scores_to_json(found))
    assert plain["overall"]["nme_percent"] is None
    assert plain["overall"]["auc"] == {"0.08": None, "0.10": None}
    assert plain["interval_percent"] == [None, None]


def test_json_holds_the_numbers():
    scheme = schemes.get("300w68")
    found = scores.score(random_rows(scheme), scheme, ("pose", "blur"))
    plain = json.loads(scores.scores_to_json(found))
    assert plain["overall"]["nme_percent"] == found.overall.nme_percent
    assert plain["by_subset"]["blur"]["failure_percent"]["0.10"] == found.by_subset["blur"].failure_percent[1]
    assert plain["by_group"]["eyes"]["faces"] == found.by_group["eyes"].faces
    assert (plain["scheme"], plain["normaliser"], plain["thresholds"]) == ("300w68", "inter_ocular", [0.08, 0.1])


def test_bootstrap_interval_matches_the_normal_approximation():
    values = np.random.default_rng(1).normal(5.0, 2.0, 400)
    low, high = scores.bootstrap_interval(np.append(values, np.nan), seed=0, samples=2000)
    half = 1.96 * values.std() / math.sqrt(400)
    assert low == pytest.approx(values.mean() - half, abs=0.03)
    assert high == pytest.approx(values.mean() + half, abs=0.03)
    assert scores.bootstrap_interval(values, seed=0) == scores.bootstrap_interval(values, seed=0)
    assert scores.bootstrap_interval(values, seed=0) != scores.bootstrap_interval(values, seed=1)


@pytest.mark.parametrize("threshold, label", [(0.08, "0.08"), (0.1, "0.10"), (0.125, "0.125")])
def test_threshold_labels(threshold, label):
    assert scores.threshold_label(threshold) == label
