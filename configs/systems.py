"""Backbones and recipes of the other published systems, as changes of a stage, for `configs/compact.py` and its neighbours.

`docs/systems.md` says what each paper has, what is the same here and what differs.
"""

from ml_collections import ConfigDict

from lmkd.configs import common


def resnet50(s: ConfigDict) -> None:
    """ResNet-50 (He et al. 2016)."""
    s.model.backbone = "resnet.ResNet50"
    s.model.backbone_options = ConfigDict({"width": 64, "blocks": (3, 4, 6, 3)})


def stud5(s: ConfigDict) -> None:
    """Five convolutions, batch norms and poolings (Shukla & Huang 2021)."""
    s.model.backbone = "stud5.Stud5"
    s.model.backbone_options = ConfigDict({"widths": (64, 128, 256, 512, 512)})


def mobilenet_v2(s: ConfigDict, width: float = 1.0) -> None:
    """MobileNetV2 (Sandler et al. 2018), its last 1x1 convolution included."""
    s.model.backbone = "mobilenet_v2.MobileNetV2"
    s.model.backbone_options = ConfigDict({"width": width, "top": True})


def shufflenet_v2(s: ConfigDict, width: float = 1.0) -> None:
    """ShuffleNetV2 (Ma et al. 2018), without its last 1x1 convolution."""
    s.model.backbone = "shufflenet_v2.ShuffleNetV2"
    s.model.backbone_options = ConfigDict({"width": width, "top": False})


def efficientnet_b3(s: ConfigDict) -> None:
    """EfficientNet-B3 (Tan & Le 2019)."""
    s.model.backbone = "efficientnet.EfficientNet"
    s.model.backbone_options = ConfigDict({"width": 1.2, "depth": 1.4, "top": True})


def swin_v2_base(s: ConfigDict) -> None:
    """Swin V2-B, window 16 (Liu et al. 2022)."""
    s.model.backbone = "swin_v2.SwinV2"
    s.model.backbone_options = ConfigDict(
        {
            "embed": 128,
            "depths": (2, 2, 18, 2),
            "heads": (4, 8, 16, 32),
            "window": 16,
            "pretrained_windows": (12, 12, 12, 6),
        }
    )


def mobilevit_v2(s: ConfigDict, multiplier: float = 0.5) -> None:
    """MobileViT v2 (Mehta & Rastegari 2022)."""
    s.model.backbone = "mobilevit_v2.MobileViTV2"
    s.model.backbone_options = ConfigDict({"multiplier": multiplier})


def light(s: ConfigDict, channels: int = 64) -> None:
    """A light heatmap head on all four maps, trained as the slim HRNet is."""
    s.model.head, s.model.head_options = "light.Light", ConfigDict({"channels": channels})


def coordinates(s: ConfigDict) -> None:
    """Points by global pooling and one dense layer, trained by squared L2 in fractions of the crop."""
    s.model.head, s.model.head_options = "coordinates.Pooled", ConfigDict()
    s.terms = ConfigDict()
    s.terms.truth = common.term("coordinates.PointL2", scale=100.0)


def deconvolutions(s: ConfigDict, channels: int, kernel: int) -> None:
    """Three transposed convolutions on the lowest map (Xiao et al. 2018), heatmap MSE."""
    s.model.head = "deconvolution.Deconvolutions"
    s.model.head_options = ConfigDict({"channels": channels, "kernel": kernel})
    s.terms = ConfigDict()
    s.terms.heatmap = common.term("ground_truth.HeatmapMSE", scale=1000.0)


def adam(s: ConfigDict, length: str, rate: float = 1e-3, drops: tuple[str, ...] = (), batch_size: int = 16) -> None:
    """Adam with a rate that falls by 10 at `drops`."""
    s.optimizer.name, s.optimizer.learning_rate, s.optimizer.weight_decay = "adam", rate, 0.0
    s.optimizer.schedule, s.optimizer.boundaries = "step", drops
    s.train.length, s.train.batch_size = length, batch_size
