"""The ablation in its smoke form, two seeds, with networks of two layers."""

from patches import with_patches

from lmkd.configs import ablation


def get_config(variant=None):
    config = with_patches(ablation.get_config("smoke,seeds=2"))
    config.stage.everything_one_teacher_s1.terms.adversarial_w32.options.all_points = False  # what a test switches on
    return config
