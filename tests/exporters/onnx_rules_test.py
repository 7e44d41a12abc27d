"""Every rule of the ONNX exporter against JAX, all of them in one file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from tiny_models import tiny

from lmkd.core.errors import UserError
from lmkd.exporters import onnx as exporter
from lmkd.exporters.graph import Graph

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

SIDE = 8
RANDOM = np.random.default_rng(0)
KERNEL = jnp.asarray(RANDOM.normal(size=(3, 3, 3, 4)), jnp.float32)
DEPTHWISE = jnp.asarray(RANDOM.normal(size=(3, 3, 1, 4)), jnp.float32)
MATRIX = jnp.asarray(RANDOM.normal(size=(4, 5)), jnp.float32)
ROWS = jnp.asarray(RANDOM.normal(size=(16, 4)), jnp.float32)
NUMBERS = ("NHWC", "HWIO", "NHWC")


def sections(crops):
    """Values in the layout that a convolution leaves, through every rule; the batch is free."""
    x = (crops.astype(jnp.float32) - 100) / 50
    x = lax.conv_general_dilated(x, KERNEL, (2, 2), [(1, 1), (1, 0)], dimension_numbers=NUMBERS)  # [b, 4, 4, 4]
    y = lax.conv_general_dilated(
        x, DEPTHWISE, (1, 1), [(2, 2)] * 2, rhs_dilation=(2, 2), dimension_numbers=NUMBERS, feature_group_count=4
    )
    yield jax.nn.relu6(x) + jax.nn.sigmoid(y) * jnp.arange(4.0).reshape(1, 1, 1, 4)
    yield x @ MATRIX
    yield x[:, ::2, ::2] @ MATRIX
    yield jnp.einsum("Hh,bhwc->bHwc", ROWS, x) + jnp.einsum("Ww,bhwc->bhWc", ROWS, y).transpose(0, 2, 1, 3)
    yield jnp.einsum("bhwc,w->bhc", x, jnp.arange(4.0))
    yield jnp.einsum("bhwc,bhvc->bwv", x, y)
    yield lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), [(0, 0), (1, 1), (1, 1), (0, 0)])
    yield jnp.concatenate(
        [x[:, ::2, 1:], jnp.pad(y, ((0, 0), (0, 0), (0, 1), (0, 0)), constant_values=2.0)[:, 1:3, 2:]], axis=3
    )
    yield jnp.stack([x.max(axis=(1, 2)), y.min(axis=(1, 2)), jnp.square(x).sum(axis=(1, 2))], axis=1)
    flat = x.reshape(x.shape[0], 16, 4)
    best = jnp.argmax(flat, axis=1)
    yield jnp.take_along_axis(flat, jnp.stack([best, best // 2, best % 3], axis=1), axis=1)
    yield jnp.take(x, np.array([3, 0, 0]), axis=-1)[..., ::-1] + lax.rev(x, (1,))[..., :1]
    yield jnp.where(x > y, jnp.clip(x, -0.5, 0.5), lax.rsqrt(jnp.abs(y) + 1.0)) * (x != 0) - jnp.where(x >= 0.1, x**3, -x)
    yield jnp.broadcast_to(x.mean(axis=(1, 2))[:, None, :], (x.shape[0], 3, 4)) ** 2.0 + jnp.ones((x.shape[0], 3, 4))
    yield (
        jnp.sign(best).astype(jnp.float32)
        + jnp.floor(flat[:, 0])
        + jnp.minimum(jnp.maximum(flat[:, 1], flat[:, 2]), flat[:, 3])
    )
    yield jnp.concatenate(jnp.split(jnp.concatenate([x, y]), 2)[::-1], axis=1)
    yield jax.nn.softmax(x, axis=(1, 2))


class Sections(Graph):
    """Stands for a graph whose three outputs are all the sections, joined."""

    def run(self, crops, *, grouped=False):
        joined = jnp.concatenate([s.reshape(s.shape[0], -1) for s in sections(crops)], axis=1)
        return dict.fromkeys(exporter.OUTPUTS, joined)


SECTIONS = Sections(tiny(), {}, SIDE, None)


def test_every_rule_gives_what_jax_gives_for_any_batch(tmp_path):
    crops = RANDOM.integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)
    exporter.write(SECTIONS, tmp_path / "x.onnx", "", crops)
    run = exporter.runner(tmp_path / "x.onnx", 1)
    sizes = [int(np.prod(s.shape[1:])) for s in jax.eval_shape(lambda c: list(sections(c)), crops)]
    for count in (1, 3):
        expected = np.asarray(jax.jit(SECTIONS.run)(crops[:count])["heatmaps"])
        parts = (np.split(v, np.cumsum(sizes)[:-1], axis=1) for v in (expected, run(crops[:count]).heatmaps))
        for n, (of_jax, found) in enumerate(zip(*parts, strict=True)):
            np.testing.assert_allclose(found, of_jax, rtol=2e-5, atol=2e-5, err_msg=f"section {n}")


def test_an_operation_without_a_rule_is_named(tmp_path):
    class Sorted(Graph):
        def run(self, crops, *, grouped=False):
            return dict.fromkeys(exporter.OUTPUTS, jnp.sort(crops.astype(jnp.float32), axis=1))

    with pytest.raises(UserError, match="the operation 'sort'"):
        exporter.write(Sorted(*SECTIONS), tmp_path / "x.onnx", "", np.zeros((1, SIDE, SIDE, 3), np.uint8))
    assert not (tmp_path / "x.onnx").exists()
