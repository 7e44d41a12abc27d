"""A checkpoint on disk of a network that compiles in a moment: nobody trained it, its norms are not at their first values."""

import json
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from lmkd import build, kept_configs
from lmkd.configs import common
from lmkd.core import schemes
from lmkd.exporters import orbax
from lmkd.models import initialise

SIDE_PX = 32
SCHEME = schemes.get("300w68")
PROVENANCE = {
    "name": "made_up", "config_name": "", "split": "train", "found": 3, "published": 4, "missing": "one", "licence": "none",
}  # fmt: skip


def tiny_config() -> ConfigDict:
    """One stage whose backbone is a single convolution."""
    config = common.get_config()
    config.data.image_px = SIDE_PX
    config.data.data_dir = "/somewhere/private"
    model = config.stage.student.model
    model.backbone, model.backbone_options = "tiny_models.PatchBackbone", ConfigDict({"width": 4})
    model.head, model.head_options = "heads.V2", ConfigDict()
    return config


def write(folder: Path, config: ConfigDict | None = None, *, scheme: schemes.Scheme = SCHEME, seed: int = 0) -> Path:
    """Writes a checkpoint as one step's folder and returns its path."""
    config = config or tiny_config()
    net = build.model(config.stage.student, config, scheme)
    variables = with_moved_norms(initialise.initial_variables(net, config.data.image_px, seed=seed), seed)
    variables["params"]["head"]["final"]["kernel"] *= (
        100  # else every map is nearly constant, and its peak a matter of rounding
    )
    meta = {
        "format": build.META_FORMAT,
        "stage": "student",
        "config": json.loads(kept_configs.to_json(config)),
        "scheme": json.loads(scheme.to_json()),
        "training_data": [PROVENANCE],
        "teachers": {"w32": "secret"},
        "versions": {"lmkd": "0"},
    }
    folder.mkdir(parents=True)
    orbax.write_checkpoint(folder, variables, meta)
    return folder


def with_moved_norms(variables, seed: int):
    """Returns variables with batch norms as after training: scales, shifts, means and variances of their own."""
    rng = np.random.default_rng(seed)

    def moved(tree, path=()):
        if not isinstance(tree, dict):
            kind = {"scale": (0.5, 1.5), "var": (0.5, 2.0), "mean": (-0.5, 0.5)}.get(path[-1])
            low, high = (-0.5, 0.5) if kind is None and path[-1] == "bias" else kind or (0, 0)
            return rng.uniform(low, high, tree.shape).astype(np.float32) if low < high else np.asarray(tree)
        return {name: moved(value, (*path, name)) for name, value in tree.items()}

    return moved(dict(variables))
