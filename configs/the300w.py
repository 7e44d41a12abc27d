"""HRNetV2-W18 on 300W, 68 points, 256 px: the published recipe with a sub-pixel decoder, for an accelerator.

    python -m lmkd.prepare --dataset=the300w --manual_dir=DIR  # DIR holds afw/ helen/ lfpw/ ibug/ Test/
    python -m lmkd.main --config=configs/the300w.py

Published for this network (quoted, other code, crops from the true points): common / challenging / full 2.91 / 5.11 / 3.34
(Sun et al.'s repository). Not measured here: it needs an accelerator and the whole data set. A partial tree takes --partial
when it is prepared and --config.data.partial here, and is scored by --config.data.test="('the300w:common',)".
"""

from ml_collections import ConfigDict

from lmkd.configs import common


def get_config(variant: str | None = None) -> ConfigDict:
    """Returns the config."""
    config = common.get_config()
    config.data.train = ("the300w:train",)
    config.data.test = ("the300w:common", "the300w:challenging", "the300w:full")
    config.heatmap.sigma_cells = 1.0
    common.published_hrnet(config.stage.student)
    return common.finish(config, variant)
