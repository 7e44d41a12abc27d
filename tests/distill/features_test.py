"""Terms on feature maps: known values, matches, adapters, grids that differ, and where gradients go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmkd.core.errors import UserError
from lmkd.distill.base import TermInputs, TermVariables
from lmkd.distill.recipe import Recipe, Schedule, WeightedTerm
from lmkd.distill.taps import at_grid
from lmkd.distill.terms.features import FeatureAligned, HintRegression, PatchSimilarity
from lmkd.models.landmarker import Outputs

FACES = 2
TERMS = [HintRegression("deconv1"), FeatureAligned(("deconv1", "deconv2")), PatchSimilarity(("deconv1", "deconv2"))]


def noise(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def inputs_with(student, teacher) -> TermInputs:
    both = [Outputs(None, None, {k: jnp.asarray(v) for k, v in taps.items()}) for taps in (student, teacher)]
    return TermInputs(both[0], {"mask": jnp.ones(FACES)}, None, None, 4.0, jax.random.key(0), {"r50": both[1]})


def maps(seed, channels):
    return {"deconv1": noise(seed, FACES, 2, 3, channels), "deconv2": noise(seed + 1, FACES, 4, 3, channels)}


def with_variables(term, inputs) -> TermInputs:
    return inputs._replace(variables=term.init(jax.random.key(1), inputs)) if hasattr(term, "init") else inputs


def aligned(x, own):
    return x.astype(np.float64) @ np.asarray(own["kernel"], np.float64)[0, 0] + np.asarray(own["bias"], np.float64)


def graph(x):
    x = x.reshape(x.shape[0], -1, x.shape[-1]).astype(np.float64)
    x = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return x @ x.transpose(0, 2, 1)


# --- hints and aligned maps ---


def test_a_hint_is_met_through_a_biased_regressor():
    student, teacher = noise(0, FACES, 2, 3, 2), noise(1, FACES, 2, 3, 5)
    term = HintRegression("stage4", "last", scale=3.0)
    inputs = with_variables(term, inputs_with({"stage4": student}, {"last": teacher}))
    assert jax.tree.map(jnp.shape, inputs.variables.adapter) == {"regressor": {"kernel": (1, 1, 2, 5), "bias": (5,)}}
    own = {"kernel": inputs.variables.adapter["regressor"]["kernel"], "bias": jnp.asarray(noise(2, 5))}
    inputs = inputs._replace(variables=TermVariables(adapter={"regressor": own}))
    expected = 3 * np.square(aligned(student, own) - teacher).mean((1, 2, 3))
    np.testing.assert_allclose(term.loss(inputs).values, expected, rtol=1e-5)


def test_aligned_maps_are_summed_over_taps():
    student, teacher = maps(0, 2), {f"other{n}": x for n, x in enumerate(maps(5, 3).values())}
    term = FeatureAligned(("deconv1", "deconv2"), ("other0", "other1"))
    inputs = with_variables(term, inputs_with(student, teacher))
    assert list(inputs.variables.adapter) == ["deconv1", "deconv2"]
    expected = sum(
        np.square(aligned(student[f"deconv{n + 1}"], inputs.variables.adapter[f"deconv{n + 1}"]) - teacher[f"other{n}"]).mean(
            (1, 2, 3)
        )
        for n in range(2)
    )
    np.testing.assert_allclose(term.loss(inputs).values, expected, rtol=1e-5)


@pytest.mark.parametrize("term", TERMS[:2], ids=lambda t: type(t).__name__)
def test_zero_where_the_regressor_finds_the_teacher(term):
    student = maps(0, 3)
    inputs = with_variables(term, inputs_with(student, {k: 2 * x + 1 for k, x in student.items()}))
    exact = {"kernel": 2 * jnp.eye(3)[None, None], "bias": jnp.ones(3)}
    found = term.loss(inputs._replace(variables=TermVariables(adapter={k: exact for k in inputs.variables.adapter}))).values
    np.testing.assert_allclose(found, 0.0, atol=1e-10)


def test_a_teacher_on_a_finer_grid_is_brought_to_the_student_s():
    student, teacher = noise(0, FACES, 2, 2, 3), noise(1, FACES, 4, 4, 3)
    small = np.asarray(at_grid(jnp.asarray(teacher), (2, 2)))
    for term in (HintRegression("deconv1"), FeatureAligned(("deconv1",)), PatchSimilarity(("deconv1",))):
        fine, coarse = (inputs_with({"deconv1": student}, {"deconv1": t}) for t in (teacher, small))
        variables = with_variables(term, fine).variables
        found, expected = (term.loss(x._replace(variables=variables)).values for x in (fine, coarse))
        np.testing.assert_array_equal(found, expected)


# --- graphs ---


def test_similarity_is_the_mean_squared_difference_of_the_graphs():
    student, teacher = maps(0, 2), maps(5, 4)
    expected = sum(np.square(graph(student[tap]) - graph(teacher[tap])).mean((1, 2)) for tap in student)
    np.testing.assert_allclose(TERMS[2].loss(inputs_with(student, teacher)).values, expected, rtol=1e-4)


def test_two_positions_by_hand():
    # Orthogonal in the student, parallel in the teacher: the graphs differ by 1 at two of four pairs.
    student = np.array([1, 0, 0, 1], np.float32).reshape(1, 1, 2, 2)
    teacher = np.array([1, 1, 2, 2], np.float32).reshape(1, 1, 2, 2)
    found = PatchSimilarity(("a",)).loss(inputs_with({"a": student}, {"a": teacher})).values
    np.testing.assert_allclose(found, 0.5, rtol=1e-5)


def test_similarity_matches_up_to_rotations_and_sizes_of_the_vectors():
    teacher = noise(0, FACES, 3, 3, 4)
    rotation, _ = np.linalg.qr(noise(1, 4, 4))
    sizes = np.abs(noise(2, FACES, 3, 3, 1)) + 0.5
    inputs = inputs_with({"a": (teacher * sizes) @ rotation}, {"a": teacher})
    np.testing.assert_allclose(PatchSimilarity(("a",)).loss(inputs).values, 0.0, atol=1e-5)
    np.testing.assert_allclose(PatchSimilarity(("a",)).loss(inputs_with({"a": teacher}, {"a": teacher})).values, 0.0, atol=1e-7)


def test_empty_positions_have_finite_gradients():
    student = np.maximum(noise(0, FACES, 3, 3, 2), 0)
    student[0] = 0
    inputs = inputs_with({"a": student}, {"a": np.maximum(noise(1, FACES, 3, 3, 2), 0)})

    def total(x):
        return jnp.sum(PatchSimilarity(("a",)).loss(inputs._replace(student=Outputs(None, None, {"a": x}))).values)

    gradient = np.asarray(jax.grad(total)(inputs.student.taps["a"]))
    assert np.isfinite(gradient).all() and np.abs(gradient).max() < 1e3 and np.abs(gradient[1]).max() > 1e-6


# --- all of them ---


@pytest.mark.parametrize("term", TERMS, ids=lambda t: type(t).__name__)
def test_gradients_reach_the_student_and_the_adapters_and_never_the_teacher(term):
    inputs = with_variables(term, inputs_with(maps(0, 2), maps(5, 3)))
    recipe = Recipe((WeightedTerm("only", term, Schedule(1.0), ("r50",)),))

    def total(student, adapter, teacher):
        seen = inputs._replace(student=student, teachers={"r50": teacher})
        own = {"only": TermVariables(adapter=adapter)} if adapter else {}
        return recipe.sums(seen, own, 0, jnp.ones(1))[0].total

    run = jax.jit(jax.grad(total, argnums=(0, 1, 2)))
    of_student, of_adapter, of_teacher = run(inputs.student, inputs.variables.adapter, inputs.teacher)
    used = 1 if isinstance(term, HintRegression) else 2
    assert sum(float(jnp.abs(g).max()) > 1e-6 for g in of_student.taps.values()) == used
    assert all(float(jnp.abs(g).max()) > 1e-6 for g in jax.tree.leaves(of_adapter))
    assert len(jax.tree.leaves(of_adapter)) == (0 if isinstance(term, PatchSimilarity) else 2 * used)
    assert not any(np.asarray(g).any() for g in jax.tree.leaves(of_teacher))


@pytest.mark.parametrize("term", TERMS, ids=lambda t: type(t).__name__)
def test_bfloat16_maps_give_float32_values(term):
    taps = [{k: jnp.asarray(x, jnp.bfloat16) for k, x in maps(s, c).items()} for s, c in ((0, 2), (5, 3))]
    narrow, wide = inputs_with(*taps), inputs_with(*jax.tree.map(lambda x: x.astype(jnp.float32), taps))
    variables = with_variables(term, wide).variables
    found, exact = (term.loss(x._replace(variables=variables)).values for x in (narrow, wide))
    assert found.dtype == jnp.float32 and found.shape == (FACES,)
    np.testing.assert_array_equal(found, exact)


@pytest.mark.parametrize("kind", [FeatureAligned, PatchSimilarity])
def test_taps_that_mean_nothing_are_refused(kind):
    with pytest.raises(UserError, match="taps: needs one at least"):
        kind(())
    with pytest.raises(UserError, match="teacher_taps: 1 names for 2 taps"):
        kind(("a", "b"), ("c",))
    with pytest.raises(UserError, match="taps: a, a names one twice"):
        kind(("a", "a"))
    with pytest.raises(UserError, match="unknown tap 'deconv3' .teacher r50.. Did you mean 'deconv"):
        PatchSimilarity(("deconv1",), ("deconv3",)).loss(inputs_with(maps(0, 2), maps(1, 2)))
