"""The method on WFLW, 98 points, 256 px, for an accelerator: teachers by the published recipe, then a slim HRNet under them.

    python -m lmkd.prepare --dataset=wflw --manual_dir=DIR     # DIR holds WFLW_images/ and WFLW_annotations/
    python -m lmkd.main --config=configs/wflw.py

Stages teacher_w32 (HRNet-W32, head V1), teacher_v2p (HRNet-W32, head V2p), student (slim HRNet). Not measured here: it needs
the images and an accelerator. Published for HRNetV2-W18 (quoted, other code, crops from the true points): 4.60 (Sun et al.),
4.06 (mmpose, better recipe). For ImageNet weights of a teacher:
--config.stage.teacher_w32.model.weights=hrnetv2_w32_imagenet.pth (needs torch to read it; .npz and .safetensors do not).
"""

from ml_collections import ConfigDict

from lmkd.configs import common, method, variants


def get_config(variant: str | None = None) -> ConfigDict:
    """Returns the config."""
    config = common.get_config()
    config.data.train = ("wflw:train",)
    config.data.test = ("wflw:test",)
    config.data.test_crops = ("landmarks", "rectangle")
    config.heatmap.sigma_cells = 1.5
    method.stages(config, teacher=method.published_teacher, student=method.published_student, warm_up="5 epochs")
    return variants.finish(config, variant)
