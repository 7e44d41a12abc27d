import jax
import jax.numpy as jnp
import numpy as np

from lmkd.models import layers
from lmkd.models.light import Light

RANDOM = np.random.default_rng(0)


def test_light_against_numpy():
    raw = [RANDOM.normal(size=(1, 8 // 2**i, 8 // 2**i, 2 + i)) for i in range(4)]
    maps = tuple(jnp.asarray(m, jnp.float32) for m in raw)
    head = Light(3, channels=5)
    shapes = jax.eval_shape(lambda: head.init(jax.random.key(0), maps, train=False))
    params = jax.tree.map(lambda p: RANDOM.normal(size=p.shape), shapes["params"])
    assert sum(p.size for p in jax.tree.leaves(params)) == (2 + 3 + 4 + 5) * 5 + 2 * 5 + 5 * 3 + 3

    def enlarged(x):
        matrix = layers.bilinear_matrix(x.shape[1], 8)  # tested against PyTorch's rule where it lives
        return np.einsum("Hh,Ww,bhwc->bHWc", matrix, matrix, x)

    summed = sum(enlarged(x) @ params[f"lateral{n}"]["kernel"][0, 0] for n, x in enumerate(raw, 1))
    features = np.maximum(summed / np.sqrt(1 + 1e-5) * params["bn"]["scale"] + params["bn"]["bias"], 0)
    expected = features @ params["final"]["kernel"][0, 0] + params["final"]["bias"]
    statistics = {"bn": {"mean": np.zeros(5), "var": np.ones(5)}}
    variables = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), {"params": params, "batch_stats": statistics})
    logits, taps = jax.jit(lambda v: head.apply(v, maps, train=False))(variables)
    np.testing.assert_allclose(taps["features"], features, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_heatmaps_are_float32_under_bfloat16():
    head = Light(3, channels=5, dtype=jnp.bfloat16, norm=layers.batch_norm(dtype=jnp.bfloat16))
    maps = tuple(jnp.zeros((1, 8 // 2**i, 8 // 2**i, 2), jnp.bfloat16) for i in range(4))
    (logits, taps), variables = jax.eval_shape(lambda: head.init_with_output(jax.random.key(0), maps, train=True))
    assert logits.shape == (1, 8, 8, 3) and logits.dtype == jnp.float32 and taps["features"].dtype == jnp.bfloat16
    assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
