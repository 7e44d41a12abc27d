"""Fard & Mahoor 2022 (KD-Loss, arXiv 2111.07047): a tough and a tolerant EfficientNet-B3 teach MobileNetV2, by coordinates.

    python -m lmkd.main --config=configs/kd_loss.py          # 300W at 224 px, an accelerator
    python -m lmkd.main --config=configs/kd_loss.py:small    # synthetic faces at 64 px, on a laptop

The tough teacher learns the points as annotated, the tolerant one points smoothed by an active shape model (90 % of the
variance); the student's loss has a main part and an assistive part a teacher, 2 : 1 : 1. Adam 1e-3, batch 70, 150 epochs.
"""

from ml_collections import ConfigDict

from lmkd.configs import common, systems, variants


def get_config(variant: str | None = None) -> ConfigDict:
    """Returns the config."""
    config = common.get_config()
    config.data.test = ("the300w:common", "the300w:challenging", "the300w:full")
    config.data.image_px = 224
    config.augment.colour = 0.3
    config.stage = ConfigDict()
    config.stage.tough = _stage(systems.efficientnet_b3, "tough teacher")
    config.stage.tolerant = _stage(systems.efficientnet_b3, "tolerant teacher")
    config.stage.tolerant.train.smooth_points = 0.9
    config.stage.plain = _stage(systems.mobilenet_v2, "MobileNetV2, plain")
    config.stage.student = distilled(_stage(systems.mobilenet_v2, "MobileNetV2 + KD-loss"))
    config.stages = ("tough", "tolerant", "plain", "student")
    config.ablation.baseline = "MobileNetV2, plain"
    return variants.finish(config, variant)


def _stage(backbone, row: str) -> ConfigDict:
    s = common.stage()
    backbone(s)
    systems.coordinates(s)
    systems.adam(s, length="150 epochs", batch_size=70)
    s.row = row
    return s


def distilled(s: ConfigDict, tough: str = "tough", tolerant: str = "tolerant") -> ConfigDict:
    """The KD-loss in the place of squared L2."""
    s.teachers.tough, s.teachers.tolerant = tough, tolerant
    s.terms = ConfigDict()
    s.terms.kd = common.term("assistive.KDLoss", tough="tough", tolerant="tolerant")
    return s
