"""The quickstart in its smoke form with networks of two layers."""

from patches import with_patches

from lmkd.configs import quickstart


def get_config(variant=None):
    return with_patches(quickstart.get_config(f"{variant},smoke" if variant else "smoke"))
