"""Swin Transformer V2: attention inside windows of the map, shifted by half a window in every second block.

    backbone = SwinV2()                                                          # Swin V2-T
    backbone = SwinV2(embed=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32))     # Swin V2-B
    maps, taps = backbone.apply(variables, image, train=False)

Liu et al., "Swin Transformer V2: Scaling Up Capacity and Resolution", 2022, arXiv 2111.09883. Layer for layer the
published networks in evaluation mode (`tests/models/swin_v2_test.py`). Left out: their stochastic depth, which
regularises the training on ImageNet.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from lmkd.core.errors import UserError, report_together
from lmkd.models import layers, published

PATCH_PX = 4
MLP_RATIO = 4
FIRST_LOGIT_SCALE = math.log(10)
MAX_LOGIT_SCALE = math.log(100)
BIAS_HIDDEN = 512
MAX_BIAS = 16
MASKED = -100.0

normal = nn.initializers.truncated_normal(0.02)


def _stage_names(n: int) -> tuple[published.Rule, ...]:
    """Returns the rules of stage `n` (1 to 4), which is layers.(n - 1) there."""
    block, there = rf"stage{n}/block(\d+)", rf"layers.{n - 1}.blocks.\1"
    merge, before = f"stage{n}/merge", f"layers.{n - 2}.downsample"
    # Microsoft's files have the merging at the end of the stage before, timm's at the start of its own. Only the former
    # have one in layers.0: asking for it beside the tensor that is taken tells the two apart.
    mark = "layers.0.downsample.norm.bias"
    return (
        published.Rule(f"{merge}/reduction/kernel", (f"{before}.reduction.weight", mark), lambda x, _: published.kernel(x)),
        published.Rule(f"{merge}/norm/scale", (f"{before}.norm.weight", mark), lambda x, _: x),
        published.Rule(f"{merge}/norm/bias", (f"{before}.norm.bias", mark), lambda x, _: x),
        *published.layer(f"{merge}/(reduction|norm)", rf"layers.{n - 1}.downsample.\1"),
        *published.layer(f"{block}/attention/(qkv|proj)", rf"{there}.attn.\2"),
        published.Rule(f"{block}/attention/(q_bias|v_bias)", (rf"{there}.attn.\2",)),
        published.Rule(f"{block}/attention/logit_scale", (rf"{there}.attn.logit_scale",), np.ravel),  # [heads, 1, 1]
        *published.layer(f"{block}/attention/position_bias/fc1", f"{there}.attn.cpb_mlp.0"),
        *published.layer(f"{block}/attention/position_bias/fc2", f"{there}.attn.cpb_mlp.2"),
        *published.layer(f"{block}/post_attention_norm", f"{there}.norm1"),
        *published.layer(f"{block}/post_mlp_norm", f"{there}.norm2"),
        *published.layer(rf"{block}/(fc\d)", rf"{there}.mlp.\2"),
    )


PUBLISHED_NAMES = published.PublishedNames(
    rules=(
        *published.layer("patch_(proj|norm)", r"patch_embed.\1"),
        *(rule for n in (1, 2, 3, 4) for rule in _stage_names(n)),
        *published.layer("final_norm", "norm"),
    ),
    elsewhere=r"head\.",
    derived=r".*\.(relative_position_index|relative_coords_table|attn_mask)$",
)
"""Those of Microsoft's own files and of timm's."""


class SwinV2(nn.Module):
    """The Swin V2 backbone.

    Attributes:
      embed: channels of the map at 1/4; the others have 2, 4 and 8 times as many.
      depths: blocks at 1/4, 1/8, 1/16 and 1/32 of the image.
      heads: attention heads there.
      window: side of the attention windows, in cells. A map takes the largest side up to this that divides its own (the
        published networks run at sides that `window` or a smaller map's own side divides; timm pads the others).
      pretrained_windows: the windows of an earlier training at another side, in whose units the position bias goes on
        reading distances (the published networks "window12to16": 12, 12, 12, 6); 0 is the map's own window.
      dtype: of the computation; cosines, softmax and layer norms are float32.
      norm: ignored. Every norm here is a layer norm; the attribute stands for the interface of a backbone.
    """

    embed: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 16
    pretrained_windows: tuple[int, ...] = (0, 0, 0, 0)
    dtype: DTypeLike = jnp.float32
    norm: Callable = layers.batch_norm()

    def __post_init__(self):
        report_together(_problems(self), "SwinV2 cannot be built")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Float[Array, "b s s c"], train: bool) -> tuple[tuple, dict]:
        """Runs the backbone.

        Args:
          x: images [b, S, S, c], normalised; S a multiple of 32.
          train: ignored: nothing here differs between training and evaluation.

        Returns:
          The stages' maps [b, S/4, S/4, C], [b, S/8, S/8, 2C], [b, S/16, S/16, 4C], [b, S/32, S/32, 8C], the last one
          layer-normed, and the same as taps "stage1" to "stage4".

        Raises:
          UserError: a side that is no multiple of 32, or a map that no window fits.
        """
        if x.shape[1] % 32:
            raise UserError(f"SwinV2: image side {x.shape[1]} px: needs a multiple of 32.")
        x = PatchProjection(self.embed, self.dtype, name="patch_proj")(x)
        x = layer_norm(self.dtype, "patch_norm")(x)
        maps = []
        for i, depth in enumerate(self.depths):
            stage = Stage(depth, self.heads[i], self.window, self.pretrained_windows[i], self.dtype, name=f"stage{i + 1}")
            x = stage(x, merge=i > 0)
            maps.append(x)
        maps[-1] = layer_norm(self.dtype, "final_norm")(x)
        return tuple(maps), {f"stage{i}": m for i, m in enumerate(maps, start=1)}


class PatchProjection(nn.Module):
    """Cuts the image into patches of 4 x 4 px and projects each: a convolution of stride 4, kernel [4, 4, c, features]."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b s s c"]) -> Float[Array, "b s2 s2 c2"]:
        kernel = self.param("kernel", normal, (PATCH_PX, PATCH_PX, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        b, cells = x.shape[0], x.shape[1] // PATCH_PX
        patches = cut(x.astype(self.dtype), PATCH_PX).reshape(b, cells, cells, -1)
        y = jnp.matmul(patches, kernel.astype(self.dtype).reshape(-1, self.features))
        return y + bias.astype(self.dtype).reshape(1, 1, 1, -1)


class Stage(nn.Module):
    """With `merge` a map of half the side and twice the channels, then `depth` blocks, every second one shifted."""

    depth: int
    heads: int
    window: int
    pretrained_window: int = 0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b s s c"], merge: bool) -> Float[Array, "b s2 s2 c2"]:
        if merge:
            x = PatchMerging(self.dtype, name="merge")(x)
        window = fitting_window(x.shape[1], self.window)
        for k in range(self.depth):
            # A map of one window has nothing to shift: all its cells see each other already.
            shift = window // 2 if k % 2 and window < x.shape[1] else 0
            x = Block(self.heads, window, shift, self.pretrained_window, self.dtype, name=f"block{k}")(x)
        return x


class PatchMerging(nn.Module):
    """Joins 2 x 2 cells into one (section 3.1; with the norm after the projection, as everywhere in V2)."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b s s c"]) -> Float[Array, "b s2 s2 c2"]:
        b, side, _, c = x.shape
        # The published order of the four cells: down the first column, then down the second.
        x = x.reshape(b, side // 2, 2, side // 2, 2, c).transpose(0, 1, 3, 4, 2, 5).reshape(b, side // 2, side // 2, 4 * c)
        x = nn.Dense(2 * c, use_bias=False, dtype=self.dtype, kernel_init=normal, name="reduction")(x)
        return layer_norm(self.dtype, "norm")(x)


class Block(nn.Module):
    """Windowed attention and a two-layer perceptron, each layer-normed before it joins the residual sum (figure 1)."""

    heads: int
    window: int
    shift: int
    pretrained_window: int = 0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b s s c"]) -> Float[Array, "b s s c"]:
        # Residual branches start at zero, as published.
        zeros = nn.initializers.zeros
        attention = WindowAttention(self.heads, self.window, self.pretrained_window, self.dtype, name="attention")
        side, regions = x.shape[1], None
        y = x
        if self.shift:
            regions = shift_regions(side, self.window, self.shift)
            y = jnp.roll(y, (-self.shift, -self.shift), axis=(1, 2))
        y = uncut(attention(cut(y, self.window), regions), side)
        if self.shift:
            y = jnp.roll(y, (self.shift, self.shift), axis=(1, 2))
        x = x + layer_norm(self.dtype, "post_attention_norm", zeros)(y)
        dense: dict[str, Any] = {"dtype": self.dtype, "kernel_init": normal}
        y = nn.gelu(nn.Dense(MLP_RATIO * x.shape[-1], name="fc1", **dense)(x), approximate=False)
        y = nn.Dense(x.shape[-1], name="fc2", **dense)(y)
        return x + layer_norm(self.dtype, "post_mlp_norm", zeros)(y)


class WindowAttention(nn.Module):
    """Scaled cosine attention among the cells of each window (section 3.2, equation 2).

    Args of a call: cells [b, n windows, t cells, c], and the region of each [n, t] where the map was shifted: cells of
    different regions, which met only because the shift wraps around, do not see each other.
    """

    heads: int
    window: int
    pretrained_window: int = 0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n t c"], regions: Int[np.ndarray, "n t"] | None) -> Float[Array, "b n t c"]:
        q, k, v = self._queries_keys_values(x)
        scale = self.param("logit_scale", nn.initializers.constant(FIRST_LOGIT_SCALE), (self.heads,), jnp.float32)
        # The paper's temperature is 1 / scale, held at 0.01 and above.
        scale = jnp.exp(jnp.minimum(scale, MAX_LOGIT_SCALE)).reshape(1, 1, -1, 1, 1)
        logits = scale * jnp.einsum("bnqhd,bnkhd->bnhqk", unit(q), unit(k), preferred_element_type=jnp.float32)
        bias = PositionBias(self.heads, self.window, self.pretrained_window, name="position_bias")()
        logits = logits + bias.reshape(1, 1, *bias.shape)
        if regions is not None:
            apart = regions[:, :, None] != regions[:, None, :]
            logits = logits + jnp.where(apart, MASKED, 0.0)[None, :, None]
        weights = nn.softmax(logits).astype(self.dtype)
        y = jnp.einsum("bnhqk,bnkhd->bnqhd", weights, v).reshape(x.shape)
        return nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=normal, name="proj")(y)

    def _queries_keys_values(self, x):
        c = x.shape[-1]
        qkv = nn.Dense(3 * c, use_bias=False, dtype=self.dtype, kernel_init=normal, name="qkv")(x)
        # Keys have no bias.
        biases = [self.param(n, nn.initializers.zeros, (c,), jnp.float32) for n in ("q_bias", "v_bias")]
        bias = jnp.concatenate([biases[0], jnp.zeros(c), biases[1]]).astype(self.dtype)
        qkv = (qkv + bias.reshape(1, 1, 1, -1)).reshape(*x.shape[:-1], 3, self.heads, c // self.heads)
        return qkv[..., 0, :, :], qkv[..., 1, :, :], qkv[..., 2, :, :]


class PositionBias(nn.Module):
    """The log-spaced continuous position bias (section 3.3, equations 3 and 4): a small network of two cells' distance.

    A call returns the float32 bias [heads, t, t], between 0 and 16, for the t = window^2 cells of a window.
    """

    heads: int
    window: int
    pretrained_window: int = 0

    @nn.compact
    def __call__(self) -> Float[Array, "heads t t"]:
        distances = jnp.asarray(log_distances(self.window, self.pretrained_window or self.window))
        hidden = nn.relu(nn.Dense(BIAS_HIDDEN, kernel_init=normal, name="fc1")(distances))
        bias = MAX_BIAS * nn.sigmoid(nn.Dense(self.heads, use_bias=False, kernel_init=normal, name="fc2")(hidden))
        return jnp.moveaxis(bias[pair_indices(self.window)], -1, 0)


def layer_norm(dtype: DTypeLike, name: str, scale_init: Callable = nn.initializers.ones) -> nn.LayerNorm:
    """Returns a layer norm over the channels, with PyTorch's epsilon and float32 statistics."""
    return nn.LayerNorm(epsilon=1e-5, dtype=dtype, scale_init=scale_init, use_fast_variance=False, name=name)


def unit(x: Float[Array, "*a d"]) -> Float[Array, "*a d"]:
    """Returns vectors of length 1 along the last axis (computed in float32), zero for zero, as torch's `normalize`."""
    y = x.astype(jnp.float32)
    return (y * jax.lax.rsqrt(jnp.maximum(jnp.sum(y * y, -1, keepdims=True), 1e-24))).astype(x.dtype)


def fitting_window(side: int, window: int) -> int:
    """Returns the largest window of at most `window` cells that divides a map of `side` cells.

    Raises:
      UserError: it would have less than half the side of both window and map, and attention would see too little.
    """
    fitting = max(w for w in range(1, window + 1) if side % w == 0)
    if 2 * fitting < min(side, window):
        raise UserError(
            f"SwinV2: a map of {side} cells has no window of {math.ceil(min(side, window) / 2)} to {window} cells that "
            "divides it. Give another image side (every multiple of 32 up to 32 times the window fits) or another window."
        )
    return fitting


def cut(x: Float[Array, "b s s c"], window: int) -> Float[Array, "b n t c"]:
    """Cuts a map [b, S, S, c] into its n windows, row by row, of t = window^2 cells each, row by row."""
    b, side, _, c = x.shape
    n = side // window
    return x.reshape(b, n, window, n, window, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, n * n, window * window, c)


def uncut(windows: Float[Array, "b n t c"], side: int) -> Float[Array, "b s s c"]:
    """Puts the windows from `cut` back together into a map of `side` cells."""
    b, n, t, c = windows.shape
    n, window = math.isqrt(n), math.isqrt(t)
    return windows.reshape(b, n, n, window, window, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, side, side, c)


def shift_regions(side: int, window: int, shift: int) -> Int[np.ndarray, "n t"]:
    """Returns the region of each cell of a shifted map, cut into windows: the last `shift` rows and columns came around."""
    axis = np.repeat([0, 1, 2], [side - window, window - shift, shift]).reshape(-1, window)
    return (3 * axis[:, None, :, None] + axis[None, :, None, :]).reshape(-1, window**2)


def log_distances(window: int, reference: int) -> Float[np.ndarray, "d 2"]:
    """Lists the distances (rows, columns) between cells of a window: equation 4, scaled as in the published code.

    A distance of reference - 1 cells is 8 before the logarithm, whose base is 8: sign(x) log8(1 + |x|), float32.
    """
    cells = np.arange(1 - window, window) / max(reference - 1, 1) * 8
    axis = np.sign(cells) * np.log2(np.abs(cells) + 1) / np.log2(8)
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.float32)


def pair_indices(window: int) -> Int[np.ndarray, "t t"]:
    """Returns for each pair of cells (query, key) of a window the row of its distance in `log_distances`."""
    rows, columns = np.divmod(np.arange(window**2), window)
    difference = [a[:, None] - a[None, :] + window - 1 for a in (rows, columns)]
    return difference[0] * (2 * window - 1) + difference[1]


def _problems(net: SwinV2) -> list[str]:
    lists = {"depths": net.depths, "heads": net.heads, "pretrained_windows": net.pretrained_windows}
    problems = [f"{n}: needs four numbers, for the maps at 1/4 to 1/32, got {v!r}" for n, v in lists.items() if len(v) != 4]
    sizes = {"embed": net.embed, "window": net.window}
    sizes |= {f"{n}[{i}]": v for n in ("depths", "heads") for i, v in enumerate(lists[n])}
    problems += [f"{n}: needs a whole number of at least 1, got {v!r}" for n, v in sizes.items() if v < 1]
    problems += [
        f"heads[{i}]: {h} do not divide the {net.embed * 2**i} channels"
        for i, h in enumerate(net.heads)
        if h > 0 and net.embed * 2**i % h
    ]
    return problems
