"""Terms on coordinates: known values, zero at a perfect match, masks, and where gradients go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmkd.core.errors import UserError
from lmkd.distill.base import TermInputs
from lmkd.distill.recipe import Recipe, Schedule, WeightedTerm
from lmkd.distill.terms.coordinates import PointL2, PointSmoothL1, PointWing, TeacherPointL2
from lmkd.models.landmarker import Outputs

SIDE_PX = 32
TRUE_PX = np.array([[[4.0, 8.0], [20.0, 12.0], [31.0, 0.0]], [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]], np.float32)
TERMS = [PointL2(), PointSmoothL1(), PointWing(), TeacherPointL2()]


def inputs_with(student_px, teacher_px=TRUE_PX, counts=None) -> TermInputs:
    counts = np.ones((2, 3), np.float32) if counts is None else np.asarray(counts, np.float32)
    batch = {
        "landmarks_px": jnp.asarray(TRUE_PX),
        "image": jnp.zeros((2, SIDE_PX, SIDE_PX, 3), jnp.uint8),
        "mask": jnp.ones(2),
    }
    student, teacher = (Outputs(None, jnp.asarray(points), {}) for points in (student_px, teacher_px))
    return TermInputs(student, batch, None, jnp.asarray(counts), 4.0, jax.random.key(0), {"resnet": teacher})


@pytest.mark.parametrize("term", TERMS, ids=lambda t: type(t).__name__)
def test_zero_at_a_perfect_match(term):
    np.testing.assert_array_equal(term.loss(inputs_with(TRUE_PX)).values, np.zeros(2))


def test_known_values():
    # 8 px right and 4 px up of 32 px: errors of 1/4 and 1/8 at every point.
    inputs = inputs_with(TRUE_PX + np.array([8.0, -4.0], np.float32))
    np.testing.assert_allclose(PointL2(scale=2.0).loss(inputs).values, 2 * (1 / 16 + 1 / 64), rtol=1e-6)
    np.testing.assert_allclose(TeacherPointL2(scale=2.0).loss(inputs).values, 2 * (1 / 16 + 1 / 64), rtol=1e-6)
    # Beyond 0.2 in x: 1/4 - 0.1; within in y: (1/8)^2 / 0.4.
    found = PointSmoothL1(beta=0.2, scale=3.0).loss(inputs).values
    np.testing.assert_allclose(found, 3 * ((0.25 - 0.1) + 1 / 64 / 0.4) / 2, rtol=1e-6)
    # The paper's own, in pixels of 64: errors of 16 (beyond w = 10) and 8 (within).
    beyond, within = 16 - (10 - 10 * np.log(6)), 10 * np.log(5)
    np.testing.assert_allclose(PointWing(scale=64.0).loss(inputs).values, (beyond + within) / 2, rtol=1e-5)


def test_the_teacher_is_followed_where_it_differs_from_the_truth():
    teacher = TRUE_PX + np.array([3.2, 0.0], np.float32)
    inputs = inputs_with(TRUE_PX, teacher)
    np.testing.assert_allclose(TeacherPointL2().loss(inputs).values, 0.01, rtol=1e-4)
    np.testing.assert_array_equal(PointL2().loss(inputs).values, np.zeros(2))


@pytest.mark.parametrize("term", TERMS, ids=lambda t: type(t).__name__)
def test_only_counted_points_have_a_say(term):
    counts = [[1, 0, 1], [0, 0, 0]]
    near = TRUE_PX + np.float32(1.5)
    far = near.copy()
    far[0, 1] += 9.0
    far[1] -= 7.0
    before, after = (term.loss(inputs_with(p, counts=counts)).values for p in (near, far))
    np.testing.assert_array_equal(before, after)
    assert before[0] > 0 and before[1] == 0
    assert term.loss(inputs_with(far)).values[0] > before[0]


def test_all_points_also_asks_the_teacher_where_nothing_is_labelled():
    inputs = inputs_with(TRUE_PX + np.array([8.0, 0.0], np.float32), counts=np.zeros((2, 3)))
    np.testing.assert_array_equal(TeacherPointL2().loss(inputs).values, np.zeros(2))
    np.testing.assert_allclose(TeacherPointL2(all_points=True).loss(inputs).values, 1 / 16, rtol=1e-6)


@pytest.mark.parametrize("term", TERMS, ids=lambda t: type(t).__name__)
def test_unknown_points_leave_values_and_gradients_finite(term):
    unknown = TRUE_PX.copy()
    unknown[0, 2] = np.nan
    inputs = inputs_with(TRUE_PX + 1.0, unknown, counts=[[1, 1, 0], [1, 1, 1]])
    inputs = inputs._replace(batch={**inputs.batch, "landmarks_px": jnp.asarray(unknown)})

    def total(points):
        return jnp.sum(term.loss(inputs._replace(student=Outputs(None, points, {}))).values)

    gradient = np.asarray(jax.grad(total)(inputs.student.landmarks_px))
    assert np.isfinite(gradient).all() and not gradient[0, 2].any() and (np.abs(gradient[0, :2]) > 1e-6).all()


def test_response_based_distillation_teaches_the_student_and_not_its_teacher():
    parts = [("hard", PointL2(), 1.0, ()), ("soft", TeacherPointL2(), 0.5, ("resnet",))]
    recipe = Recipe(tuple(WeightedTerm(name, term, Schedule(weight), who) for name, term, weight, who in parts))

    def total(student_px, teacher_px):
        return recipe.sums(inputs_with(student_px, teacher_px), {}, 0, jnp.ones(2))[0].total

    student, teacher = jnp.asarray(TRUE_PX + 4.0), jnp.asarray(TRUE_PX - 4.0)
    of_student, of_teacher = jax.grad(total, argnums=(0, 1))(student, teacher)
    # d/dx of ((x - t)^2 + (x - q)^2 / 2) / (3 points * 32^2 px) with x - t = 4, x - q = 8.
    np.testing.assert_allclose(of_student, (2 * 4 + 8) / 3 / 32**2, rtol=1e-5)
    assert not np.asarray(of_teacher).any()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PointSmoothL1(beta=-0.1), "beta: may not be negative, got -0.1"),
        (lambda: PointWing(width=0.0, epsilon=-1.0), "width: needs more than 0, got 0.0\n  - epsilon: needs more than 0"),
    ],
)
def test_options_that_mean_nothing_are_refused(build, message):
    with pytest.raises(UserError, match=message):
        build()
