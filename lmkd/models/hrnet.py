"""HRNet: parallel branches at 1/4, 1/8, 1/16 and 1/32 of the image, fused again and again.

    backbone = HRNet(width=18)                                        # HRNet-W18 of the facial-landmark code
    slim = HRNet(width=16, modules=(1, 2, 1), blocks=2, stage1_width=8, stage1_blocks=1, stem_width=32)
    maps, taps = backbone.apply(variables, image, train=False)

Sun et al., "Deep High-Resolution Representation Learning for Human Pose Estimation", 2019, arXiv 1902.09212; Wang et
al., "Deep High-Resolution Representation Learning for Visual Recognition", 2020, arXiv 1908.07919, section 3. Layer for
layer the published PyTorch networks (`tests/models/parity_test.py`), with `block="basic"`.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lmkd.core.errors import report_together, unknown
from lmkd.models import layers
from lmkd.models.blocks import Bottleneck
from lmkd.models.layers import ConvNorm, SeparableConvNorm
from lmkd.models.published import PublishedNames, conv_norm

BLOCKS = {"basic": ConvNorm, "separable": SeparableConvNorm}
"""What the 3x3 convolutions of the fused modules are made of, by the name of the block."""

_MODULE = r"stage([234])/module(\d+)"
PUBLISHED_NAMES = PublishedNames(
    rules=(
        *conv_norm(r"stem/conv(\d)", r"conv\1", r"bn\1"),
        *conv_norm(r"stage1/block(\d+)/conv(\d)", r"layer1.\1.conv\2", r"layer1.\1.bn\2"),
        *conv_norm(r"stage1/block(\d+)/shortcut", r"layer1.\1.downsample.0", r"layer1.\1.downsample.1"),
        *conv_norm(r"stage2/transition0", "transition1.0.0", "transition1.0.1"),
        # The branch that stage N starts is branch N - 1, and the transition before stage N is called transition N - 1.
        *conv_norm(r"stage[234]/transition([123])", r"transition\1.\1.0.0", r"transition\1.\1.0.1"),
        *conv_norm(
            _MODULE + r"/branch(\d)_block(\d+)/conv(\d)",
            r"stage\1.\2.branches.\3.\4.conv\5",
            r"stage\1.\2.branches.\3.\4.bn\5",
        ),
        *conv_norm(_MODULE + r"/fuse(\d)_(\d)", r"stage\1.\2.fuse_layers.\3.\4.0", r"stage\1.\2.fuse_layers.\3.\4.1"),
        *conv_norm(
            _MODULE + r"/fuse(\d)_(\d)_step(\d)",
            r"stage\1.\2.fuse_layers.\3.\4.\5.0",
            r"stage\1.\2.fuse_layers.\3.\4.\5.1",
        ),
    ),
    # Other heads, and the last module's exchange down to the lower branches, which all_outputs=False leaves out.
    elsewhere=r"(incre_modules|downsamp_modules|final_layer|classifier|head)\.|stage4\.\d+\.fuse_layers\.[123]\.",
)
"""Those of the facial-landmark code (HRNetV2), of the pose code and of the ImageNet classification code."""


class BasicBlock(nn.Module):
    """Residual block of two 3x3 convolutions (`conv`: one of `BLOCKS`) that keeps the number of channels."""

    conv: Callable = ConvNorm
    dtype: DTypeLike = jnp.float32
    norm: Callable = layers.batch_norm()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        policy: dict[str, Any] = {"dtype": self.dtype, "norm": self.norm}
        y = self.conv(x.shape[-1], name="conv1", **policy)(x, train)
        y = self.conv(x.shape[-1], activation=None, name="conv2", **policy)(y, train)
        return layers.activated(y + x, nn.relu, train)


# Traced once for all blocks that are alike. Not in evaluation: converters take the weights of functions for no constants.
_SharedBlock = nn.jit(BasicBlock, static_argnums=(2,))


class FusedModule(nn.Module):
    """`blocks` BasicBlocks on every branch, then an exchange: each output is the ReLU of a sum over all branches.

    A lower branch comes up by 1x1 and up-sampling, a higher one comes down by 3x3 convolutions of stride 2.
    `outputs` branches are written (all by default; the pose code's last module writes the highest one alone). Every 3x3
    convolution is a `conv`.
    """

    blocks: int
    upsample: str
    outputs: int | None = None
    conv: Callable = ConvNorm
    dtype: DTypeLike = jnp.float32
    norm: Callable = layers.batch_norm()

    @nn.compact
    def __call__(self, maps: list, train: bool) -> list:
        policy: dict[str, Any] = {"dtype": self.dtype, "norm": self.norm}
        maps = list(maps)
        block = _SharedBlock if train or self.is_initializing() else BasicBlock
        for i in range(len(maps)):
            for k in range(self.blocks):
                maps[i] = block(self.conv, name=f"branch{i}_block{k}", **policy)(maps[i], train)
        sums = [sum(self._contributions(maps, i, train)) for i in range(self.outputs or len(maps))]
        return [layers.activated(x, nn.relu, train) for x in sums]

    def _contributions(self, maps, i, train):
        policy: dict[str, Any] = {"dtype": self.dtype, "norm": self.norm}
        channels, size = maps[i].shape[-1], maps[i].shape[1:3]
        for j, x in enumerate(maps):
            if j > i:
                x = ConvNorm(channels, size=1, activation=None, name=f"fuse{i}_{j}", **policy)(x, train)
                x = layers.upsample(x, size, self.upsample)
            for k in range(i - j):
                last = k == i - j - 1
                features, activation = (channels, None) if last else (x.shape[-1], nn.relu)
                x = self.conv(features, stride=2, activation=activation, name=f"fuse{i}_{j}_step{k}", **policy)(x, train)
            yield x


_SharedModule = nn.jit(FusedModule, static_argnums=(2,))


class Stem(nn.Module):
    """Two 3x3 convolutions of stride 2."""

    width: int
    dtype: DTypeLike = jnp.float32
    norm: Callable = layers.batch_norm()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 c2"]:
        policy: dict[str, Any] = {"dtype": self.dtype, "norm": self.norm}
        x = ConvNorm(self.width, stride=2, name="conv1", **policy)(x, train)
        return ConvNorm(self.width, stride=2, name="conv2", **policy)(x, train)


class Stage1(nn.Module):
    """Bottlenecks at 1/4 of the image."""

    width: int
    blocks: int
    dtype: DTypeLike = jnp.float32
    norm: Callable = layers.batch_norm()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c2"]:
        for k in range(self.blocks):
            x = Bottleneck(self.width, dtype=self.dtype, norm=self.norm, name=f"block{k}")(x, train)
        return x


class Stage(nn.Module):
    """A transition that starts one branch more (of half the lowest resolution), then `modules` fused modules."""

    widths: tuple[int, ...]
    modules: int
    blocks: int
    upsample: str
    outputs: int | None = None
    conv: Callable = ConvNorm
    rematerialise: bool = False
    dtype: DTypeLike = jnp.float32
    norm: Callable = layers.batch_norm()

    @nn.compact
    def __call__(self, maps: list, train: bool) -> list:
        policy: dict[str, Any] = {"dtype": self.dtype, "norm": self.norm}
        if self.rematerialise:
            fused = nn.remat(FusedModule, static_argnums=(2,))
        else:
            fused = _SharedModule if train or self.is_initializing() else FusedModule
        branches = []
        for i, width in enumerate(self.widths):
            new = i >= len(maps)
            x = maps[-1] if new else maps[i]
            if new or x.shape[-1] != width:
                x = ConvNorm(width, stride=2 if new else 1, name=f"transition{i}", **policy)(x, train)
            branches.append(x)
        for m in range(self.modules):
            outputs = self.outputs if m == self.modules - 1 else None
            module = fused(self.blocks, self.upsample, outputs, self.conv, name=f"module{m}", **policy)
            branches = module(branches, train)
        return branches


class HRNet(nn.Module):
    """The HRNet backbone and its slim family: every size is free.

    Narrow branches alone save little: at 256 px the stem and stage 1 cost 1.34 G multiply-adds whatever `width`.

    Attributes:
      width: channels of the branch at 1/4; the others have 2, 4 and 8 times as many.
      modules: fused modules in stages 2, 3 and 4.
      blocks: BasicBlocks on every branch of a module.
      stage1_width: inner channels of stage 1's Bottlenecks, whose output has 4 times as many.
      stage1_blocks: their number.
      stem_width: channels of the two stride-2 convolutions.
      upsample: "bilinear" (facial-landmark code) or "nearest" (pose code).
      all_outputs: the last module writes all four branches. With False only the highest, as in the pose code: what the
        head `V1` needs, without the parameters that it would leave unused.
      block: "basic", or "separable": every 3x3 convolution of the fused modules (the blocks' and the strided ones of the
        exchange) is depthwise and pointwise (`layers.SeparableConvNorm`). Stem, stage 1 and transitions stay dense.
      rematerialise: the backward pass computes each fused module anew instead of keeping what is inside: less memory, about a
        third more time (Chen et al. 2016, arXiv 1604.06174). The numbers stay, but for rounding. For accelerators: XLA on
        CPU merges what is computed anew with what is kept.
      dtype: of the computation.
      norm: constructor from `layers.batch_norm`, of the same dtype.
    """

    width: int = 32
    modules: tuple[int, ...] = (1, 4, 3)
    blocks: int = 4
    stage1_width: int = 64
    stage1_blocks: int = 4
    stem_width: int = 64
    upsample: str = "bilinear"
    all_outputs: bool = True
    block: str = "basic"
    rematerialise: bool = False
    dtype: DTypeLike = jnp.float32
    norm: Callable = layers.batch_norm()

    def __post_init__(self):
        report_together(_problems(self), "HRNet cannot be built")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> tuple[list, dict]:
        """Runs the backbone.

        Args:
          x: images [b, S, S, 3], normalised.
          train: uses and updates batch statistics (collection "batch_stats").

        Returns:
          The branch maps [b, S/4, S/4, W], [b, S/8, S/8, 2W], ... (four, or the first alone without `all_outputs`), and
          the taps by name: "stem", "stage1", and "stageN.i" for the output of stage N on branch i.
        """
        policy: dict[str, Any] = {"dtype": self.dtype, "norm": self.norm}
        taps = {}
        x = taps["stem"] = Stem(self.stem_width, name="stem", **policy)(x, train)
        x = taps["stage1"] = Stage1(self.stage1_width, self.stage1_blocks, name="stage1", **policy)(x, train)
        maps = [x]
        for n, modules in enumerate(self.modules, start=2):
            widths = tuple(self.width * 2**i for i in range(n))
            outputs = 1 if n == 4 and not self.all_outputs else None
            stage = Stage(
                widths,
                modules,
                self.blocks,
                self.upsample,
                outputs,
                BLOCKS[self.block],
                self.rematerialise,
                name=f"stage{n}",
                **policy,
            )
            maps = stage(maps, train)
            taps |= {f"stage{n}.{i}": y for i, y in enumerate(maps)}
        return maps, taps


def _problems(net: HRNet) -> list[str]:
    sizes = {n: getattr(net, n) for n in ("width", "blocks", "stage1_width", "stage1_blocks", "stem_width")}
    sizes |= {f"modules[{i}]": m for i, m in enumerate(net.modules)}
    problems = [f"{name}: needs a whole number of at least 1, got {v!r}" for name, v in sizes.items() if not _natural(v)]
    if len(net.modules) != 3:
        problems.append(f"modules: needs three numbers, for stages 2, 3 and 4, got {net.modules!r}")
    if net.upsample not in layers.UPSAMPLING:
        problems.append(f"upsample: needs one of {', '.join(layers.UPSAMPLING)}, got {net.upsample!r}")
    if net.block not in BLOCKS:
        problems.append(str(unknown("block", net.block, BLOCKS)))
    return problems


def _natural(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
