"""Adversarial distillation: objectives by hand from given scores, the penalty, a critic that learns and then teaches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmkd.core.errors import UserError
from lmkd.distill.base import HasCritic, TermInputs, TermVariables
from lmkd.distill.terms.adversarial import Adversarial
from lmkd.models import initialise
from lmkd.models.landmarker import Outputs
from lmkd.ops import adversarial as ops
from lmkd.ops import heatmaps

FACES, GRID, POINTS = 8, 8, 3
SMALL = functools.partial(Adversarial, widths=(4, 8))
SCORES = jnp.array([-2.0, 0.0, 0.5, 3.0])
E = np.array([-2.0, 0.0, 0.5, 3.0])
NO_VARIABLES = TermVariables()
# Compiled whole: op by op, hundreds of small programs would be.
student_loss = jax.jit(lambda term, inputs: term.loss(inputs), static_argnums=0)
critic_loss = jax.jit(lambda term, inputs: term.critic_loss(inputs), static_argnums=0)
BY_HAND = {  # (the critic on real maps, on fake maps, the student)
    "non_saturating": (np.log(1 + np.exp(-E)), np.log(1 + np.exp(E)), np.log(1 + np.exp(-E))),
    "least_squares": ([4.5, 0.5, 0.125, 2.0], [2.0, 0.0, 0.125, 4.5], [4.5, 0.5, 0.125, 2.0]),
    "hinge": ([3.0, 1.0, 0.5, 0.0], [0.0, 1.0, 1.5, 4.0], [2.0, 0.0, -0.5, -3.0]),
    "wasserstein": ([2.0, 0.0, -0.5, -3.0], [-2.0, 0.0, 0.5, 3.0], [2.0, 0.0, -0.5, -3.0]),
}


@functools.cache
def batch_of(seed: int = 0):
    """Sharp peaks near the points for real, lower and wider ones around them for fake: (real, fake) [b, h, w, k]."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(6, 25, size=(FACES, POINTS, 2)).astype(np.float32)
    off = points + rng.normal(size=points.shape).astype(np.float32)
    drawn = functools.partial(heatmaps.encode, grid=(GRID, GRID), stride=4)
    return drawn(jnp.asarray(points), sigma_cells=0.7), 0.6 * drawn(jnp.asarray(off), sigma_cells=1.5)


def inputs_of(real, fake, variables=NO_VARIABLES, *, counts=None, image=None, key=0) -> TermInputs:
    counts = jnp.ones((len(real), POINTS)) if counts is None else jnp.asarray(counts, jnp.float32)
    batch = {"mask": jnp.ones(len(real)), "image": jnp.zeros((len(real), 32, 32, 3), jnp.uint8) if image is None else image}
    student, teacher = Outputs(fake, None, {}), Outputs(real, None, {})
    return TermInputs(student, batch, real, counts, 4.0, jax.random.key(key), {"t": teacher}, variables)


def first(term: Adversarial) -> TermVariables:
    shapes = jax.eval_shape(term.init, jax.random.key(0), inputs_of(*batch_of()))
    return TermVariables(**initialise.drawn(shapes._asdict(), seed=0))


def test_a_face_without_labels_is_judged_where_all_points_are():
    real, fake = batch_of()
    unlabelled = inputs_of(real, fake, first(SMALL()), counts=np.zeros((FACES, POINTS)))
    labelled = unlabelled._replace(counts=jnp.ones((FACES, POINTS)))
    everywhere = student_loss(SMALL(all_points=True), unlabelled).values
    np.testing.assert_array_equal(everywhere, student_loss(SMALL(), labelled).values)
    assert np.ptp(student_loss(SMALL(), unlabelled).values) == 0 < np.ptp(everywhere)  # empty maps are all alike


@pytest.mark.parametrize("name", BY_HAND)
def test_objectives_by_hand(name):
    objective = ops.OBJECTIVES[name]
    found = objective.real(SCORES, 0.0), objective.fake(SCORES), objective.student(SCORES)
    for ours, by_hand in zip(found, BY_HAND[name], strict=True):
        np.testing.assert_allclose(ours, by_hand, rtol=1e-6, atol=1e-6)


def test_large_scores_stay_finite():
    objective = ops.OBJECTIVES["non_saturating"]
    for values in (objective.real(jnp.array([-1e4, 1e4]), 0.1), objective.fake(jnp.array([-1e4, 1e4]))):
        assert np.isfinite(values).all()


def test_label_smoothing_moves_the_optimum_and_nothing_else():
    slope = jax.grad(ops.OBJECTIVES["non_saturating"].real)
    assert float(slope(jnp.log(9.0), 0.1)) == pytest.approx(0.0, abs=1e-6)  # where the sigmoid is 0.9
    assert float(slope(jnp.log(9.0), 0.0)) == pytest.approx(-0.1, rel=1e-5)
    slope = jax.grad(ops.OBJECTIVES["least_squares"].real)
    assert float(slope(0.9, 0.1)) == pytest.approx(0.0, abs=1e-6)
    for name in ("hinge", "wasserstein"):
        np.testing.assert_array_equal(ops.OBJECTIVES[name].real(SCORES, 0.1), ops.OBJECTIVES[name].real(SCORES, 0.0))
        assert not ops.OBJECTIVES[name].smooths


def test_gradient_norm_of_a_linear_critic_is_its_weight_s():
    weight = np.random.default_rng(0).normal(size=(4, 4, 2)).astype(np.float32)
    weight /= np.sqrt((weight**2).sum())
    maps = jnp.asarray(np.random.default_rng(1).normal(size=(3, 4, 4, 2)), jnp.float32)
    steep = jnp.array([1.0, 3.0, 0.0])
    norms = ops.gradient_norms(lambda m: steep * jnp.einsum("bhwk,hwk->b", m, weight), maps)
    np.testing.assert_allclose(norms, [1.0, 3.0, 0.0], rtol=1e-5, atol=2e-6)  # the penalty of the first is 0

    def penalty(factor):
        return jnp.sum(jnp.square(ops.gradient_norms(lambda m: factor * jnp.einsum("bhwk,hwk->b", m, weight), maps) - 1.0))

    # d/df of 3 (f - 1)^2, by hand; at 0 the norm has a corner and the slope must only be finite.
    assert float(jax.grad(penalty)(3.0)) == pytest.approx(12.0, rel=1e-4)
    assert np.isfinite(float(jax.grad(penalty)(0.0)))


def test_interpolates_lie_between_with_a_share_for_each_face():
    real, fake = jnp.full((64, 2, 2, 1), 3.0), jnp.full((64, 2, 2, 1), 1.0)
    found = np.asarray(ops.interpolates(jax.random.key(0), real, fake))
    assert (found.min(axis=(1, 2, 3)) == found.max(axis=(1, 2, 3))).all()
    shares = (found[:, 0, 0, 0] - 1) / 2
    assert shares.min() >= 0 and shares.max() <= 1 and np.unique(shares).size == 64
    assert shares.mean() == pytest.approx(0.5, abs=0.1) and shares.std() == pytest.approx(1 / np.sqrt(12), abs=0.05)


def test_accuracies_by_hand_and_the_midpoint_without_padding():
    real, fake = jnp.array([2.0, -1.0, 4.0, jnp.nan]), jnp.array([0.0, 1.0, -2.0, 9.0])
    middle = ops.midpoint(real, fake, jnp.array([1.0, 1.0, 1.0, 0.0]))
    assert float(middle) == pytest.approx((5 / 3 + -1 / 3) / 2, rel=1e-6)
    found = ops.accuracies(real[:3], fake[:3], middle)
    np.testing.assert_array_equal(found["real_accuracy"], [1, 0, 1])
    np.testing.assert_array_equal(found["fake_accuracy"], [1, 0, 1])


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_what_is_said_of_identical_maps_is_right_on_one_side_only(threshold):
    found = ops.accuracies(SCORES, SCORES, threshold)
    np.testing.assert_array_equal(found["real_accuracy"] + found["fake_accuracy"], 1.0)
    assert 0 < float(found["real_accuracy"].mean()) < 1


def test_feature_distance_by_hand():
    real = (jnp.zeros((2, 2, 2, 1)), jnp.ones((2, 1, 1, 3)))
    fake = (jnp.full((2, 2, 2, 1), -0.5), jnp.array([[1.0, 1.0, 1.0], [1.0, 4.0, 1.0]]).reshape(2, 1, 1, 3))
    np.testing.assert_allclose(ops.feature_distance(real, fake), [0.5, 1.5])


def trained(term: Adversarial, steps: int):
    """Trains a critic by Adam on a few batches: (variables, mean logs of the last step)."""
    optimizer = optax.adam(2e-2, b1=0.5)

    @jax.jit
    def update(variables, opt_state, real, fake, key):
        def loss(critic):
            found = term.critic_loss(inputs_of(real, fake, variables._replace(critic=critic))._replace(key=key))
            return jnp.mean(found.values), found

        grads, found = jax.grad(loss, has_aux=True)(variables.critic)
        updates, opt_state = optimizer.update(grads, opt_state)
        critic = optax.apply_updates(variables.critic, updates)
        state = variables.state if found.state is None else found.state
        return variables._replace(critic=critic, state=state), opt_state, {k: jnp.mean(v) for k, v in found.logs.items()}

    variables = first(term)
    opt_state = optimizer.init(variables.critic)
    faces = [batch_of(n) for n in range(4)]
    for n in range(steps):
        variables, opt_state, logs = update(variables, opt_state, *faces[n % 4], jax.random.key(n))
    return variables, {name: float(value) for name, value in logs.items()}


@pytest.mark.parametrize("name", ops.OBJECTIVES)
def test_a_trained_critic_tells_easy_maps_apart_and_pulls_the_student_towards_the_teacher(name):
    term = SMALL(name)
    variables, logs = trained(term, 60)
    assert logs["real_accuracy"] > 0.9 and logs["fake_accuracy"] > 0.9
    real, fake = batch_of(1000)

    @jax.jit
    def student(maps):
        return jax.value_and_grad(lambda m: jnp.sum(term.loss(inputs_of(real, m, variables)).values))(maps)

    value, gradient = student(fake)
    assert float(jnp.sum(-gradient * (real - fake))) > 0
    moved = fake - 0.05 * gradient / jnp.max(jnp.abs(gradient))
    assert float(student(moved)[0]) < float(value) and float(student(real)[0]) < float(value)
    if name == "wasserstein":
        assert logs["gap"] > 0 and logs["gradient_norm"] == pytest.approx(1.0, abs=0.3)


def test_wasserstein_loss_is_the_gap_and_the_penalty():
    term = SMALL("wasserstein", gradient_penalty=7.0, spectral_norm=False)
    variables = first(term)
    found = critic_loss(term, inputs_of(*batch_of(), variables))
    expected = -found.logs["gap"] + 7.0 * (found.logs["gradient_norm"] - 1.0) ** 2
    np.testing.assert_allclose(found.values, expected, rtol=1e-5)
    again = critic_loss(term, inputs_of(*batch_of(), variables, key=1))
    np.testing.assert_array_equal(found.logs["gap"], again.logs["gap"])
    assert (found.logs["gradient_norm"] != again.logs["gradient_norm"]).any()  # another point on the line
    plain = critic_loss(SMALL("wasserstein", gradient_penalty=0.0), inputs_of(*batch_of(), first(SMALL("wasserstein"))))
    np.testing.assert_allclose(plain.values, -plain.logs["gap"], rtol=1e-6)


def test_state_is_updated_by_the_critic_s_loss_alone():
    term = SMALL()
    variables = first(term)
    inputs = inputs_of(*batch_of(), variables)
    found = critic_loss(term, inputs)
    assert jax.tree.structure(found.state) == jax.tree.structure(variables.state)
    u = "conv_1/kernel/u"
    assert (found.state["norm_conv_1"][u] != variables.state["norm_conv_1"][u]).any()
    assert student_loss(term, inputs).state is None
    without = SMALL(spectral_norm=False)
    assert first(without).state == {}
    assert critic_loss(without, inputs._replace(variables=first(without))).state is None


def test_points_that_do_not_count_are_hidden_from_the_critic():
    term = SMALL("wasserstein", feature_matching=1.0)
    variables = first(term)
    real, fake = batch_of()
    counts = np.ones((FACES, POINTS))
    counts[0, 1] = 0
    before = inputs_of(real, fake, variables, counts=counts)
    after = inputs_of(real.at[0, :, :, 1].set(5.0), fake.at[0, :, :, 1].set(jnp.nan), variables, counts=counts)
    for side in (student_loss, critic_loss):
        np.testing.assert_array_equal(side(term, before).values, side(term, after).values)
    seen = student_loss(term, inputs_of(real, fake.at[0, :, :, 1].set(5.0), variables))
    assert float(seen.values[0]) != float(student_loss(term, before).values[0])
    gradient = jax.grad(lambda m: jnp.sum(student_loss(term, before._replace(student=Outputs(m, None, {}))).values))(fake)
    np.testing.assert_array_equal(gradient[0, :, :, 1], 0.0)
    assert float(jnp.abs(gradient[1, :, :, 1]).max()) > 0


@pytest.mark.parametrize("conditioned", [False, True])
def test_only_a_conditioned_critic_looks_at_the_image(conditioned):
    term = SMALL(conditioned=conditioned)
    variables = first(term)
    black, noise = (jnp.asarray(i, jnp.uint8) for i in (np.zeros((FACES, 32, 32, 3)), _noise()))
    for side in (student_loss, critic_loss):
        values = [side(term, inputs_of(*batch_of(), variables, image=image)).values for image in (black, noise)]
        assert bool((values[0] != values[1]).all()) == conditioned


def _noise():
    return np.random.default_rng(3).integers(0, 256, (FACES, 32, 32, 3))


def test_feature_matching_is_zero_at_the_teacher_s_maps_and_adds_up():
    plain, matching = SMALL(), SMALL(feature_matching=3.0)
    variables = first(plain)
    real, fake = batch_of()
    same = student_loss(matching, inputs_of(real, real, variables))
    np.testing.assert_array_equal(same.logs["feature_distance"], 0.0)
    found = student_loss(matching, inputs_of(real, fake, variables))
    assert float(found.logs["feature_distance"].min()) > 0
    expected = student_loss(plain, inputs_of(real, fake, variables)).values + 3.0 * found.logs["feature_distance"]
    np.testing.assert_allclose(found.values, expected, rtol=1e-6)


def test_it_is_a_term_with_a_critic():
    assert isinstance(Adversarial(), HasCritic) and Adversarial.teachers == "one"
    assert Adversarial(widths=[4, 8]).widths == (4, 8) and hash(Adversarial(widths=[4, 8]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"objective": "hing"}, "Did you mean 'hinge'"),
        ({"objective": "hinge", "label_smoothing": 0.1}, "'hinge' has no labels.*least_squares"),
        ({"label_smoothing": 0.5}, "label_smoothing=0.5"),
        ({"widths": ()}, "widths="),
        ({"widths": (8, 0)}, "widths="),
        ({"feature_matching": -1.0}, "feature_matching=-1.0"),
        ({"map_scale": 0.0}, "map_scale=0.0"),
        ({"objective": "wasserstein", "gradient_penalty": 0.0, "spectral_norm": False}, "nothing bounds the critic"),
        ({"gradient_penalty": -1.0, "feature_matching": -1.0}, "2 problems"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        Adversarial(**options)
