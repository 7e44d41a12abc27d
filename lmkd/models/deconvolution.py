"""Transposed convolution, and the head of three of them on the lowest map (SimpleBaseline, MobileFAN).

head = Deconvolutions(num_points=98)                                # the teacher's: 4 x 4 kernels, 256 channels
head = Deconvolutions(num_points=98, channels=128, kernel=2)        # MobileFAN's student
logits, taps = head.apply(variables, maps, train=False)             # taps: deconv1, deconv2, deconv3, features
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lmkd.core.errors import UserError
from lmkd.models import layers
from lmkd.models.heads import last_maps
from lmkd.models.readout import Heatmaps

STAGES = 3
"""Doublings from stride 32 to stride 4."""


class TransposedConv(nn.Module):
    """Transposed convolution on NHWC without bias that enlarges a map exactly `stride` times.

    out[stride i - p + u] += x[i] kernel[u] on both axes with p = (size - stride) / 2: PyTorch's ConvTranspose2d(size, stride,
    padding=p), its weight [in, out, size, size] being this kernel [size, size, in, out].

    Written as one dense convolution to stride^2 times as many channels, whose phases are then interleaved: XLA on CPU is slow
    at transposed convolutions. Each output cell reads ceil(size / stride) input cells an axis, so nothing is multiplied in
    vain where `stride` divides `size`.

    Attributes:
      features: output channels.
      size: side of the kernel; size - stride must be even and not negative.
      stride: of both axes.
      dtype: of the computation.
    """

    features: int
    size: int = 4
    stride: int = 2
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        if self.size < self.stride or (self.size - self.stride) % 2:
            raise UserError(
                f"transposed convolution: a kernel of {self.size} at stride {self.stride} cannot enlarge a map exactly "
                f"{self.stride} times. Give a kernel of {self.stride}, {self.stride + 2}, {self.stride + 4}, ..."
            )
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", layers.he_normal, shape, jnp.float32).astype(self.dtype)
        first, positions = _phases(self.size, self.stride)
        border = -int(first.min()), int(first.max()) + len(positions) - 1
        # Padded beforehand: where a convolution's result is larger than its input, XLA swaps the operands of the kernel's
        # gradient, and on CPU has no fast form of it then (3.6 s instead of 0.12 for [16, 8, 8, 256] to 1024 channels).
        y = jax.lax.conv_general_dilated(
            jnp.pad(x.astype(self.dtype), ((0, 0), border, border, (0, 0))),
            _phase_kernel(kernel, positions),
            window_strides=(1, 1),
            padding="VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return _interleaved(y, x.shape[1:3], first - first.min(), self.features)


class Deconvolutions(nn.Module):
    """The lowest map enlarged by three transposed convolutions, each with batch norm and ReLU, then 1x1.

    Xiao, Wu, Wei, "Simple Baselines for Human Pose Estimation", 2018, arXiv 1804.06208, section 2 (4 x 4 kernels, 256
    channels); Zhao et al. 2019, arXiv 1908.03839 (MobileFAN), whose student has 2 x 2 kernels and 128 channels. First weights
    are He-normal; their codes draw the kernels from N(0, 0.001).

    Attributes:
      num_points: K.
      channels: of every transposed convolution.
      kernel: side of their kernels, 4 or 2.
    """

    num_points: int
    channels: int = 256
    kernel: int = 4
    dtype: DTypeLike = jnp.float32
    norm: Callable = layers.batch_norm()
    readout: ClassVar[type] = Heatmaps

    @nn.compact
    def __call__(
        self, maps: Sequence[Float[Array, "b _ _ _"]], train: bool
    ) -> tuple[Float[Array, "b h w k"], dict[str, Array]]:
        x, taps = maps[-1], {}
        for n in range(1, STAGES + 1):
            x = TransposedConv(self.channels, self.kernel, dtype=self.dtype, name=f"deconv{n}")(x)
            x = layers.activated(self.norm(use_running_average=not train, name=f"bn{n}")(x), nn.relu, train)
            taps[f"deconv{n}"] = x
        return last_maps(self.num_points, self.dtype)(x), {**taps, "features": x}


def _phases(size: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """How each of an output cell's `stride` phases reads the input, along one axis.

    Output cell stride q + r (phase r) is the sum over n of x[q + first[r] + n] kernel[positions[n, r]].

    Returns:
      first [stride], and positions [ceil(size / stride), stride], where `size` stands for a zero beyond the kernel.
    """
    phase, padding = np.arange(stride), (size - stride) // 2
    first = -((size - 1 - phase - padding) // stride)
    positions = phase + padding - stride * (first + np.arange(-(-size // stride))[:, None])
    return first, np.where((positions >= 0) & (positions < size), positions, size)


def _phase_kernel(kernel: Array, positions: np.ndarray) -> Array:
    """The kernel of the dense convolution, [n, n, in, stride * stride * out], phases (rows, columns) before channels."""
    n, stride = positions.shape
    padded = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
    rows, columns = positions.reshape(n, stride, 1, 1), positions.reshape(1, 1, n, stride)
    picked = padded[rows, columns]  # [n, stride, n, stride, in, out]
    return picked.transpose(0, 2, 4, 1, 3, 5).reshape(n, n, kernel.shape[2], -1)


def _interleaved(y: Array, size: tuple[int, ...], start: np.ndarray, features: int) -> Array:
    """Cuts each phase out of [b, H, W, stride * stride * c] where its cells start, and interleaves them."""
    (h, w), stride = size, len(start)
    y = y.reshape(*y.shape[:3], stride, stride, features)
    y = jnp.stack([y[:, s : s + h, :, r] for r, s in enumerate(start)], axis=2)  # [b, h, stride, W, stride, c]
    y = jnp.stack([y[:, :, :, s : s + w, r] for r, s in enumerate(start)], axis=4)
    return y.reshape(y.shape[0], h * stride, w * stride, features)
