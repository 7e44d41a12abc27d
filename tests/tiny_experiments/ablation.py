"""The ablation in its smoke form, two seeds, with networks of two layers."""

from patches import with_patches

from lmkd.configs import ablation


def get_config(variant=None):
    return with_patches(ablation.get_config("smoke,seeds=2"))
