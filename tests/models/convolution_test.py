"""Convolution against JAX's own: values, both gradients, second derivatives, on either kind of machine."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmkd.models import convolution
from lmkd.models.convolution import convolve

CASES = [(1, 1, 6), (1, 2, 7), (3, 1, 5), (3, 2, 6), (3, 2, 7), (5, 2, 8), (7, 2, 9)]  # kernel's side, stride, maps' side


def drawn(size, side, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((2, side, side + 2, 3)), rng.standard_normal((size, size, 3, 4))
    return jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)


def reference(x, kernel, stride, output_dtype=None):
    padding = [(kernel.shape[0] // 2,) * 2] * 2
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), preferred_element_type=output_dtype
    )


def with_gradients(function, x, kernel):
    y, pull = jax.vjp(function, x, kernel)
    weights = np.random.default_rng(1).standard_normal(y.shape)
    return y, *pull(jnp.asarray(weights, y.dtype))


@pytest.mark.parametrize(("size", "stride", "side"), CASES)
def test_values_and_gradients_are_jax_s(size, stride, side):
    x, kernel = drawn(size, side)
    ours = jax.jit(lambda x, k: with_gradients(lambda x, k: convolve(x, k, stride), x, k))(x, kernel)
    theirs = jax.jit(lambda x, k: with_gradients(lambda x, k: reference(x, k, stride), x, k))(x, kernel)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, atol=3e-5)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("output_dtype", [None, jnp.float32])
def test_bfloat16_keeps_its_types(size, output_dtype):
    x, kernel = drawn(size, 6, jnp.bfloat16)
    y, dx, dkernel = with_gradients(lambda x, k: convolve(x, k, 1, output_dtype), x, kernel)
    assert (y.dtype, dx.dtype, dkernel.dtype) == (output_dtype or jnp.bfloat16, jnp.bfloat16, jnp.bfloat16)
    wide = with_gradients(lambda x, k: reference(x, k, 1), *(a.astype(jnp.float32) for a in (x, kernel)))
    for a, b in zip((y, dx, dkernel), wide, strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float32), b, atol=0.02 * np.abs(b).max())


def test_second_derivatives_are_jax_s():
    def penalty(function, x, kernel):
        """The squared gradients of a cube's sum: what a gradient penalty differentiates."""
        gradients = jax.grad(lambda x, k: jnp.sum(function(x, k, 2) ** 3), argnums=(0, 1))(x, kernel)
        return sum(jnp.sum(g**2) for g in gradients)

    gradients_of = jax.jit(jax.grad(penalty, argnums=(1, 2)), static_argnums=0)
    ours, theirs = (gradients_of(function, *drawn(3, 5)) for function in (convolve, reference))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_get_jax_s_own_gradient(size, platform):
    x, kernel = drawn(size, 6)
    traced = jax.jit(lambda x, k: with_gradients(convolve, x, k)).trace(x, kernel)
    assert "inlineable" in traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "inlineable" not in traced.lower(lowering_platforms=(platform,)).as_text()


def test_a_gradient_is_traced_once_for_all_layers_of_a_shape():
    x, kernel = drawn(3, 6)

    def three(x, kernel):
        return jnp.sum(convolve(convolve(convolve(x, kernel[..., :3]), kernel[..., :3]), kernel[..., :3]))

    text = jax.jit(jax.grad(three, argnums=1)).lower(x, kernel).as_text()
    name = convolution._kernel_gradient.__name__
    assert text.count(f"call @{name}") == 3
    assert text.count(f"func.func private @{name}") == 1
