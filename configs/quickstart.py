"""A slim HRNet on synthetic faces: from nothing to a trained network, its scores and a report, on a laptop.

python -m lmkd.main --config=configs/quickstart.py
"""

from ml_collections import ConfigDict

from lmkd.configs import common


def get_config(variant: str | None = None) -> ConfigDict:
    """Returns the quickstart's config."""
    config = common.get_config()
    config.data.train = ("synthetic_faces/quickstart_68:train",)
    config.data.validation = ("synthetic_faces/quickstart_68:validation",)
    config.data.test = ("synthetic_faces/quickstart_68:test",)
    config.data.image_px = 96
    config.augment.colour = 0.3
    config.expected = "NME about 6.7 % on the synthetic test faces; 6 to 7 minutes on two cores"
    s = config.stage.student
    common.slim_hrnet(s)
    s.train.length = "600 steps"
    s.train.validate_every = "200 steps"
    s.train.save_every = "200 steps"
    return common.finish(config, variant)
