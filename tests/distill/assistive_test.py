"""The KD-loss: against the published formula written out side by side, its pieces, masks, and where gradients go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmkd.core.errors import UserError
from lmkd.distill.base import TermInputs
from lmkd.distill.recipe import Recipe, Schedule, WeightedTerm
from lmkd.distill.terms.assistive import KDLoss
from lmkd.models.landmarker import Outputs

SIDE_PX, TRUTH_PX = 100, 50.0


def inputs_with(student_px, tough_px, tolerant_px, *, truth_px=TRUTH_PX, counts=1.0, names=("tough", "tolerant")) -> TermInputs:
    """Faces of one point whose both coordinates are alike; the points as numbers or [b]."""

    def points(values):
        values = np.broadcast_to(np.asarray(values, np.float32), np.shape(student_px))
        return jnp.asarray(np.repeat(values.reshape(-1, 1, 1), 2, axis=2))

    n = np.size(student_px)
    batch = {
        "landmarks_px": points(truth_px),
        "image": jnp.zeros((n, SIDE_PX, SIDE_PX, 3), jnp.uint8),
        "mask": jnp.ones(n),
    }
    student, tough, tolerant = (Outputs(None, points(x), {}) for x in (student_px, tough_px, tolerant_px))
    teachers = dict(zip(names, (tough, tolerant), strict=True))
    counts = jnp.full((n, 1), counts, jnp.float32)
    return TermInputs(student, batch, None, counts, 4.0, jax.random.key(0), teachers)


def published(p, t, tough, tolerant):
    """The paper's loss of one coordinate, from its prose: teachers mirrored to the prediction's side, then three regions."""
    side = np.sign(p - t)
    error, limit = abs(p - t), abs(tolerant - t)
    value = 2 * (3 * error if error <= limit else error**2 + 3 * limit - limit**2)
    for q, beyond, between in ((tough, 1.9, -0.45), (tolerant, 1.8, -0.40)):
        mirrored = t + side * abs(q - t)
        from_truth, from_teacher = abs(p - t), abs(p - mirrored)
        reach = abs(mirrored - t)
        if reach > 0 and from_truth > reach:
            value += beyond * from_teacher
        elif 0.15 * reach <= from_truth <= reach:
            value += between * from_teacher
    return value


def test_the_published_formula_in_every_region():
    students = np.array([50, 50.5, 52, 55, 58, 62, 70, 49.5, 47, 44, 40, 20], np.float64)
    for tough, tolerant in ((54.0, 60.0), (46.0, 60.0), (50.0, 42.0), (53.0, 50.0)):
        found = KDLoss().loss(inputs_with(students, tough, tolerant)).values
        expected = [published(*(x / SIDE_PX for x in (p, TRUTH_PX, tough, tolerant))) for p in students]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_the_parts_by_hand():
    # e = 0.05 between the tough teacher's d = 0.04 and the tolerant one's 0.1.
    found = KDLoss().loss(inputs_with(np.array([55.0]), 46.0, 60.0))
    parts = {name: float(value[0]) for name, value in found.logs.items()}
    assert parts == pytest.approx({"main": 2 * 3 * 0.05, "tough": 1.9 * 0.01, "tolerant": -0.40 * 0.05}, rel=1e-5)
    assert float(found.values[0]) == pytest.approx(sum(parts.values()), rel=1e-5)
    own = KDLoss(main_weight=1.0, assist_weights=(0.5, 0.0), pull=(2.0, 1.0), push=(0.0, 0.0), slope=4.0)
    found = own.loss(inputs_with(np.array([55.0]), 46.0, 60.0))
    assert float(found.values[0]) == pytest.approx(4 * 0.05 + 0.5 * 2 * 0.01, rel=1e-5)


def test_zero_at_a_perfect_match():
    found = KDLoss().loss(inputs_with(np.array([50.0, 50.0]), np.array([50.0, 54.0]), np.array([50.0, 40.0]))).values
    np.testing.assert_array_equal(found, [0.0, 0.0])


def test_every_region_pulls_towards_the_truth_and_no_gradient_reaches_a_teacher():
    inputs = inputs_with(np.array([50.5, 52.0, 55.0, 62.0, 38.0, 49.0]), 54.0, 60.0)
    recipe = Recipe((WeightedTerm("kd", KDLoss(), Schedule(1.0), ("tough", "tolerant")),))

    def total(student, teachers):
        return recipe.sums(inputs._replace(student=student, teachers=teachers), {}, 0, jnp.ones(1))[0].total

    of_student, of_teachers = jax.jit(jax.grad(total, argnums=(0, 1)))(inputs.student, inputs.teachers)
    slopes = np.asarray(of_student.landmarks_px[:, 0, 0]) * SIDE_PX * 2  # two axes are averaged
    # Of the main loss 6 (beyond the tolerant teacher 4 e), of the assistive ones 0.45 and 0.40 between, 1.9 and 1.8 beyond.
    expected = [6, 6 + 0.45 + 0.40, 6 + 1.9 + 0.40, 4 * 0.12 + 1.9 + 1.8, -(4 * 0.12 + 1.9 + 1.8), -(6 + 0.45)]
    np.testing.assert_allclose(slopes, expected, rtol=1e-4)
    assert not any(np.asarray(g).any() for g in jax.tree.leaves(of_teachers))


def test_uncounted_points_have_no_say_even_as_nan():
    inputs = inputs_with(np.array([55.0, 70.0]), 54.0, 60.0, truth_px=np.array([50.0, np.nan]))
    inputs = inputs._replace(counts=jnp.array([[1.0], [0.0]]))

    def total(points):
        return jnp.sum(KDLoss().loss(inputs._replace(student=Outputs(None, points, {}))).values)

    value, gradient = jax.value_and_grad(total)(inputs.student.landmarks_px)
    alone = KDLoss().loss(inputs_with(np.array([55.0]), 54.0, 60.0)).values[0]
    np.testing.assert_allclose(value, alone, rtol=1e-6)
    assert np.isfinite(gradient).all() and not np.asarray(gradient[1]).any()


def test_teachers_go_by_order_or_by_name():
    student = np.array([55.0])
    expected = KDLoss().loss(inputs_with(student, 46.0, 60.0)).values
    swapped = inputs_with(student, 60.0, 46.0, names=("soft", "hard"))
    assert float(KDLoss().loss(swapped).values[0]) != pytest.approx(float(expected[0]), rel=1e-3)
    np.testing.assert_array_equal(KDLoss(tough="hard", tolerant="soft").loss(swapped).values, expected)
    with pytest.raises(UserError, match="its teachers are soft, hard; it needs 'hard' and 'tolerant'"):
        KDLoss(tough="hard", tolerant="tolerant").loss(swapped)
    with pytest.raises(UserError, match="its teachers are soft; it needs two: the tough one, then the tolerant one"):
        KDLoss().loss(swapped._replace(teachers={"soft": swapped.teachers["soft"]}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dead_zone": 1.5}, "dead_zone: needs a share from 0 to 1, got 1.5"),
        ({"push": (0.1, -0.1), "pull": (-1.0, 1.0)}, "push: may not be positive(.|\n)*pull: may not be negative"),
        ({"tough": "b3"}, "name both teachers or neither, got 'b3' and ''"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        KDLoss(**options)
