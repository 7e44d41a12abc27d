"""Terms on the annotated points: known values, zero at a perfect match, masks, and gradients that reach the student."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from lmkd.core.errors import UserError
from lmkd.distill.base import TermInputs
from lmkd.distill.terms import ground_truth
from lmkd.models.landmarker import Outputs
from lmkd.ops import heatmaps, losses

POINTS_PX = np.array([[[13.0, 17.0], [9.5, 21.25]], [[20.0, 6.0], [15.0, 15.0]]], np.float32)
TERMS = [
    ground_truth.HeatmapMSE(),
    ground_truth.AdaptiveWing(),
    ground_truth.PositionCrossEntropy(),
    ground_truth.SoftArgmaxL1(),
    ground_truth.SoftArgmaxWing(width_cells=3.0, epsilon_cells=0.5),
]
ON_LOGITS = TERMS[2:]


def inputs_with(maps, logits=None, counts=None) -> TermInputs:
    targets = heatmaps.encode(jnp.asarray(POINTS_PX), grid=(8, 8), stride=4, sigma_cells=1.0)
    counts = np.ones((2, 2), np.float32) if counts is None else counts
    student = Outputs(maps, None, {"logits": maps if logits is None else logits})
    return TermInputs(student, {"landmarks_px": jnp.asarray(POINTS_PX)}, targets, jnp.asarray(counts), 4.0, jax.random.key(0))


def perfect() -> TermInputs:
    targets = heatmaps.encode(jnp.asarray(POINTS_PX), grid=(8, 8), stride=4, sigma_cells=1.0)
    return inputs_with(targets, logits=jnp.log(jnp.maximum(targets, 1e-30)))


@pytest.mark.parametrize("term", TERMS[:3], ids=lambda t: type(t).__name__)
def test_zero_at_a_perfect_match(term):
    np.testing.assert_allclose(term.loss(perfect()).values, 0.0, atol=2e-5)


def test_soft_argmax_is_zero_where_the_map_is_one_cell_at_the_point():
    logits = np.full((1, 8, 8, 1), -1e9, np.float32)
    logits[0, 5, 2, 0] = 0.0
    inputs = inputs_with(jnp.asarray(logits))._replace(
        batch={"landmarks_px": jnp.array([[[4 * 2.5 - 0.5, 4 * 5.5 - 0.5]]])}, counts=jnp.ones((1, 1))
    )
    for term in ON_LOGITS[1:]:
        np.testing.assert_allclose(term.loss(inputs).values, 0.0, atol=1e-5)
    moved = inputs._replace(batch={"landmarks_px": jnp.array([[[4 * 3.5 - 0.5, 4 * 5.5 - 0.5]]])})
    # One cell off in x alone: smooth L1 is 1 - 0.1 / 2 there, 0 in y.
    np.testing.assert_allclose(ground_truth.SoftArgmaxL1(beta_cells=0.1).loss(moved).values, 0.475, rtol=1e-6)
    np.testing.assert_allclose(ground_truth.SoftArgmaxL1(beta_cells=0).loss(moved).values, 0.5, rtol=1e-6)
    # Wing is 3 ln(1 + 1 / 0.5) in x, 0 in y.
    wing = ground_truth.SoftArgmaxWing(width_cells=3.0, epsilon_cells=0.5)
    np.testing.assert_allclose(wing.loss(moved).values, 1.5 * np.log(3.0), rtol=1e-5)


def test_heatmap_mse_known_value():
    inputs = inputs_with(perfect().targets + 0.5)
    np.testing.assert_allclose(ground_truth.HeatmapMSE(scale=2.0).loss(inputs).values, 0.5, rtol=1e-6)


def test_cross_entropy_of_a_uniform_map_is_the_target_s_lack_of_entropy():
    share = np.asarray(perfect().targets, np.float64)
    share /= share.sum(axis=(1, 2), keepdims=True)
    expected = np.log(64) + (share * np.log(np.maximum(share, 1e-300))).sum(axis=(1, 2))
    inputs = inputs_with(jnp.zeros((2, 8, 8, 2)))
    np.testing.assert_allclose(ground_truth.PositionCrossEntropy().loss(inputs).values, expected.mean(axis=1), rtol=1e-5)


def test_adaptive_wing_agrees_with_the_paper_s_formula():
    y, p = 0.3, 0.55  # within theta
    value = losses.adaptive_wing(
        jnp.full((1, 1, 1, 1), p), jnp.full((1, 1, 1, 1), y), alpha=2.1, omega=14.0, epsilon=1.0, theta=0.5
    )
    assert float(value[0, 0, 0, 0]) == pytest.approx(14 * np.log(1 + 0.25 ** (2.1 - 0.3)), rel=1e-5)
    y, p = 0.1, 0.9  # beyond theta
    a = 14 / (1 + 0.5**2.0) * 2.0 * 0.5**1.0
    c = 0.5 * a - 14 * np.log(1 + 0.5**2.0)
    value = losses.adaptive_wing(
        jnp.full((1, 1, 1, 1), p), jnp.full((1, 1, 1, 1), y), alpha=2.1, omega=14.0, epsilon=1.0, theta=0.5
    )
    assert float(value[0, 0, 0, 0]) == pytest.approx(a * 0.8 - c, rel=1e-5)


@pytest.mark.parametrize("term", TERMS, ids=lambda t: type(t).__name__)
def test_one_value_a_face_and_only_counted_points(term):
    rng = np.random.default_rng(0)
    maps = jnp.asarray(rng.normal(size=(2, 8, 8, 2)).astype(np.float32))
    counts = np.array([[1, 0], [1, 1]], np.float32)
    changed = maps.at[0, :, :, 1].add(3.0 * jnp.asarray(rng.normal(size=(8, 8)), jnp.float32))
    before, after = (term.loss(inputs_with(m, counts=counts)).values for m in (maps, changed))
    assert before.shape == (2,)
    np.testing.assert_array_equal(before, after)
    assert float(term.loss(inputs_with(changed)).values[0]) != pytest.approx(float(before[0]), rel=1e-4)


@pytest.mark.parametrize("term", TERMS, ids=lambda t: type(t).__name__)
def test_gradient_is_finite_and_reaches_the_maps(term):
    maps = jnp.zeros((2, 8, 8, 2))
    gradient = jax.grad(lambda m: jnp.sum(term.loss(inputs_with(m)).values))(maps)
    assert np.isfinite(gradient).all() and float(jnp.abs(gradient).max()) > 1e-6


def test_shapes_that_do_not_match_are_refused():
    # The signature's check speaks first where it is switched on (under pytest), the function's own elsewhere.
    with pytest.raises((ValueError, TypeCheckError), match="one shape|Type-check error"):
        losses.heatmap_mse(jnp.zeros((2, 8, 8, 2)), jnp.zeros((2, 8, 8, 3)), jnp.ones((2, 2)))


@pytest.mark.parametrize("term", ON_LOGITS, ids=lambda t: type(t).__name__)
def test_logits_of_bfloat16_give_float32(term):
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 2)), jnp.bfloat16)
    found, exact = (term.loss(inputs_with(x)).values for x in (logits, logits.astype(jnp.float32)))
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, exact)


@pytest.mark.parametrize("term", ON_LOGITS, ids=lambda t: type(t).__name__)
def test_a_network_without_the_tap_is_refused(term):
    inputs = inputs_with(jnp.zeros((2, 8, 8, 2)))
    inputs = inputs._replace(student=inputs.student._replace(taps={"logit": None}))
    with pytest.raises(UserError, match="unknown tap 'logits' .the student.. Did you mean 'logit'"):
        term.loss(inputs)
