"""Elementary losses against NumPy in float64, the papers' formulas, and the invariances they claim."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from jaxtyping import TypeCheckError

from lmkd.ops import heatmaps, losses


def maps(seed, shape=(2, 5, 4, 3)):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def softmax(x):
    """Over positions, float64."""
    x = np.asarray(x, np.float64)
    e = np.exp(x - x.max((1, 2), keepdims=True))
    return e / e.sum((1, 2), keepdims=True)


@pytest.mark.parametrize(("error", "expected"), [(0.0, 0.0), (1.0, 10 * np.log(1.5)), (-4.0, 10 * np.log(3.0))])
def test_wing_near_zero_is_the_logarithm(error, expected):
    value = losses.wing(jnp.asarray([error]), width=10.0, epsilon=2.0)
    np.testing.assert_allclose(value, [expected], rtol=1e-6)


def test_wing_far_away_is_the_absolute_value_less_a_constant_and_the_branches_meet():
    constant = 10 - 10 * np.log(6.0)
    ends = losses.wing(jnp.asarray([9.999, 10.001, -25.0]), width=10.0, epsilon=2.0)
    np.testing.assert_allclose(ends, [10 - constant, 10 - constant, 25 - constant], atol=2e-3)


def test_smooth_l1_with_beta_0_is_l1():
    errors = jnp.asarray([-2.0, 0.0, 0.25])
    np.testing.assert_array_equal(losses.smooth_l1(errors, beta=0), [2.0, 0.0, 0.25])
    np.testing.assert_allclose(losses.smooth_l1(errors, beta=0.5), [1.75, 0.0, 0.0625])
    assert np.isfinite(jax.grad(lambda e: jnp.sum(losses.smooth_l1(e, beta=0)))(errors)).all()


def test_soft_argmax_is_the_softmax_s_mean_position_x_first():
    logits = maps(0)
    share = softmax(logits)
    x = (share * np.arange(4)[None, None, :, None]).sum((1, 2))
    y = (share * np.arange(5)[None, :, None, None]).sum((1, 2))
    np.testing.assert_allclose(losses.soft_argmax(logits), np.stack([x, y], -1), rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 4.0])
def test_channel_divergence_is_the_paper_s(temperature):
    student, teacher = maps(0), maps(1)
    p, q = softmax(np.asarray(teacher) / temperature), softmax(np.asarray(student) / temperature)
    expected = temperature**2 * (p * np.log(p / q)).sum((1, 2))
    found = losses.channel_divergence(student, teacher, temperature=temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(-50, 50, width=32), min_size=6, max_size=6), st.sampled_from([0.1, 1.0, 4.0]))
def test_channel_divergence_ignores_what_is_added_to_a_channel(added, temperature):
    of_student, of_teacher = (jnp.asarray(a, jnp.float32).reshape(1, 1, 1, 3) for a in (added[:3], added[3:]))
    plain = losses.channel_divergence(maps(0), maps(1), temperature=temperature)
    moved = losses.channel_divergence(maps(0) + of_student, maps(1) + of_teacher, temperature=temperature)
    np.testing.assert_allclose(moved, plain, rtol=2e-3, atol=1e-4)


def test_channel_divergence_is_zero_and_pulls_nowhere_at_a_match():
    x = maps(0)
    value, gradient = jax.value_and_grad(lambda s: jnp.sum(losses.channel_divergence(s, x, temperature=4.0)))(x + 3.0)
    assert abs(float(value)) < 1e-5
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.3, 4.0])
def test_channel_divergence_s_gradient_is_numerically_right_and_as_stated(temperature):
    student, teacher = maps(0, (1, 3, 3, 2)), maps(1, (1, 3, 3, 2))

    def total(s):
        return jnp.sum(losses.channel_divergence(jnp.asarray(s), teacher, temperature=temperature))

    check_grads(total, (student,), order=1, modes=["rev"], atol=2e-2, rtol=2e-2)
    stated = temperature * (softmax(np.asarray(student) / temperature) - softmax(np.asarray(teacher) / temperature))
    np.testing.assert_allclose(jax.grad(total)(student), stated, atol=1e-5)


@pytest.mark.parametrize(("temperature", "percent"), [(4.0, 1.6), (1.0, 2.2), (0.1, 94.0)])
def test_on_heatmaps_a_temperature_of_1_or_more_is_all_but_uniform(temperature, percent):
    """Sigma 2 on 64 x 64 cells: the share of the softmax on cells above 0.1, and what an empty student is then taught."""
    centre = jnp.asarray([[[4 * 32.5 - 0.5, 4 * 32.5 - 0.5]]])
    target = heatmaps.encode(centre, grid=(64, 64), stride=4, sigma_cells=2.0)
    inside = np.asarray(target[0, :, :, 0]) > 0.1
    share = softmax(np.asarray(target, np.float64) / temperature)[0, :, :, 0]
    assert 100 * share[inside].sum() == pytest.approx(percent, abs=0.5 if percent > 50 else 0.1)

    # The function itself: what pulls an empty map up at the point, T (share - 1 / 4096) summed, follows from that share.
    gradient = jax.grad(lambda s: jnp.sum(losses.channel_divergence(s, target, temperature=temperature)))(0 * target)
    pull = -float(np.asarray(gradient[0, :, :, 0])[inside].sum())
    assert pull == pytest.approx(temperature * (share[inside].sum() - inside.sum() / 4096), rel=1e-3)
    # A heatmap's value for a map without any: next to nothing at T = 4 (nats, without T^2).
    nats = float(losses.channel_divergence(0 * target, target, temperature=temperature)[0, 0]) / temperature**2
    assert nats < 0.003 if temperature >= 1 else nats > 3


def test_position_divergence_is_kl_from_the_scaled_target_and_0_for_an_empty_one():
    logits, target = maps(0), jnp.abs(maps(1)).at[1, :, :, 2].set(0.0)
    p, q = np.asarray(target, np.float64), softmax(logits)
    p = p / np.maximum(p.sum((1, 2), keepdims=True), 1e-300)
    expected = (p * np.log(np.maximum(p, 1e-300) / q)).sum((1, 2))
    np.testing.assert_allclose(losses.position_divergence(logits, target), expected, rtol=1e-4, atol=1e-6)
    assert expected[1, 2] == 0 and expected[0, 2] > 0.1


def test_map_distances():
    a, b = maps(0), maps(1)
    gap = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    np.testing.assert_allclose(losses.map_mse(a, b), (gap**2).mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(losses.map_l2(a, b), np.sqrt((gap**2).sum((1, 2))), rtol=1e-5)


def test_roots_have_no_gradient_at_a_match():
    x = maps(0)
    for distance in (
        losses.map_l2,
        lambda s, t: losses.attention_distance(*(losses.attention_map(m, power=2) for m in (s, t))),
    ):
        np.testing.assert_array_equal(jax.grad(lambda s, d=distance: jnp.sum(d(s, x)))(x), jnp.zeros_like(x))


def test_attention_is_the_paper_s():
    a, b = maps(0), maps(1, (2, 5, 4, 7))
    flat = [(np.abs(np.asarray(x, np.float64)) ** 3).sum(-1).reshape(2, -1) for x in (a, b)]
    unit = [f / np.sqrt((f**2).sum(1, keepdims=True)) for f in flat]
    found = losses.attention_distance(losses.attention_map(a, power=3), losses.attention_map(b, power=3))
    np.testing.assert_allclose(found, np.sqrt(((unit[0] - unit[1]) ** 2).sum(1)), rtol=1e-5)


def test_attention_of_an_empty_map_is_finite():
    empty, other = jnp.zeros((1, 4, 4, 2)), maps(0, (1, 4, 4, 2))

    def value(s):
        return jnp.sum(losses.attention_distance(*(losses.attention_map(x, power=2) for x in (s, other))))

    np.testing.assert_allclose(value(empty), 1.0, rtol=1e-6)  # an empty map stays empty, the other has norm 1
    assert np.isfinite(jax.grad(value)(empty)).all()


@pytest.mark.parametrize("name", ["map_mse", "map_l2", "position_divergence", "attention_distance"])
def test_shapes_that_do_not_match_are_refused(name):
    with pytest.raises((ValueError, TypeCheckError), match="one shape|Type-check error"):
        getattr(losses, name)(jnp.zeros((2, 4, 4, 1)), jnp.zeros((2, 4, 5, 1)))
