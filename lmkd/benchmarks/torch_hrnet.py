"""A plain PyTorch HRNet of the same shape as ours, for the benchmark's comparison alone.

    network = network(options, num_points=68, mean=..., std=...)      # uint8 [b, S, S, 3] -> (points_cells, heatmaps)

Layer for layer `lmkd.models.hrnet.HRNet` with "basic" blocks and head `V2`, in evaluation mode, freshly drawn. Decoding is
the plain argmax, the least that anybody would write beside it. `like(net)` takes the shape from one of ours.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lmkd.models.heads import V2
from lmkd.models.hrnet import HRNet
from lmkd.models.landmarker import Landmarker

OPTIONS = ("width", "modules", "blocks", "stage1_width", "stage1_blocks", "stem_width", "upsample")


def like(net: Landmarker) -> Any:
    """Returns PyTorch's network of the shape of ours.

    Raises:
      Unlike: ours is no HRNet of basic blocks with head V2 on all its branches, or torch is missing; the message says it.
    """
    hrnet = net.backbone
    if not (isinstance(hrnet, HRNet) and isinstance(net.head, V2) and hrnet.block == "basic" and hrnet.all_outputs):
        raise Unlike("PyTorch: its rows are for an HRNet of basic blocks with head V2 and backbone_options.all_outputs=True")
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise Unlike(f"PyTorch: {error}") from error
    options = {name: getattr(net.backbone, name) for name in OPTIONS}
    return network(options, num_points=net.head.num_points, mean=net.mean, std=net.std)


class Unlike(Exception):
    """There is no PyTorch network beside this one."""


def network(options: Mapping[str, Any], *, num_points: int, mean: Sequence[float], std: Sequence[float]) -> Any:
    """Builds the network.

    Args:
      options: HRNet's fields: width, modules, blocks, stage1_width, stage1_blocks, stem_width, upsample.
      num_points: K.
      mean: of the pixels, RGB in 0..255.
      std: as `mean`.

    Returns:
      A `torch.nn.Module` in evaluation mode.
    """
    import torch
    from torch import nn

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            width, stem, inner = options["width"], options["stem_width"], options["stage1_width"]
            self.register_buffer("mean", torch.tensor(mean).reshape(1, 3, 1, 1))
            self.register_buffer("std", torch.tensor(std).reshape(1, 3, 1, 1))
            self.stem = nn.Sequential(_conv_norm(3, stem, 3, 2), _conv_norm(stem, stem, 3, 2))
            blocks = [_bottleneck(stem if k == 0 else 4 * inner, inner) for k in range(options["stage1_blocks"])]
            self.stage1 = nn.Sequential(*blocks)
            channels, stages = [4 * inner], []
            for n, modules in enumerate(options["modules"], start=2):
                widths = [width * 2**i for i in range(n)]
                stages.append(_stage(channels, widths, modules, options["blocks"], options["upsample"]))
                channels = widths
            self.stages = nn.ModuleList(stages)
            self.mix = _conv_norm(sum(channels), sum(channels), 1, bias=True)
            self.final = nn.Conv2d(sum(channels), num_points, 1)

        def heatmaps(self, crops: Any) -> Any:
            """Maps [b, K, S/4, S/4]: what a training step takes the loss of."""
            x = (crops.permute(0, 3, 1, 2).float() - self.mean) / self.std
            maps = [self.stage1(self.stem(x))]
            for stage in self.stages:
                maps = stage(maps)
            size = maps[0].shape[2:]
            enlarged = [maps[0]] + [nn.functional.interpolate(m, size=size, mode="bilinear") for m in maps[1:]]
            return self.final(self.mix(torch.cat(enlarged, 1)))

        def forward(self, crops: Any) -> Any:
            heatmaps = self.heatmaps(crops)
            best, width = heatmaps.flatten(2).argmax(-1), heatmaps.shape[-1]
            return torch.stack([best % width, best // width], -1), heatmaps

    return Whole().eval()


def _conv_norm(inputs: int, outputs: int, size: int, stride: int = 1, *, relu: bool = True, bias: bool = False) -> Any:
    from torch import nn

    layers = [nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=bias), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if relu else []))


def _residual(body: Any, shortcut: Any) -> Any:
    import torch
    from torch import nn

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.shortcut = body, shortcut

        def forward(self, x: Any) -> Any:
            return torch.relu(self.body(x) + self.shortcut(x))

    return Residual()


def _bottleneck(inputs: int, width: int) -> Any:
    from torch import nn

    body = nn.Sequential(_conv_norm(inputs, width, 1), _conv_norm(width, width, 3), _conv_norm(width, 4 * width, 1, relu=False))
    return _residual(body, nn.Identity() if inputs == 4 * width else _conv_norm(inputs, 4 * width, 1, relu=False))


def _basic(width: int) -> Any:
    from torch import nn

    return _residual(nn.Sequential(_conv_norm(width, width, 3), _conv_norm(width, width, 3, relu=False)), nn.Identity())


def _stage(before: Sequence[int], widths: Sequence[int], modules: int, blocks: int, upsample: str) -> Any:
    from torch import nn

    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            made = [
                _conv_norm(before[-1], w, 3, 2) if i >= len(before) else nn.Identity() if before[i] == w else
                _conv_norm(before[i], w, 3)
                for i, w in enumerate(widths)
            ]  # fmt: skip
            self.transitions = nn.ModuleList(made)
            self.modules_ = nn.Sequential(*(_fused(widths, blocks, upsample) for _ in range(modules)))

        def forward(self, maps: Any) -> Any:
            return self.modules_([t(maps[min(i, len(maps) - 1)]) for i, t in enumerate(self.transitions)])

    return Stage()


def _fused(widths: Sequence[int], blocks: int, upsample: str) -> Any:
    import torch
    from torch import nn

    def exchange(i: int, j: int) -> Any:
        if j > i:
            return _conv_norm(widths[j], widths[i], 1, relu=False)
        steps = range(i - j)
        last = i - j - 1
        return nn.Sequential(
            *(_conv_norm(widths[j], widths[i] if k == last else widths[j], 3, 2, relu=k != last) for k in steps)
        )

    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branches = nn.ModuleList(nn.Sequential(*(_basic(w) for _ in range(blocks))) for w in widths)
            self.exchanges = nn.ModuleList(
                nn.ModuleList(exchange(i, j) for j in range(len(widths))) for i in range(len(widths))
            )

        def forward(self, maps: Any) -> Any:
            maps = [branch(m) for branch, m in zip(self.branches, maps, strict=True)]
            found = []
            for i, row in enumerate(self.exchanges):
                parts = [step(m) for step, m in zip(row, maps, strict=True)]
                size = maps[i].shape[2:]
                parts = [nn.functional.interpolate(p, size=size, mode=upsample) if j > i else p for j, p in enumerate(parts)]
                found.append(torch.relu(sum(parts[1:], parts[0])))
            return found

    return Fused()
