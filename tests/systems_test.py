"""Every stage of every shipped experiment, small enough to trace: networks, teachers, terms and first weights fit together."""

from pathlib import Path

import jax
import numpy as np
import pytest
import shipped

from lmkd import build, stages
from lmkd import config as configs
from lmkd.core import schemes
from lmkd.models import cost

EXPERIMENTS = (
    "compact",
    "faces68",
    "finetune",
    "kd_loss",
    "light",
    "mobilefan",
    "quickstart",
    "star",
    "study",
    "the300w",
    "wflw",
)
# Sources in the configs' own tests of backbones; the counts of whole networks are those of the papers' tables.
PARTS = {"study": ",sizes=1m,seeds=1"}  # the other sizes and seeds are alike
PARAMETERS = {("compact", "resnet50"): 23_780_424, ("compact", "stud5"): 3_982_344}


def test_no_experiment_is_forgotten():
    assert shipped.MODULES - set(EXPERIMENTS) == shipped.PARTS | {"ablation", "compare"}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_stages_fit_each_other(name):
    config = configs.load(f"configs/{name}.py:smoke{PARTS.get(name, '')}")
    scheme = schemes.get("wflw98" if name == "wflw" else "300w68")
    trained: dict[str, build.Loaded] = {}
    for stage in config.stages:
        part = config.stage[stage]
        teachers = {teacher: trained[place] for teacher, place in part.teachers.items()}
        built = stages.training(config, stage, scheme, teachers, lambda text: int(float(text.split()[0])))
        assert np.isfinite(sum(float(np.sum(p)) for p in jax.tree.leaves(built.first.params)))
        variables = {"params": built.first.params, "batch_stats": built.first.batch_stats}
        meta = {"stage": stage}
        trained[stage] = build.Loaded(built.net, variables, scheme, config, meta, Path(stage), "last")
        if part.model.start_from:
            before = teachers[part.model.start_from].variables["params"]
            for shared in part.model.start_parts:
                same = {key: before[shared][key] for key in variables["params"][shared]}
                jax.tree.map(np.testing.assert_array_equal, variables["params"][shared], same)


@pytest.mark.parametrize("name,stage", PARAMETERS)
def test_whole_networks_have_the_published_number_of_parameters(name, stage):
    config = configs.load(f"configs/{name}.py")
    part = config.stage[stage]
    net = build.model(part, config, schemes.get("300w68"))
    assert cost.total(cost.count(net, build.image_px(part, config))).parameters == PARAMETERS[name, stage]
