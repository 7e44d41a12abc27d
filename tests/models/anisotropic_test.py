import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmkd.core.errors import UserError
from lmkd.models import layers
from lmkd.models.anisotropic import AnisotropicAttention

RANDOM = np.random.default_rng(0)
EDGES = ((0, 1, 0), (1, 2))  # of four points: point 1 lies on both, point 3 on none
MAPS = (jnp.zeros((2, 16, 16, 1)), jnp.asarray(RANDOM.normal(size=(2, 2, 2, 3)), jnp.float32))


def filled(head, maps):
    """Variables of normal numbers: a head's own first ones give maps that are close to zero."""
    shapes = jax.eval_shape(lambda: head.init(jax.random.key(0), maps, train=False))
    variables = jax.tree.map(lambda p: jnp.asarray(RANDOM.normal(size=p.shape), jnp.float32), shapes)
    return jax.tree.map(jnp.abs, variables) if "batch_stats" in variables else variables


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_hand(x, final):
    branches = x.astype(np.float64) @ np.asarray(final["kernel"], np.float64)[0, 0] + np.asarray(final["bias"])
    heat, edges, points = branches[..., :4], sigmoid(branches[..., 4:6]), sigmoid(branches[..., 6:])
    heat = (heat - heat.mean((1, 2), keepdims=True)) / np.sqrt(heat.var((1, 2), keepdims=True) + 1e-5)
    of_points = np.stack([edges[..., 0], edges[..., 0] + edges[..., 1], edges[..., 1], np.ones(edges.shape[:3])], axis=-1)
    return np.maximum(heat, 0) * of_points * points, edges, points


@pytest.mark.parametrize("enlarge", ["nearest", "none"])
def test_fused_maps_by_hand(enlarge):
    head = AnisotropicAttention(4, EDGES, enlarge)
    # "nearest" enlarges after the convolutions: the published order, before them, gives the same.
    x = np.repeat(np.repeat(np.asarray(MAPS[1]), 8, axis=1), 8, axis=2) if enlarge == "nearest" else MAPS[1]
    maps = MAPS if enlarge == "nearest" else MAPS[1:]
    variables = filled(head, maps)
    fused, taps = jax.jit(lambda v: head.apply(v, maps, train=False))(variables)
    expected, edges, points = by_hand(np.asarray(x), variables["params"]["final"])
    assert fused.dtype == jnp.float32 and fused.shape == expected.shape
    np.testing.assert_allclose(fused, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(taps["edges"], edges, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(taps["point_maps"], points, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(taps["features"], x, rtol=1e-6)
    assert variables["params"]["final"]["kernel"].shape == (1, 1, 3, 4 + 2 + 4)


def test_teacher_s_stages():
    head = AnisotropicAttention(4, EDGES, "deconvolution", channels=5)
    (fused, taps), variables = jax.eval_shape(lambda: head.init_with_output(jax.random.key(0), MAPS, train=True))
    assert fused.shape == (2, 16, 16, 4)
    assert {name: tap.shape for name, tap in taps.items()} == {
        "deconv1": (2, 8, 8, 5),
        "deconv2": (2, 16, 16, 5),
        "edges": (2, 16, 16, 2),
        "point_maps": (2, 16, 16, 4),
        "features": (2, 16, 16, 5),
    }
    sizes = {name: sum(p.size for p in jax.tree.leaves(part)) for name, part in variables["params"].items()}
    assert sizes == {"reduce": 3 * 5 + 5, "deconv1": 36 * 25, "bn1": 10, "deconv2": 16 * 25, "bn2": 10, "final": 5 * 10 + 10}


def test_gradients_are_finite_where_a_map_is_the_same_everywhere():
    head = AnisotropicAttention(4, EDGES, "none")
    maps = (jnp.ones((1, 4, 4, 3)),)
    variables = filled(head, maps)

    def total(params):
        return jnp.sum(jnp.square(head.apply({"params": params}, maps, train=True)[0]))

    assert all(np.isfinite(g).all() for g in jax.tree.leaves(jax.jit(jax.grad(total))(variables["params"])))


def test_maps_are_float32_under_bfloat16():
    norm = layers.batch_norm(dtype=jnp.bfloat16)
    head = AnisotropicAttention(4, EDGES, "deconvolution", dtype=jnp.bfloat16, norm=norm)
    maps = tuple(m.astype(jnp.bfloat16) for m in MAPS)
    (fused, taps), variables = jax.eval_shape(lambda: head.init_with_output(jax.random.key(0), maps, train=True))
    assert fused.dtype == taps["edges"].dtype == taps["point_maps"].dtype == jnp.float32
    assert taps["features"].dtype == jnp.bfloat16
    assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_wrong_options_are_refused_together():
    message = "unknown way to enlarge 'neerest'.*Did you mean 'nearest'(.|\n)*edges.1.: points .4. are outside of 0..3"
    with pytest.raises(UserError, match=message):
        AnisotropicAttention(4, ((0, 1), (2, 4)), "neerest").init(jax.random.key(0), MAPS, train=False)
