"""HRNetV2-W18 on WFLW, 98 points, 256 px: the published recipe with a sub-pixel decoder, for an accelerator.

    python -m lmkd.prepare --dataset=wflw --manual_dir=DIR     # DIR holds WFLW_images/ and WFLW_annotations/
    python -m lmkd.main --config=configs/wflw.py

Published for this network (quoted, other code, crops from the true points): NME 4.60 (Sun et al.'s repository), 4.06 (mmpose,
better recipe). Not measured here: it needs the images and an accelerator. For ImageNet weights:
--config.stage.student.model.weights=hrnetv2_w18_imagenet.pth (needs torch to read it; .npz and .safetensors do not).
"""

from ml_collections import ConfigDict

from lmkd.configs import common


def get_config(variant: str | None = None) -> ConfigDict:
    """Returns the config."""
    config = common.get_config()
    config.data.train = ("wflw:train",)
    config.data.test = ("wflw:test",)
    config.data.test_crops = ("landmarks", "rectangle")
    config.heatmap.sigma_cells = 1.5
    common.published_hrnet(config.stage.student)
    return common.finish(config, variant)
