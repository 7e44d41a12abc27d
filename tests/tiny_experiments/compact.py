"""Compact distillation in its smoke form with networks of two layers, whose one tap stands for the last convolution."""

from patches import with_patches

from lmkd.configs import compact


def get_config(variant=None):
    config = with_patches(compact.get_config("smoke"))
    config.stage.stud5_hint.terms.hint.options.update({"student_tap": "features", "teacher_tap": "features"})
    return config
