import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmkd.core.errors import UserError
from lmkd.models import layers
from lmkd.models.deconvolution import Deconvolutions, TransposedConv

RANDOM = np.random.default_rng(0)
MAPS = tuple(jnp.asarray(RANDOM.normal(size=(2, 16 // 2**i, 16 // 2**i, 2 + i)), jnp.float32) for i in range(4))


def transposed(x, kernel, stride, padding):
    """PyTorch's ConvTranspose2d by its definition: every input cell adds its kernel to the output, then the border is cut."""
    b, h, w, _ = x.shape
    size = kernel.shape[0]
    out = np.zeros((b, (h - 1) * stride + size, (w - 1) * stride + size, kernel.shape[3]))
    for i in range(h):
        for j in range(w):
            part = np.einsum("bc,uvcd->buvd", x[:, i, j], kernel)
            out[:, i * stride : i * stride + size, j * stride : j * stride + size] += part
    return out[:, padding : out.shape[1] - padding, padding : out.shape[2] - padding]


@pytest.mark.parametrize(("size", "stride", "padding"), [(4, 2, 1), (2, 2, 0), (6, 4, 1), (3, 1, 1), (6, 2, 2)])
def test_transposed_convolution_is_pytorch_s(size, stride, padding):
    x, kernel = RANDOM.normal(size=(2, 3, 5, 3)), RANDOM.normal(size=(size, size, 3, 2))
    variables = {"params": {"kernel": jnp.asarray(kernel, jnp.float32)}}
    found = jax.jit(TransposedConv(2, size, stride).apply)(variables, jnp.asarray(x, jnp.float32))
    assert found.shape == (2, 3 * stride, 5 * stride, 2)
    np.testing.assert_allclose(found, transposed(x, kernel, stride, padding), rtol=1e-4, atol=1e-5)


def test_a_single_cell_draws_the_kernel():
    kernel = jnp.arange(16.0).reshape(4, 4, 1, 1)
    x = jnp.zeros((1, 3, 3, 1)).at[0, 1, 1, 0].set(1.0)
    found = TransposedConv(1).apply({"params": {"kernel": kernel}}, x)
    # Stride 2 with padding 1: cell (1, 1) begins at output (1, 1).
    expected = np.zeros((6, 6))
    expected[1:5, 1:5] = np.arange(16).reshape(4, 4)
    np.testing.assert_array_equal(found[0, :, :, 0], expected)


@pytest.mark.parametrize(("size", "stride"), [(3, 2), (5, 4), (1, 2)])
def test_kernels_that_would_miss_the_size_are_refused(size, stride):
    with pytest.raises(UserError, match=f"kernel of {size} at stride {stride} cannot.*Give a kernel of {stride}, {stride + 2}"):
        TransposedConv(1, size, stride).init(jax.random.key(0), jnp.zeros((1, 2, 2, 1)))


@pytest.mark.parametrize("kernel", [4, 2])
def test_head_shapes(kernel):
    head = Deconvolutions(5, channels=6, kernel=kernel)
    run = functools.partial(head.init_with_output, jax.random.key(0), train=False)
    (logits, taps), variables = jax.eval_shape(run, MAPS)
    assert logits.shape == (2, 16, 16, 5)
    assert {name: tap.shape for name, tap in taps.items()} == {
        "deconv1": (2, 4, 4, 6),
        "deconv2": (2, 8, 8, 6),
        "deconv3": (2, 16, 16, 6),
        "features": (2, 16, 16, 6),
    }
    # Three kernels and batch norms, and the last layer with its bias.
    expected = kernel**2 * (5 * 6 + 6 * 6 + 6 * 6) + 3 * 2 * 6 + 6 * 5 + 5
    assert sum(np.prod(p.shape) for p in jax.tree.leaves(variables["params"])) == expected


def test_head_against_numpy():
    head = Deconvolutions(2, channels=3)
    lowest = RANDOM.normal(size=(1, 2, 2, 4))
    maps = (jnp.zeros((1, 16, 16, 1)), jnp.asarray(lowest, jnp.float32))
    shapes = jax.eval_shape(lambda: head.init(jax.random.key(0), maps, train=False))
    params = jax.tree.map(lambda p: RANDOM.normal(size=p.shape), shapes["params"])
    statistics = jax.tree.map(lambda p: np.abs(RANDOM.normal(size=p.shape)) + 0.5, shapes["batch_stats"])
    x = lowest
    for n in (1, 2, 3):
        x = transposed(x, params[f"deconv{n}"]["kernel"], 2, 1)
        mean, var = statistics[f"bn{n}"]["mean"], statistics[f"bn{n}"]["var"]
        x = np.maximum((x - mean) / np.sqrt(var + 1e-5) * params[f"bn{n}"]["scale"] + params[f"bn{n}"]["bias"], 0)
    expected = x @ params["final"]["kernel"][0, 0] + params["final"]["bias"]
    variables = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), {"params": params, "batch_stats": statistics})
    logits, taps = jax.jit(lambda v: head.apply(v, maps, train=False))(variables)
    np.testing.assert_allclose(taps["deconv3"], x, rtol=1e-3, atol=1e-3 * np.abs(x).max())
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_heatmaps_are_float32_under_bfloat16():
    head = Deconvolutions(5, channels=6, dtype=jnp.bfloat16, norm=layers.batch_norm(dtype=jnp.bfloat16))
    maps = tuple(jnp.asarray(m, jnp.bfloat16) for m in MAPS)
    (logits, taps), variables = jax.eval_shape(lambda: head.init_with_output(jax.random.key(0), maps, train=True))
    assert logits.dtype == jnp.float32 and taps["features"].dtype == jnp.bfloat16
    assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
