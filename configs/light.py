"""Plain light baselines, what the method must beat: MobileNetV2 and ShuffleNetV2 with a light heatmap head, at several widths.

    python -m lmkd.main --config=configs/light.py          # 300W at 256 px
    python -m lmkd.main --config=configs/light.py:small    # synthetic faces at 64 px, on a laptop

Objective, optimiser and average of parameters are the slim HRNet's of `configs/faces68.py`.
"""

from ml_collections import ConfigDict

from lmkd.configs import common, systems, variants

MOBILENET_WIDTHS, SHUFFLENET_WIDTHS = (0.5, 0.75, 1.0), (0.5, 1.0)


def get_config(variant: str | None = None) -> ConfigDict:
    """Returns the config."""
    config = common.get_config()
    config.data.test = ("the300w:common", "the300w:challenging", "the300w:full")
    config.augment.colour = 0.3
    config.stage = ConfigDict()
    for width in MOBILENET_WIDTHS:
        config.stage[f"mobilenet_v2_{100 * width:.0f}"] = _stage(systems.mobilenet_v2, f"MobileNetV2 x{width:g}", width)
    for width in SHUFFLENET_WIDTHS:
        config.stage[f"shufflenet_v2_{100 * width:.0f}"] = _stage(systems.shufflenet_v2, f"ShuffleNetV2 x{width:g}", width)
    config.stages = tuple(config.stage)
    config.ablation.baseline = "MobileNetV2 x1"
    config.ablation.front = True
    return variants.finish(config, variant)


def _stage(backbone, row: str, width: float) -> ConfigDict:
    s = common.stage()
    common.slim_hrnet(s)
    backbone(s, width)
    systems.light(s)
    s.row = row
    return s
