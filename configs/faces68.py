"""The method on real faces, 68 points, on a laptop: 300W's training images, scored on 300W common.

    LMKD_REAL_DATA=DIR python -m lmkd.main --config=configs/faces68.py

DIR holds `the300w/` in its published layout (and `youtube_faces68/`, where a config asks for its frames); incomplete trees are
accepted, and the report says what is missing. Without LMKD_REAL_DATA the data sets must be prepared already (python -m
lmkd.prepare). YouTube's frames were training faces too, once: with their automatic labels they cost 0.3 points of NME
(docs/results.md).
"""

import os

from ml_collections import ConfigDict

from lmkd.configs import common, method, variants

WARM_UP = "1000 steps"
NECK_CHANNELS = 48  # of the second teacher's pyramid


def get_config(variant: str | None = None) -> ConfigDict:
    """Returns the config of the real-face run."""
    config = common.get_config()
    config.data.train, config.data.validation = ("the300w:train_photos",), ("the300w:validation_photos",)
    config.data.test = ("the300w:common",)
    config.data.image_px = 96
    config.data.partial = True
    real = os.environ.get("LMKD_REAL_DATA", "")
    if real:
        config.data.manual_dirs.the300w = os.path.join(real, "the300w")
        config.data.manual_dirs.youtube_faces68 = os.path.join(real, "youtube_faces68")
    config.augment.colour = 0.3
    config.augment.shift = 0.03
    config.augment.blur_p = 0.15
    config.augment.grey_p = 0.1
    config.augment.occlusion_p = 0.2
    method.stages(config, teacher=_teacher, student=_student, warm_up=WARM_UP, neck_channels=NECK_CHANNELS)
    return variants.finish(config, variant)


def _teacher(s: ConfigDict) -> None:
    _student(s)
    common.slim_hrnet(s, width=32)


def _student(s: ConfigDict) -> None:
    common.slim_hrnet(s)
    s.train.length = "6000 steps"
    s.train.validate_every = "1500 steps"
    s.train.save_every = "500 steps"
    s.train.shares_every = "1000 steps"
