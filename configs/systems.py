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
