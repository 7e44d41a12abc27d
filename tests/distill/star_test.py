"""STAR, edge and point maps, fused maps: known values, matches, masks, degenerate maps, and where gradients go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmkd.core.errors import UserError
from lmkd.distill.base import TermInputs
from lmkd.distill.recipe import Recipe, Schedule, WeightedTerm
from lmkd.distill.terms.star import EdgeMaps, FusedMaps, PointMaps, Star
from lmkd.models.landmarker import Outputs
from lmkd.ops import edges, heatmaps

GRID, SIDE_PX = 8, 32
EDGES = ((0, 1), (1, 2))
POINTS_PX = np.array([[[13.0, 17.0], [9.5, 21.25], [20.0, 6.0]], [[15.5, 15.5], [3.0, 9.0], [24.0, 11.0]]], np.float32)
TERMS = [Star(), EdgeMaps(EDGES), PointMaps(), FusedMaps(), FusedMaps("mse")]


def inputs_with(maps=None, *, edge_maps=None, teacher=None, counts=None, points_px=POINTS_PX) -> TermInputs:
    counts = np.ones(points_px.shape[:2]) if counts is None else counts
    counts = jnp.asarray(counts, jnp.float32)
    points_px = jnp.asarray(points_px, jnp.float32)
    targets = heatmaps.encode(points_px, counts, grid=(GRID, GRID), stride=4, sigma_cells=1.0)
    maps = targets if maps is None else jnp.asarray(maps, jnp.float32)
    if edge_maps is None:
        edge_maps = edges.encode(points_px, EDGES, grid=(GRID, GRID), stride=4, sigma_cells=1.0)
    batch = {
        "landmarks_px": points_px,
        "visible": counts,
        "image": jnp.zeros((len(points_px), SIDE_PX, SIDE_PX, 3), jnp.uint8),
        "mask": jnp.ones(len(points_px)),
    }
    student = Outputs(maps, None, {"point_maps": maps, "edges": jnp.asarray(edge_maps)})
    taught = Outputs(targets if teacher is None else jnp.asarray(teacher), None, {})
    return TermInputs(student, batch, targets, counts, 4.0, jax.random.key(0), {"swin": taught})


def on_one_map(cells, point_cells):
    """One point whose map is a few cells (x, y) of equal mass; and the true point, in cells."""
    maps = np.zeros((1, GRID, GRID, 1), np.float32)
    for x, y in cells:
        maps[0, y, x, 0] = 3.0
    points_px = 4 * (np.asarray(point_cells, np.float32).reshape(1, 1, 2) + 0.5) - 0.5
    return inputs_with(maps, points_px=points_px, edge_maps=np.zeros((1, GRID, GRID, 2)))


# --- STAR ---


def test_star_by_hand():
    # Four cells in a row, mean x = 2.5, and the truth one cell right of it and two below: 0.25 and 0.5 in halves of the image.
    inputs = on_one_map([(1, 3), (2, 3), (3, 3), (4, 3)], (3.5, 5.0))
    along = np.mean(np.square(np.array([-1.5, -0.5, 0.5, 1.5]) / 4)) / (1 - 4 / 16)
    epsilon, beta, restriction = 1e-3, 0.4, 2.0
    expected = (0.25**2 / (2 * beta)) / np.sqrt(along + epsilon) + (0.5 - beta / 2) / np.sqrt(epsilon) + restriction * along
    found = Star(restriction=restriction, beta=beta, epsilon=epsilon).loss(inputs)
    np.testing.assert_allclose(found.values, expected, rtol=1e-5)
    np.testing.assert_array_equal(found.logs["empty"], [0.0])


def test_errors_along_the_wide_axis_cost_less():
    cells = [(n, n) for n in range(1, 6)]  # a diagonal contour
    along, across = (Star().loss(on_one_map(cells, p)).values[0] for p in ((4.0, 4.0), (4.0, 2.0)))
    assert 10 * along < across


def test_only_the_restriction_remains_where_the_mean_is_right():
    inputs = on_one_map([(2, 3), (4, 3)], (3.0, 3.0))
    variance = (1 / 4) ** 2 / (1 - 0.5)
    np.testing.assert_allclose(Star().loss(inputs).values, variance, rtol=1e-4)
    np.testing.assert_allclose(Star(restriction=0.0).loss(inputs).values, 0.0, atol=1e-6)
    np.testing.assert_allclose(Star().loss(on_one_map([(3, 3)], (3.0, 3.0))).values, 0.0, atol=1e-6)


def test_an_empty_map_costs_nothing_pulls_at_nothing_and_is_logged():
    maps = np.array(inputs_with().targets)
    maps[0, :, :, 1] = 0.0
    inputs = inputs_with(maps)

    def total(x):
        found = Star().loss(inputs._replace(student=inputs.student._replace(heatmaps=x)))
        return jnp.sum(found.values), found

    gradient, found = jax.jit(jax.grad(total, has_aux=True))(inputs.student.heatmaps)
    np.testing.assert_allclose(found.logs["empty"], [1 / 3, 0.0], rtol=1e-6)
    assert not np.asarray(gradient[0, :, :, 1]).any() and np.asarray(gradient[0, :, :, 0]).any()


# --- edge, point and fused maps ---


@pytest.mark.parametrize("term", TERMS[1:], ids=repr)
def test_zero_at_a_perfect_match(term):
    np.testing.assert_allclose(term.loss(inputs_with()).values, 0.0, atol=2e-5)


@pytest.mark.parametrize("name", ["edges", "points"])
def test_adaptive_wing_on_maps_by_hand(name):
    # Empty maps against drawn ones: 14 ln(1 + y^(2.1 - y)) within 0.5, A y - C beyond, 11 times that near a line.
    inputs = inputs_with(np.zeros((2, GRID, GRID, 3)), edge_maps=np.zeros((2, GRID, GRID, 2)))
    term, drawn = (EdgeMaps(EDGES), inputs_with().student.taps["edges"]) if name == "edges" else (PointMaps(), inputs.targets)
    y = np.asarray(drawn, np.float64)
    a = 14 / (1 + 0.5 ** (2.1 - y)) * (2.1 - y) * 0.5 ** (1.1 - y)
    c = 0.5 * a - 14 * np.log(1 + 0.5 ** (2.1 - y))
    values = np.where(y < 0.5, 14 * np.log(1 + y ** (2.1 - y)), a * y - c)
    padded = np.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0)))
    near = np.max([padded[:, i : i + GRID, j : j + GRID] for i in range(3) for j in range(3)], axis=0) >= 0.2
    np.testing.assert_allclose(term.loss(inputs).values, (values * (1 + 10 * near)).mean((1, 2, 3)), rtol=1e-4, atol=1e-4)


def test_an_edge_counts_where_all_of_its_points_are_known():
    counts = np.array([[0, 1, 1], [1, 0, 1]])
    wrong = np.zeros((2, GRID, GRID, 2), np.float32)
    found = EdgeMaps(EDGES).loss(inputs_with(edge_maps=wrong, counts=counts)).values
    alone = EdgeMaps(EDGES[1:]).loss(inputs_with(edge_maps=wrong[..., :1])).values
    np.testing.assert_allclose(found, [alone[0], 0.0], rtol=1e-5)


def test_edges_of_points_outside_of_the_crop_are_drawn():
    outside = POINTS_PX.copy()
    outside[0, 0] = [-20.0, 17.0]
    inputs = inputs_with(edge_maps=np.zeros((2, GRID, GRID, 2)), points_px=outside)
    inputs = inputs._replace(counts=inputs.counts.at[0, 0].set(0.0))
    assert (
        float(
            EdgeMaps(EDGES[:1]).loss(inputs._replace(student=Outputs(None, None, {"edges": jnp.zeros((2, 8, 8, 1))}))).values[0]
        )
        > 0.1
    )


def test_fused_maps_by_hand():
    inputs = inputs_with(inputs_with().targets + 0.5, counts=[[1, 1, 0], [0, 0, 0]], teacher=inputs_with().targets)
    inputs = inputs._replace(
        student=inputs.student._replace(heatmaps=inputs.teacher.heatmaps + jnp.array([0.5, 0.25, 9.0])[None, None, None])
    )
    np.testing.assert_allclose(FusedMaps("mse").loss(inputs).values, [(0.25 + 0.0625) / 2, 0.0], rtol=1e-4)
    np.testing.assert_allclose(FusedMaps("l2").loss(inputs).values, [8 * 0.75 / 2, 0.0], rtol=1e-4)
    np.testing.assert_allclose(FusedMaps("l2", all_points=True).loss(inputs).values, 8 * 9.75 / 3, rtol=1e-4)


# --- all of them ---


@pytest.mark.parametrize("term", TERMS, ids=repr)
@pytest.mark.parametrize("kind", ["noise", "empty", "one cell", "flat"])
def test_gradients_are_finite_and_never_the_teacher_s(term, kind):
    shape = (2, GRID, GRID, 3)
    maps = {
        "noise": np.abs(np.random.default_rng(0).normal(size=shape)),
        "empty": np.zeros(shape),
        "one cell": np.eye(GRID * GRID)[19].reshape(1, GRID, GRID, 1) * np.ones(shape),
        "flat": np.ones(shape),
    }[kind]
    inputs = inputs_with(maps, edge_maps=maps[..., :2])
    teachers = () if term.teachers == "none" else ("swin",)
    recipe = Recipe((WeightedTerm("only", term, Schedule(1.0), teachers),))

    def total(student, teacher):
        seen = inputs._replace(student=student, teachers={"swin": teacher})
        return recipe.sums(seen, {}, 0, jnp.ones(1))[0].total

    of_student, of_teacher = jax.jit(jax.grad(total, argnums=(0, 1)))(inputs.student, inputs.teacher)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(of_student))
    assert not any(np.asarray(g).any() for g in jax.tree.leaves(of_teacher))
    if (kind, type(term)) != ("empty", Star):
        assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(of_student)) > 1e-6


@pytest.mark.parametrize("term", TERMS, ids=repr)
def test_only_counted_points_have_a_say(term):
    counts = np.array([[1, 1, 0], [1, 1, 1]])
    maps = np.abs(np.random.default_rng(0).normal(size=(2, GRID, GRID, 3))).astype(np.float32)
    other = maps.copy()
    other[0, :, :, 2] = 5.0
    other_edges = maps[..., :2].copy()
    other_edges[0, :, :, 1] = 0.9
    before = term.loss(inputs_with(maps, edge_maps=maps[..., :2], counts=counts)).values
    after = term.loss(inputs_with(other, edge_maps=other_edges, counts=counts)).values
    assert before.shape == (2,) and before.dtype == jnp.float32
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Star(epsilon=0.0, beta=-1.0), "epsilon: needs more than 0, got 0.0\n  - beta: may not be negative"),
        (lambda: EdgeMaps((), sigma_cells=0.0), "edges: needs one at least(.|\n)*sigma_cells: needs more than 0"),
        (
            lambda: EdgeMaps(((0, 5),)).loss(inputs_with()),
            "does not fit the landmark scheme.*\n.*points .5. are outside of 0..2",
        ),
        (lambda: FusedMaps("mae"), "unknown kind of distance 'mae'.*Did you mean 'mse'"),
    ],
)
def test_options_that_mean_nothing_are_refused(build, message):
    with pytest.raises(UserError, match=message):
        build()
