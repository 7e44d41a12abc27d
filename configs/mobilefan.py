"""MobileFAN (Zhao et al. 2019, arXiv 1908.03839): ResNet-50 + 3 deconvolutions teach MobileNetV2 + 3 deconvolutions.

    python -m lmkd.main --config=configs/mobilefan.py          # WFLW at 256 px, an accelerator
    python -m lmkd.main --config=configs/mobilefan.py:small    # synthetic faces at 64 px, on a laptop

Feature-aligned distillation (1x1 aligned maps after each deconvolution) and feature-similarity distillation (cosines between
all pairs of positions), each times 0.01, beside the heatmaps' mean squared error. Adam 1e-3, batch 8, 80 epochs, divided by 10
after 30 and 50.
"""

from ml_collections import ConfigDict

from lmkd.configs import common, systems, variants


def get_config(variant: str | None = None) -> ConfigDict:
    """Returns the config."""
    config = common.get_config()
    config.data.train = ("wflw:train",)
    config.data.test = ("wflw:test",)
    config.stage = ConfigDict()
    config.stage.teacher = _stage(systems.resnet50, "ResNet-50 + 3 deconvolutions", channels=256, kernel=4)
    config.stage.plain = _stage(systems.mobilenet_v2, "MobileFAN, plain", channels=128, kernel=2)
    config.stage.student = distilled(_stage(systems.mobilenet_v2, "MobileFAN + distillation", channels=128, kernel=2))
    config.stages = ("teacher", "plain", "student")
    config.ablation.baseline = "MobileFAN, plain"
    return variants.finish(config, variant)


def _stage(backbone, row: str, channels: int, kernel: int) -> ConfigDict:
    s = common.stage()
    backbone(s)
    systems.deconvolutions(s, channels, kernel)
    systems.adam(s, length="80 epochs", drops=("30 epochs", "50 epochs"), batch_size=8)
    s.row = row
    return s


def distilled(s: ConfigDict, teacher: str = "teacher") -> ConfigDict:
    """+ feature-aligned and feature-similarity terms; heatmap MSE is scaled by 1000 here, and so are they."""
    s.teachers.teacher = teacher
    s.terms.aligned = common.term("features.FeatureAligned", weight=10.0)
    s.terms.similarity = common.term("features.PatchSimilarity", weight=10.0)
    return s
