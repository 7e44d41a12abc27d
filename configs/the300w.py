"""The method on 300W, 68 points, 256 px, for an accelerator: teachers by the published recipe, then a slim HRNet under them.

    python -m lmkd.prepare --dataset=the300w --manual_dir=DIR  # DIR holds afw/ helen/ lfpw/ ibug/ Test/
    python -m lmkd.main --config=configs/the300w.py

Stages teacher_w32 (HRNet-W32, head V1), teacher_v2p (HRNet-W32, head V2p), student (slim HRNet). Not measured here: it needs an
accelerator and the whole data set. Published for HRNetV2-W18 (quoted, other code, crops from the true points): common /
challenging / full 2.91 / 5.11 / 3.34 (Sun et al.'s repository). A partial tree takes --partial when it is prepared and
--config.data.partial here, and is scored by --config.data.test="('the300w:common',)".
"""

from ml_collections import ConfigDict

from lmkd.configs import common, method, variants

WARM_UP = "5 epochs"


def get_config(variant: str | None = None) -> ConfigDict:
    """Returns the config."""
    config = common.get_config()
    config.data.train = ("the300w:train",)
    config.data.test = ("the300w:common", "the300w:challenging", "the300w:full")
    config.heatmap.sigma_cells = 1.0
    method.stages(config, teacher=method.published_teacher, student=method.published_student, warm_up=WARM_UP)
    return variants.finish(config, variant)
