"""The method in small, on synthetic faces: two teachers, then a slim HRNet under them, scores and a report, on a laptop.

python -m lmkd.main --config=configs/quickstart.py
"""

from ml_collections import ConfigDict

from lmkd.configs import common, method, variants

WARM_UP = "80 steps"


def get_config(variant: str | None = None) -> ConfigDict:
    """Returns the quickstart's config."""
    config = common.get_config()
    config.data.train = ("synthetic_faces/quickstart_68:train",)
    config.data.validation = ("synthetic_faces/quickstart_68:validation",)
    config.data.test = ("synthetic_faces/quickstart_68:test",)
    config.data.image_px = 64
    config.augment.colour = 0.3
    method.stages(config, teacher=_teacher, student=_student, warm_up=WARM_UP, neck_channels=32)
    for s in config.stage.values():
        # Half the depth that networks have elsewhere: a third of the ten minutes was compilation.
        s.model.backbone_options.modules, s.model.backbone_options.blocks = (1, 1, 1), 1
    config.expected = "student NME 9.2 to 9.9 % on 300 synthetic test faces, teacher_w32 7.9 to 8.5 %"
    return variants.finish(config, variant)


def _teacher(s: ConfigDict) -> None:
    _student(s)
    s.model.backbone_options.width = 20
    s.train.length = "450 steps"


def _student(s: ConfigDict) -> None:
    common.slim_hrnet(s, width=8)
    s.train.length = "400 steps"
    s.train.validate_every = "200 steps"
    s.train.save_every = "200 steps"
    s.train.shares_every = "200 steps"
