"""MobileViT V2: inverted residual blocks, and attention whose cost grows with the number of cells, not with its square.

    backbone = MobileViTV2(multiplier=0.5)          # 1,113,593 parameters
    maps, taps = backbone.apply(variables, image, train=False)

Mehta & Rastegari, "Separable Self-attention for Mobile Vision Transformers", 2022, arXiv 2206.02680. Layer for layer the
published networks in evaluation mode (`tests/models/mobilevit_v2_test.py`), but for maps of an odd side (see
`AttentionBlock`). Left out: dropout and stochastic depth, which are 0 there too.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lmkd.core.errors import UserError
from lmkd.models import layers, published
from lmkd.models.blocks import InvertedResidual
from lmkd.models.layers import Conv, ConvNorm, DepthwiseConvNorm

STEM_WIDTH = 32
WIDTHS = (64, 128, 256, 384, 512)
"""Channels after the stages at 1/2, 1/4, 1/8, 1/16 and 1/32 of the image, at multiplier 1."""
EXPANSION = 2
PATCH_CELLS = 2

_ATTENTION = r"stage(\d)/attention/"
_LAYER = _ATTENTION + r"layer(\d+)/"
PUBLISHED_NAMES = published.PublishedNames(
    rules=(
        *published.conv_norm("stem", "stem.conv", "stem.bn"),
        *(
            rule
            for ours, theirs in (("expand", "conv1_1x1"), ("spatial", "conv2_kxk"), ("project", "conv3_1x1"))
            for rule in published.conv_norm(
                rf"stage(\d)/block(\d)/{ours}", rf"stages.\1.\2.{theirs}.conv", rf"stages.\1.\2.{theirs}.bn"
            )
        ),
        *published.conv_norm(_ATTENTION + "local", r"stages.\1.1.conv_kxk.conv", r"stages.\1.1.conv_kxk.bn"),
        *published.layer(_ATTENTION + "enter", r"stages.\1.1.conv_1x1"),
        *published.layer(_LAYER + "attention_norm", r"stages.\1.1.transformer.\2.norm1"),
        *published.layer(_LAYER + "(qkv|out)", r"stages.\1.1.transformer.\2.attn.\3_proj"),
        *published.layer(_LAYER + "mlp_norm", r"stages.\1.1.transformer.\2.norm2"),
        *published.layer(_LAYER + r"(fc\d)", r"stages.\1.1.transformer.\2.mlp.\3"),
        *published.layer(_ATTENTION + "norm", r"stages.\1.1.norm"),
        *published.conv_norm(_ATTENTION + "leave", r"stages.\1.1.conv_proj.conv", r"stages.\1.1.conv_proj.bn"),
    ),
    elsewhere=r"head\.",
)
"""Those of timm (mobilevitv2_050 to _200), converted there from the authors' files."""


class MobileViTV2(nn.Module):
    """The MobileViT V2 backbone.

    Attributes:
      multiplier: of all numbers of channels, a multiple of 1/8; the published ones are 0.5, 0.75, ..., 2.
      dtype: of the computation; softmax and group norms are float32.
      norm: constructor from `layers.batch_norm`, of the same dtype.
    """

    multiplier: float = 1.0
    dtype: DTypeLike = jnp.float32
    norm: Callable = layers.batch_norm()

    def __post_init__(self):
        if self.multiplier <= 0 or self.multiplier * 8 % 1:
            raise UserError(
                f"MobileViTV2: multiplier {self.multiplier!r}: needs a positive multiple of 1/8, so that all numbers of "
                "channels are whole. The published ones are 0.5, 0.75, 1, 1.25, 1.5, 1.75 and 2."
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Float[Array, "b s s c"], train: bool) -> tuple[tuple, dict]:
        """Runs the backbone.

        Args:
          x: images [b, S, S, c], normalised; S a multiple of 32.
          train: uses and updates batch statistics (collection "batch_stats").

        Returns:
          The stages' maps [b, S/4, S/4, 128 m], [b, S/8, S/8, 256 m], [b, S/16, S/16, 384 m], [b, S/32, S/32, 512 m] at
          multiplier m, and the same as taps "stage1" to "stage4".
        """
        policy: dict[str, Any] = {"dtype": self.dtype, "norm": self.norm}
        widths = [round(width * self.multiplier) for width in WIDTHS]
        x = ConvNorm(round(STEM_WIDTH * self.multiplier), stride=2, activation=nn.silu, name="stem", **policy)(x, train)
        x = Stage(widths[0], stride=1, name="stage0", **policy)(x, train)
        taps = {}
        x = taps["stage1"] = Stage(widths[1], blocks=2, name="stage1", **policy)(x, train)
        x = taps["stage2"] = Stage(widths[2], attention_layers=2, name="stage2", **policy)(x, train)
        x = taps["stage3"] = Stage(widths[3], attention_layers=4, name="stage3", **policy)(x, train)
        taps["stage4"] = Stage(widths[4], attention_layers=3, name="stage4", **policy)(x, train)
        return tuple(taps.values()), taps


class Stage(nn.Module):
    """Inverted residual blocks, of which the first has the stride; then, with `attention_layers`, an `AttentionBlock`."""

    width: int
    stride: int = 2
    blocks: int = 1
    attention_layers: int = 0
    dtype: DTypeLike = jnp.float32
    norm: Callable = layers.batch_norm()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 c2"]:
        policy: dict[str, Any] = {"dtype": self.dtype, "norm": self.norm}
        for k in range(self.blocks):
            stride = self.stride if k == 0 else 1
            block = InvertedResidual(self.width, EXPANSION, stride=stride, activation=nn.silu, name=f"block{k}", **policy)
            x = block(x, train)
        if self.attention_layers:
            x = AttentionBlock(self.attention_layers, name="attention", **policy)(x, train)
        return x


class AttentionBlock(nn.Module):
    """A depthwise convolution, then attention at half the channels among the cells 2 apart (section 3.2 and appendix A).

    The map is cut into patches of 2 x 2 cells; a cell attends to those at its place in all patches. A map of an odd side is
    enlarged by one cell and, unlike the published networks, brought back to its side at the end, by linear interpolation
    between the corner cells' centres (align_corners=True, as there): the maps keep their strides at any image side.
    """

    depth: int
    dtype: DTypeLike = jnp.float32
    norm: Callable = layers.batch_norm()

    @nn.compact
    def __call__(self, x: Float[Array, "b s s c"], train: bool) -> Float[Array, "b s s c"]:
        policy: dict[str, Any] = {"dtype": self.dtype, "norm": self.norm}
        side, channels = x.shape[1], x.shape[-1]
        x = resize_corners(x, side + side % PATCH_CELLS)
        x = DepthwiseConvNorm(activation=nn.silu, name="local", **policy)(x, train)
        x = Conv(channels // 2, size=1, dtype=self.dtype, name="enter")(x)
        for k in range(self.depth):
            x = AttentionLayer(self.dtype, name=f"layer{k}")(x)
        x = group_norm(self.dtype, "norm")(x)
        x = ConvNorm(channels, size=1, activation=None, name="leave", **policy)(x, train)
        return resize_corners(x, side)


class AttentionLayer(nn.Module):
    """Separable self-attention and a two-layer perceptron of twice the channels, each normed before and added."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b s s c"]) -> Float[Array, "b s s c"]:
        channels = x.shape[-1]
        conv: dict[str, Any] = {"size": 1, "use_bias": True, "dtype": self.dtype}
        y = group_norm(self.dtype, "attention_norm")(x)
        y = separable_attention(Conv(2 * channels + 1, name="qkv", **conv)(y))
        x = x + Conv(channels, name="out", **conv)(y)
        y = group_norm(self.dtype, "mlp_norm")(x)
        y = nn.silu(Conv(2 * channels, name="fc1", **conv)(y))
        return x + Conv(channels, name="fc2", **conv)(y)


def separable_attention(qkv: Float[Array, "b s s d"]) -> Float[Array, "b s s c"]:
    """Weighs every cell's value by one context vector of all cells at its place in a patch (section 3.1, equation 2).

    Args:
      qkv: [b, S, S, 1 + 2c]: one score a cell, c channels of keys, c of values; S is even.

    Returns:
      relu(values) times the sum of the keys weighted by the softmax of the scores, [b, S, S, c].
    """
    b, side, _, d = qkv.shape
    n = side // PATCH_CELLS
    patches = qkv.reshape(b, n, PATCH_CELLS, n, PATCH_CELLS, d)
    scores, keys, values = jnp.split(patches, (1, 1 + d // 2), axis=-1)
    scores = nn.softmax(scores.astype(jnp.float32), axis=(1, 3)).astype(qkv.dtype)
    context = jnp.sum(keys * scores, axis=(1, 3), keepdims=True, dtype=jnp.float32).astype(qkv.dtype)
    return (nn.relu(values) * context).reshape(b, side, side, d // 2)


def group_norm(dtype: DTypeLike, name: str) -> nn.GroupNorm:
    """Returns the norm of a whole map (one group), with PyTorch's epsilon and float32 statistics."""
    return nn.GroupNorm(num_groups=1, epsilon=1e-5, dtype=dtype, use_fast_variance=False, name=name)


def resize_corners(x: Float[Array, "b s s c"], side: int) -> Float[Array, "b s2 s2 c"]:
    """Interpolates a map linearly to `side` cells, corner cells upon corner cells (torch: align_corners=True)."""
    if x.shape[1] == side:
        return x
    position = np.linspace(0, x.shape[1] - 1, side)
    low = np.minimum(position.astype(int), max(x.shape[1] - 2, 0))
    matrix = np.zeros((side, x.shape[1]))
    matrix[np.arange(side), low] = 1 - (position - low)
    if x.shape[1] > 1:
        matrix[np.arange(side), low + 1] = position - low
    with jax.named_scope(layers.RESIZE_SCOPE):
        weights = jnp.asarray(matrix, x.dtype)
        return jnp.einsum("Ww,bHwc->bHWc", weights, jnp.einsum("Hh,bhwc->bHwc", weights, x))
