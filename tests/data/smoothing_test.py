"""Soft landmarks: what a shape model keeps, cuts and leaves alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkd.core.errors import UserError
from lmkd.data import smoothing

# Corners that hold the box, and two points inside that move together to the right and back: one way to differ.
BASE = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5], [0.0, 0.1], [0.0, 0.2]])
WAY = np.zeros((6, 2))
WAY[4:, 0] = np.sqrt(0.5)


def faces(amounts):
    return BASE + np.asarray(amounts)[:, None, None] * WAY


MODEL = smoothing.fit(faces([-0.1, 0.0, 0.1]), share=0.9)


def test_the_model_finds_the_mean_the_way_and_its_deviation():
    np.testing.assert_allclose(MODEL.mean, BASE, atol=1e-12)
    assert MODEL.components.shape == (1, 6, 2)
    np.testing.assert_allclose(np.abs(MODEL.components[0]), WAY, atol=1e-12)
    np.testing.assert_allclose(MODEL.deviations, [0.1], rtol=1e-12)  # (0.01 + 0 + 0.01) / 2


def test_what_the_model_knows_is_kept_and_the_rest_is_smoothed_away():
    np.testing.assert_allclose(MODEL.smooth(faces([0.25])[0]), faces([0.25])[0], atol=1e-12)
    bent = faces([0.1])[0]
    bent[4] += [0.02, 0.05]  # half of the step to the right is in the way of both, the rest is not
    expected = faces([0.1])[0]
    expected[4:, 0] += 0.01
    np.testing.assert_allclose(MODEL.smooth(bent), expected, atol=1e-12)


def test_coefficients_end_at_three_deviations():
    for amount in (0.5, -0.5):
        np.testing.assert_allclose(MODEL.smooth(faces([amount])[0]), faces([np.sign(amount) * 0.3])[0], atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(size=st.floats(0.01, 1000), x=st.floats(-1e4, 1e4), y=st.floats(-1e4, 1e4))
def test_neither_place_nor_size_matters(size, x, y):
    bent = faces([0.1])[0]
    bent[4] += [0.02, 0.05]
    found = MODEL.smooth(bent * size + [x, y])
    np.testing.assert_allclose(found, MODEL.smooth(bent) * size + [x, y], atol=1e-9 * (size + abs(x) + abs(y)))


def test_unknown_points_have_no_say_and_stay_unknown():
    face = 40 * faces([0.2])[0] + [100, 50]
    for missing in ([0], [4], [1, 2]):  # a corner, a moving point, the whole right side
        partly = face.copy()
        partly[missing] = np.nan
        found = MODEL.smooth(partly)
        assert np.isnan(found[missing]).all()
        known = np.setdiff1d(np.arange(6), missing)
        np.testing.assert_allclose(found[known], face[known], atol=1e-9)


def test_too_few_points_stay_as_they_are():
    for face in (np.full((6, 2), np.nan), np.full((6, 2), 3.0)):
        np.testing.assert_array_equal(MODEL.smooth(face), face)
    alone = np.full((6, 2), np.nan)
    alone[2] = [3.0, 4.0]
    found = MODEL.smooth(alone)
    np.testing.assert_array_equal(found, alone)
    assert found is not alone


def test_a_larger_share_keeps_more_ways():
    rng = np.random.default_rng(0)
    points = BASE + rng.normal(size=(40, 6, 2)) * 0.02
    counts = [len(smoothing.fit(points, share=s).components) for s in (0.3, 0.9, 1.0)]
    assert counts[0] < counts[1] < counts[2]
    # Nothing is smoothed away with all of them, unless it is unlikely.
    model = smoothing.fit(points, share=1.0)
    np.testing.assert_allclose(model.smooth(points[0]), points[0], atol=1e-9)
    gram = np.einsum("mkd,nkd->mn", model.components, model.components)
    np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-9)


def test_fitting_leaves_incomplete_faces_out():
    points = np.concatenate([faces([-0.1, 0.0, 0.1]), faces([0.9])])
    points[3, 1] = np.nan
    np.testing.assert_array_equal(smoothing.fit(points).mean, MODEL.mean)


def test_what_cannot_be_fitted_or_smoothed_is_refused():
    points = faces([0.0, 0.1])
    points[0, 0] = np.nan
    with pytest.raises(UserError, match="share: needs more than 0 and at most 1, got 1.5(.|\n)*got 1 of 2"):
        smoothing.fit(points, share=1.5)
    with pytest.raises(UserError, match=r"the shape model has 6 points, got an array \(5, 2\)"):
        MODEL.smooth(np.zeros((5, 2)))
