"""Terms on teachers' heatmaps: known values, a perfect match, how several teachers share the say, gates, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmkd.core.errors import UserError
from lmkd.distill.base import TermInputs
from lmkd.distill.terms.response import TeacherHeatmaps, TeacherPositions, TeacherSoftArgmaxL1
from lmkd.models.landmarker import Outputs
from lmkd.ops import heatmaps

POINTS_PX = np.array([[[13.0, 17.0], [9.5, 21.25]], [[20.0, 6.0], [15.0, 15.0]]], np.float32)
TARGETS = np.asarray(heatmaps.encode(jnp.asarray(POINTS_PX), grid=(8, 8), stride=4, sigma_cells=1.0))
TERMS = [TeacherHeatmaps, TeacherPositions]


def outputs(maps, points_px=POINTS_PX, logits=None) -> Outputs:
    logits = maps if logits is None else logits
    return Outputs(jnp.asarray(maps), jnp.asarray(points_px), {"logits": jnp.asarray(logits)})


def inputs_with(student, counts=None, **teachers) -> TermInputs:
    """The student and the teachers are maps or `Outputs`."""
    student, *taught = (x if isinstance(x, Outputs) else outputs(x) for x in (student, *teachers.values()))
    counts = jnp.ones((2, 2)) if counts is None else jnp.asarray(counts, jnp.float32)
    batch = {"landmarks_px": jnp.asarray(POINTS_PX), "mask": jnp.ones(2)}
    return TermInputs(student, batch, TARGETS, counts, 4.0, jax.random.key(0), dict(zip(teachers, taught, strict=True)))


def noise(seed, low=-1.0):
    return np.random.default_rng(seed).uniform(low, 1, (2, 8, 8, 2)).astype(np.float32)


def values(term, inputs):
    return np.asarray(term.loss(inputs).values)


def off_by(pixels):
    """Points moved along x, a distance a face."""
    return POINTS_PX + np.asarray(pixels, np.float32).reshape(2, 1, 1) * np.array([1.0, 0.0], np.float32)


@pytest.mark.parametrize(("distance", "expected"), [("mse", 3 * 0.25), ("l2", 3 * 0.5 * 8)])
def test_distances(distance, expected):
    # Half a unit off in each of 64 cells: squares of 0.25; a Euclidean norm of 0.5 sqrt(64) a point.
    term = TeacherHeatmaps(scale=3.0, distance=distance)
    np.testing.assert_allclose(values(term, inputs_with(TARGETS + 0.5, a=TARGETS)), expected, rtol=1e-6)


@pytest.mark.parametrize("combine", ["fixed", "error", "mean"])
@pytest.mark.parametrize("term", [TeacherHeatmaps(), TeacherHeatmaps(distance="l2"), TeacherPositions(temperature=2.0)])
def test_zero_at_a_perfect_match_and_no_gradient_there(term, combine):
    term = type(term)(**{**term.__dict__, "combine": combine})
    logits = noise(0)
    soft = np.exp(logits) / np.exp(logits).sum((1, 2), keepdims=True) * 2 * np.pi
    student = outputs(soft, logits=logits + 5.0)

    def total(s):
        return jnp.sum(term.loss(inputs_with(s, a=outputs(soft), b=outputs(soft, POINTS_PX + 1))).values)

    value, gradient = jax.jit(jax.value_and_grad(total))(student)
    assert abs(float(value)) < 1e-5
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradient)) < 1e-5


def test_positions_are_kl_between_softened_distributions():
    teacher, logits, t = noise(1), noise(2) * 3, 2.0
    p = np.maximum(teacher, 0.25 * (teacher >= 0.25)).astype(np.float64) * (teacher >= 0.25)
    p = p ** (1 / t) / (p ** (1 / t)).sum((1, 2), keepdims=True)
    q = np.exp(logits.astype(np.float64) / t)
    q /= q.sum((1, 2), keepdims=True)
    expected = t**2 * np.where(p > 0, p * np.log(np.maximum(p, 1e-300) / q), 0).sum((1, 2)).mean(1)
    term = TeacherPositions(temperature=t, floor=0.25)
    np.testing.assert_allclose(values(term, inputs_with(outputs(0 * logits, logits=logits), a=teacher)), expected, rtol=1e-4)


@pytest.mark.parametrize("combine", ["fixed", "mean"])
def test_a_map_with_next_to_nothing_on_it_says_nothing_about_positions(combine):
    faint = TARGETS.copy()
    faint[0, :, :, 1] = 0.01 * noise(1)[0, :, :, 1]  # sums to less than half a cell of a peak; scaled to 1, it would be noise
    term = jax.jit(TeacherPositions(combine=combine).loss)
    logits = noise(0)
    other = np.where([[[True, False]]], logits, 9 * logits)
    one, two = (term(inputs_with(x, a=faint)).values for x in (logits, other))
    assert one[0] == two[0] and one[1] != two[1]
    # Beside a teacher that sees the point, it is as if the faint one were not there.
    beside, alone = (term(inputs_with(logits, a=TARGETS, b=b)).values for b in (faint, TARGETS))
    if combine == "mean":
        np.testing.assert_allclose(beside, alone, rtol=1e-5)


def test_fixed_weights_go_by_the_teachers_order_and_sum_to_1():
    inputs = inputs_with(TARGETS, a=TARGETS + 0.5, b=TARGETS + 1.0)
    np.testing.assert_allclose(values(TeacherHeatmaps(), inputs), (0.25 + 1.0) / 2, rtol=1e-5)
    np.testing.assert_allclose(values(TeacherHeatmaps(weights=(6.0, 2.0)), inputs), 0.75 * 0.25 + 0.25, rtol=1e-5)
    np.testing.assert_allclose(values(TeacherHeatmaps(weights=(0.0, 2.0)), inputs), 1.0, rtol=1e-5)


def test_weights_by_each_teacher_s_own_error_on_each_face():
    # a is 1 px off on both faces; b 3 px on the first and exact on the second.
    inputs = inputs_with(TARGETS, a=outputs(TARGETS + 0.5, off_by([1, 1])), b=outputs(TARGETS + 1.0, off_by([3, 0])))
    found = TeacherHeatmaps(combine="error", temperature_px=2.0).loss(inputs)
    scores = np.exp(-np.array([[1, 1], [3, 0]]) / 2.0)
    weights = scores / scores.sum(0)
    np.testing.assert_allclose(found.values, weights[0] * 0.25 + weights[1] * 1.0, rtol=1e-5)
    np.testing.assert_allclose([found.logs["weight_a"], found.logs["weight_b"]], weights, rtol=1e-5)
    # Only counted points tell how far off a teacher is; a face without any leaves the given weights.
    counts = np.array([[1, 0], [0, 0]])
    moved = off_by([1, 1])
    moved[0, 1] += 100
    inputs = inputs_with(TARGETS, counts, a=outputs(TARGETS, moved), b=outputs(TARGETS, off_by([3, 0])))
    logs = TeacherHeatmaps(combine="error", temperature_px=2.0, weights=(3.0, 1.0)).loss(inputs).logs
    first = np.array([3.0, 1.0]) * np.exp([-0.5, -1.5])
    np.testing.assert_allclose(logs["weight_a"], [first[0] / first.sum(), 0.75], rtol=1e-5)


def test_the_mean_teacher_is_one_target():
    student = inputs_with(TARGETS, a=TARGETS + 0.5, b=TARGETS - 0.5)
    np.testing.assert_allclose(values(TeacherHeatmaps(combine="mean"), student), 0.0, atol=1e-9)
    np.testing.assert_allclose(values(TeacherHeatmaps(combine="fixed"), student), 0.25, rtol=1e-5)
    # Distributions are averaged, whatever each map's scale.
    a, b = noise(0, low=0.1), noise(1, low=0.1)
    p = sum(x.astype(np.float64) / x.sum((1, 2), keepdims=True) for x in (a, b)) / 2
    expected = (np.log(64) + (p * np.log(p)).sum((1, 2))).mean(1)
    found = values(TeacherPositions(combine="mean"), inputs_with(np.zeros((2, 8, 8, 2), np.float32), a=a, b=7 * b))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("combine", ["fixed", "error", "mean"])
@pytest.mark.parametrize("kind", TERMS)
def test_the_order_of_faces_and_of_teachers_changes_nothing(kind, combine):
    term = jax.jit(kind(combine=combine, gate_cells=0.5, min_peak=0.9).loss)
    teachers = {"a": outputs(noise(1, low=0.0), off_by([1, 4])), "b": outputs(noise(2, low=0.0), off_by([3, 0.5]))}
    student = outputs(noise(0))
    inputs = inputs_with(student, **teachers)
    found = term(inputs).values
    assert abs(float(found[0] - found[1])) > 1e-4
    swapped = term(inputs._replace(teachers=dict(reversed(teachers.items())))).values
    np.testing.assert_allclose(swapped, found, rtol=1e-5)
    back = jax.tree.map(lambda x: x[::-1], (student, inputs.teachers, inputs.batch, inputs.counts))
    turned = inputs._replace(student=back[0], teachers=back[1], batch=back[2], counts=back[3])
    np.testing.assert_allclose(term(turned).values, found[::-1], rtol=1e-5)


def test_an_unsure_teacher_is_unheard_and_the_other_points_keep_their_weight():
    teacher = TARGETS + 1.0
    teacher[0, :, :, 1] *= 0.1  # its peak is 0.2 at most
    for combine in ("fixed", "mean"):
        found = TeacherHeatmaps(combine=combine, min_peak=0.5).loss(inputs_with(TARGETS, a=teacher))
        np.testing.assert_allclose(found.values, [0.5, 1.0], rtol=1e-5)
        np.testing.assert_allclose(found.logs["heard"], [0.5, 1.0])


def test_a_wrong_teacher_is_unheard():
    points = POINTS_PX.copy()
    points[0, 0, 0] += 4 * 1.5 + 0.1  # more than 1.5 cells of 4 px
    points[1, 1, 1] += 4 * 1.5 - 0.1
    inputs = inputs_with(TARGETS, a=outputs(TARGETS + 1.0, points))
    np.testing.assert_allclose(values(TeacherHeatmaps(gate_cells=1.5), inputs), [0.5, 1.0], rtol=1e-5)
    # Where the truth is unknown, nothing can be judged: taught with `all_points`, else not counted.
    blind = inputs._replace(counts=jnp.asarray([[0.0, 1.0], [1.0, 1.0]]))
    np.testing.assert_allclose(values(TeacherHeatmaps(gate_cells=1.5, all_points=True), blind), [1.0, 1.0], rtol=1e-5)


def test_the_mean_is_taken_over_the_teachers_that_are_heard():
    inputs = inputs_with(TARGETS, a=outputs(TARGETS + 1.0), b=outputs(TARGETS - 5.0, off_by([50, 0])))
    found = values(TeacherHeatmaps(combine="mean", gate_cells=2.0), inputs)
    np.testing.assert_allclose(found, [1.0, 4.0], rtol=1e-5)  # a alone; (1 - 5) / 2 squared


@pytest.mark.parametrize("combine", ["fixed", "mean"])
@pytest.mark.parametrize("kind", TERMS)
def test_only_counted_points_unless_all_are_asked_for(kind, combine):
    maps, teacher = noise(0), noise(1, low=0.0)
    changed = maps.copy()
    changed[0, :, :, 1] += 3 * noise(3)[0, :, :, 1]
    counts = np.array([[1, 0], [1, 1]])
    term, everywhere = jax.jit(kind(combine=combine).loss), jax.jit(kind(combine=combine, all_points=True).loss)
    before, after = (term(inputs_with(m, counts, a=teacher)).values for m in (maps, changed))
    np.testing.assert_array_equal(before, after)
    seen = everywhere(inputs_with(changed, counts, a=teacher)).values
    np.testing.assert_allclose(seen, term(inputs_with(changed, a=teacher)).values, rtol=1e-6)
    assert abs(float(seen[0] - before[0])) > 1e-4
    nothing = term(inputs_with(maps, 0 * counts, a=teacher)).values
    np.testing.assert_array_equal(nothing, [0.0, 0.0])


@pytest.mark.parametrize("term", [TeacherHeatmaps(), TeacherHeatmaps(distance="l2"), TeacherPositions()], ids=str)
def test_gradients_reach_the_student_and_point_at_the_teacher(term):
    inputs = inputs_with(np.zeros((2, 8, 8, 2), np.float32), a=TARGETS)

    def total(student):
        return jnp.sum(term.loss(inputs._replace(student=student)).values)

    gradient = jax.jit(jax.grad(total))(inputs.student)
    moved = gradient.taps["logits"] if isinstance(term, TeacherPositions) else gradient.heatmaps
    peaks = TARGETS == TARGETS.max((1, 2), keepdims=True)
    assert np.isfinite(moved).all() and (np.asarray(moved)[peaks] < -1e-3).all()


def test_logits_of_bfloat16_give_float32():
    logits = jnp.asarray(noise(0), jnp.bfloat16)
    found, exact = (TeacherPositions().loss(inputs_with(x, a=TARGETS)).values for x in (logits, logits.astype(jnp.float32)))
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, exact)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (TeacherHeatmaps, {"combine": "eror"}, "unknown way to combine teachers 'eror'.* Did you mean 'error'"),
        (TeacherHeatmaps, {"distance": "mae"}, "unknown distance 'mae'.* Allowed: l2, mse"),
        (TeacherHeatmaps, {"weights": (1.0, -1.0)}, "weights: none may be negative"),
        (TeacherHeatmaps, {"weights": (0.0, 0.0)}, "sum must be more than 0"),
        (TeacherHeatmaps, {"temperature_px": 0.0}, "temperature_px: needs more than 0, got 0.0"),
        (
            TeacherPositions,
            {"temperature": -1.0},
            "TeacherPositions cannot be built.*\n.*temperature: needs more than 0, got -1",
        ),
    ],
)
def test_wrong_options_are_refused(kind, options, message):
    with pytest.raises(UserError, match=message):
        kind(**options)


def test_weights_must_be_one_a_teacher():
    with pytest.raises(UserError, match=r"1 weights \(1.0,\) for 2 teachers \(a, b\)"):
        TeacherHeatmaps(weights=(1.0,)).loss(inputs_with(TARGETS, a=TARGETS, b=TARGETS))


def test_a_teacher_s_points_by_hand():
    # One sure cell each: the expected position is its middle. Cells are 4 px: x px lies at (x + 0.5) / 4 - 0.5 cells.
    logits = np.full((2, 8, 8, 2), -1e4, np.float32)
    logits[:, 3, 2] = 0.0  # cell (x 2, y 3) is pixel (9.5, 13.5)
    teacher = outputs(TARGETS, points_px=np.full((2, 2, 2), 13.5, np.float32))
    counts = [[1, 0], [0, 0]]
    inputs = inputs_with(outputs(TARGETS, logits=logits), counts, t=teacher)
    # One cell off along x, none along y; |e| - beta / 2 beyond beta, mean over the axes.
    np.testing.assert_allclose(values(TeacherSoftArgmaxL1(beta_cells=0.1), inputs), [0.475, 0.0], rtol=1e-6)
    np.testing.assert_allclose(values(TeacherSoftArgmaxL1(beta_cells=0.0, all_points=True), inputs), 0.5, rtol=1e-6)
