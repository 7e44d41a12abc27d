"""Convolution on NHWC, whose weight gradient does not make XLA on CPU compute its inputs anew.

    y = convolve(x, kernel, 2)               # x [b, h, w, c], kernel [size, size, c, features], stride 2

The gradients are those of automatic differentiation. A weight gradient is a convolution of the arrays turned around; on CPU
they are turned apart (`lmkd.models.apart`).
"""

import functools

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lmkd.models.apart import apart

NHWC = ("NHWC", "HWIO", "NHWC")


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "size size c c2"],
    stride: int = 1,
    output_dtype: DTypeLike | None = None,
) -> Float[Array, "b h2 w2 c2"]:
    """Returns the cross-correlation with PyTorch's padding of size // 2 on BOTH sides.

    ("SAME" pads an even map for stride 2 on the far side only, which shifts the result by half an output cell.)

    Args:
      x: maps.
      kernel: of an odd side and of x's dtype. A 1x1 kernel is applied as a matrix product: the same numbers, and its weight
        gradient is one product too, which XLA's CPU convolution is slow at.
      stride: of both axes.
      output_dtype: of the result; None is x's. Float32 keeps the accumulator of a bfloat16 product.
    """
    return _convolved(x, kernel, stride, output_dtype)


def _convolved(x, kernel, stride, output_dtype):
    if kernel.shape[0] == 1:
        return jnp.matmul(x[:, ::stride, ::stride], kernel[0, 0], preferred_element_type=output_dtype)
    border = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(border, border)] * 2,
        dimension_numbers=NHWC,
        preferred_element_type=output_dtype,
    )


def _forward(x, kernel, stride, output_dtype):
    return _convolved(x, kernel, stride, output_dtype), (x, kernel)


def _backward(stride, output_dtype, kept, dy):
    x, kernel = kept
    of_x = _input_gradient_traced_once(dy, kernel, x.shape, x.dtype, stride, output_dtype)
    return of_x, _kernel_gradient_traced_once(x, dy, kernel.shape[0], stride, output_dtype)


convolve.defvjp(_forward, _backward)


def _kernel_gradient(x, dy, size, stride, output_dtype):
    if size == 1:
        cells = (a.reshape(-1, a.shape[-1]) for a in (x[:, ::stride, ::stride], dy))
        return apart(functools.partial(_product_gradient, output_dtype=output_dtype))(*cells)[None, None]
    by_transposition = functools.partial(_kernel_gradient_of_jax, size=size, stride=stride, output_dtype=output_dtype)
    if x.dtype != dy.dtype:
        return by_transposition(x, dy)
    turned = functools.partial(_kernel_gradient_of_turned, size=size, stride=stride)
    return jax.lax.platform_dependent(x, dy, cpu=turned, default=by_transposition)


def _input_gradient(dy, kernel, shape, dtype, stride, output_dtype):
    convolve_with = functools.partial(_convolved, kernel=kernel, stride=stride, output_dtype=output_dtype)
    return jax.linear_transpose(convolve_with, jax.ShapeDtypeStruct(shape, dtype))(dy)[0]


# For all layers of one shape.
_input_gradient_traced_once = jax.jit(_input_gradient, static_argnums=(2, 3, 4, 5))
_kernel_gradient_traced_once = jax.jit(_kernel_gradient, static_argnums=(2, 3, 4))


def _product_gradient(x, dy, output_dtype):
    multiply = functools.partial(jnp.matmul, x, preferred_element_type=output_dtype)
    return jax.linear_transpose(multiply, jax.ShapeDtypeStruct((x.shape[-1], dy.shape[-1]), x.dtype))(dy)[0]


def _kernel_gradient_of_jax(x, dy, size, stride, output_dtype):
    kernel = jax.ShapeDtypeStruct((size, size, x.shape[-1], dy.shape[-1]), x.dtype)
    return jax.linear_transpose(lambda kernel: _convolved(x, kernel, stride, output_dtype), kernel)(dy)[0]


def _kernel_gradient_of_turned(x, dy, size, stride):
    """The same as a convolution of x, its faces as channels, with dy, whose cells lie `stride` apart."""
    border = size // 2
    reached = [(n_out - 1) * stride + size for n_out in dy.shape[1:3]]
    gradient = jax.lax.conv_general_dilated(
        _faces_last(x),
        _cells_first(dy),
        window_strides=(1, 1),
        padding=[(border, n - n_in - border) for n, n_in in zip(reached, x.shape[1:3], strict=True)],
        rhs_dilation=(stride, stride),
        dimension_numbers=NHWC,
    )
    return jnp.transpose(gradient, (1, 2, 0, 3))


@apart
def _faces_last(x):
    return jnp.transpose(x, (3, 1, 2, 0))


@apart
def _cells_first(dy):
    return jnp.transpose(dy, (1, 2, 0, 3))
