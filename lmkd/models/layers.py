"""Building blocks: convolution with PyTorch's padding, batch norm with its policy bound once, up-sampling.

    norm = layers.batch_norm(momentum=0.9, axis_name="batch", dtype=jnp.bfloat16)
    x = layers.ConvNorm(32, stride=2, dtype=jnp.bfloat16, norm=norm)(x, train)
    x = layers.upsample(x, (64, 64), "bilinear")

Parameters and statistics are float32 whatever the compute dtype.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lmkd.core.errors import UserError, unknown
from lmkd.models import apart
from lmkd.models.batch_norm import BatchNorm
from lmkd.models.convolution import convolve
from lmkd.models.parameters import parameter

UPSAMPLING = ("bilinear", "nearest")
RESIZE_SCOPE = "resize"
"""Name scope of interpolation: the cost table leaves products inside it out."""
DEPTHWISE_SCOPE = "shifted_products"
"""Name scope of depthwise convolutions, written as elementwise products: the cost table counts each as multiply-adds."""

he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# An input of a depthwise convolution reaches one channel: the fan-out of [3, 3, 1, c] is 9, and c counts no side.
he_normal_depthwise = nn.initializers.variance_scaling(2.0, "fan_out", "normal", in_axis=-1, out_axis=-2)


@functools.cache  # one constructor a policy: modules that share a trace are told apart by it
def batch_norm(
    *, momentum: float = 0.9, axis_name: str | None = None, dtype: DTypeLike = jnp.float32
) -> Callable[..., nn.Module]:
    """Returns `BatchNorm` with its policy bound; call it with `use_running_average` and `name`.

    Args:
      momentum: share of the old running statistics kept at a step (PyTorch's momentum is 1 minus this).
      axis_name: the pmap axis over which the batch statistics are averaged; None keeps them local.
      dtype: of the output. Statistics and their reductions are float32.

    Returns:
      A constructor. Epsilon is PyTorch's 1e-5. The running variance is the biased one (PyTorch's: unbiased).
    """
    return functools.partial(BatchNorm, momentum=momentum, dtype=dtype, axis_name=axis_name)


class Conv(nn.Module):
    """Square convolution on NHWC, kernel [size, size, c_in, features], PyTorch's padding of size // 2 on BOTH sides.

    Attributes:
      features: output channels.
      size: odd kernel side.
      stride: of both axes.
      use_bias: adds a bias [features].
      dtype: of the computation.
      output_dtype: of the result; None is `dtype`. Float32 keeps the accumulator of a bfloat16 product.
      kernel_init: He-normal (fan out) by default.
    """

    features: int
    size: int = 3
    stride: int = 1
    use_bias: bool = False
    dtype: DTypeLike = jnp.float32
    output_dtype: DTypeLike | None = None
    kernel_init: Callable = he_normal

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = parameter(self, "kernel", self.kernel_init, shape)
        y = convolve(jnp.asarray(x, self.dtype), jnp.asarray(kernel, self.dtype), self.stride, self.output_dtype)
        if self.use_bias:
            bias = parameter(self, "bias", nn.initializers.zeros, (self.features,))
            y = y + bias.astype(y.dtype).reshape(1, 1, 1, -1)
        return y


class DepthwiseConv(nn.Module):
    """Depthwise convolution on NHWC, kernel [size, size, 1, c], padding size // 2 on both sides, as a sum of shifted products.

    XLA on CPU has no fast grouped convolution: value and gradient took 17 ms for [16, 24, 24, 16] and 13 ms for
    [16, 12, 12, 32] on two cores, dense 3x3 convolutions 3.8 and 2.4 ms, the nine products 1.8 and 1.0 ms. In MobileNetV2's
    shapes at 96 px, one core: 170 and 99 ms for [16, 48, 48, 32], 1048 and 114 ms for [16, 48, 48, 96] at stride 2, 345 and
    125 ms for [16, 24, 24, 144], 93 and 28 ms for [16, 12, 12, 192]. The price is compilation: 36 s instead of 14 s for the
    training step of a slim HRNet.

    Attributes:
      stride: of both axes.
      size: odd kernel side.
      dtype: of the result. Products and sums are float32, as the accumulator of a convolution is.
    """

    stride: int = 1
    size: int = 3
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        b, h, w, c = x.shape
        side, border = self.size, self.size // 2
        kernel = parameter(self, "kernel", he_normal_depthwise, (side, side, 1, c)).astype(self.dtype)
        taps = kernel.astype(jnp.float32).reshape(side, side, 1, 1, 1, c)
        bottom, right = (h - 1) // self.stride * self.stride, (w - 1) // self.stride * self.stride
        padded = jnp.pad(x.astype(self.dtype), ((0, 0), (border, border), (border, border), (0, 0))).astype(jnp.float32)
        with jax.named_scope(DEPTHWISE_SCOPE):
            y = sum(
                padded[:, i : i + bottom + 1 : self.stride, j : j + right + 1 : self.stride] * taps[i, j]
                for i in range(side)
                for j in range(side)
            )
        return jnp.asarray(y, self.dtype)


class ConvNorm(nn.Module):
    """Convolution, batch norm and `activation`, if any: parameters under "conv" and "bn"."""

    features: int
    size: int = 3
    stride: int = 1
    activation: Callable | None = nn.relu
    use_bias: bool = False
    dtype: DTypeLike = jnp.float32
    norm: Callable = batch_norm()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 c2"]:
        conv = Conv(self.features, self.size, self.stride, self.use_bias, dtype=self.dtype, name="conv")
        x = self.norm(use_running_average=not train, name="bn")(conv(x))
        return activated(x, self.activation, train)


class DepthwiseConvNorm(nn.Module):
    """Depthwise convolution, batch norm and `activation`, if any: parameters under "depthwise" and "bn"."""

    size: int = 3
    stride: int = 1
    activation: Callable | None = nn.relu
    dtype: DTypeLike = jnp.float32
    norm: Callable = batch_norm()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 c"]:
        x = DepthwiseConv(self.stride, self.size, dtype=self.dtype, name="depthwise")(x)
        x = self.norm(use_running_average=not train, name="bn")(x)
        return activated(x, self.activation, train)


class SeparableConvNorm(nn.Module):
    """Depthwise 3x3, pointwise 1x1, batch norm and `activation`, if any: under "depthwise", "pointwise" and "bn".

    Howard et al., "MobileNets", 2017, arXiv 1704.04861, section 3.1. Unlike there, batch norm and ReLU follow the pointwise
    convolution alone: nothing stands between the two (Chollet 2017, arXiv 1610.02357, section 4.7, found that better), and
    the last convolution of a residual block must have no ReLU at all.
    """

    features: int
    stride: int = 1
    activation: Callable | None = nn.relu
    dtype: DTypeLike = jnp.float32
    norm: Callable = batch_norm()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 c2"]:
        x = DepthwiseConv(self.stride, dtype=self.dtype, name="depthwise")(x)
        x = Conv(self.features, size=1, dtype=self.dtype, name="pointwise")(x)
        x = self.norm(use_running_average=not train, name="bn")(x)
        return activated(x, self.activation, train)


def activated(x: Float[Array, "..."], activation: Callable | None, train: bool) -> Float[Array, "..."]:
    """Returns `activation` of x (x where it is None); while training, a ReLU's result is kept (`lmkd.models.apart`)."""
    if activation is nn.relu and train:
        return apart.relu(x)
    return activation(x) if activation else x


def max_pool(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b h2 w2 c"]:
    """Returns the maxima of `size` x `size` windows (2 or 3) at stride 2, with PyTorch's padding of (size - 1) // 2."""
    padding = (size - 1) // 2
    return nn.max_pool(x, (size, size), (2, 2), ((padding, padding), (padding, padding)))


def upsample(x: Float[Array, "b h w c"], size: tuple[int, int], method: str = "bilinear") -> Float[Array, "b h2 w2 c"]:
    """Enlarges maps to `size` (height, width), pixel centres at (i + 0.5) (PyTorch: align_corners=False).

    Args:
      x: maps [b, h, w, c].
      size: (height, width) to reach; "nearest" needs whole multiples of the maps' own.
      method: "bilinear" or "nearest".

    Returns:
      Maps [b, *size, c] of the same dtype.

    Raises:
      UserError: an unknown method, or a size that "nearest" cannot reach.
    """
    if method not in UPSAMPLING:
        raise unknown("up-sampling", method, UPSAMPLING)
    height, width = x.shape[1:3]
    if (height, width) == tuple(size):
        return x
    with jax.named_scope(RESIZE_SCOPE):
        if method == "nearest":
            return _repeat(x, size)
        # Constant matrices: two small products, which every back end and exporter has, and any target size works.
        rows = jnp.asarray(bilinear_matrix(height, size[0]), x.dtype)
        columns = jnp.asarray(bilinear_matrix(width, size[1]), x.dtype)
        return jnp.einsum("Ww,bHwc->bHWc", columns, jnp.einsum("Hh,bhwc->bHwc", rows, x))


def bilinear_matrix(size: int, target: int) -> np.ndarray:
    """Returns the float64 [target, size] matrix that interpolates linearly with pixel centres at (i + 0.5).

    Row i reads position (i + 0.5) size / target - 0.5, held at the border: torch.nn.functional.interpolate with
    align_corners=False (no antialiasing, so it is meant for enlarging).
    """
    position = np.clip((np.arange(target) + 0.5) * size / target - 0.5, 0, size - 1)
    low = np.minimum(np.floor(position).astype(int), max(size - 2, 0))
    matrix = np.zeros((target, size))
    matrix[np.arange(target), low] = 1 - (position - low)
    matrix[np.arange(target), np.minimum(low + 1, size - 1)] += position - low
    return matrix


def _repeat(x, size):
    b, h, w, c = x.shape
    if size[0] % h or size[1] % w:
        raise UserError(
            f"nearest up-sampling from {h}x{w} to {size[0]}x{size[1]} cells: not a whole multiple. "
            "Give an image side that is a multiple of 32, or upsample='bilinear'."
        )
    fy, fx = size[0] // h, size[1] // w
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, fy, w, fx, c)).reshape(b, *size, c)
