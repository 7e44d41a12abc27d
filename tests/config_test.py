"""Configs: lengths, the whole check in one message, JSON, changes that a stage refuses, and every shipped file."""

from pathlib import Path

import pytest
from shipped import EXPERIMENTS

from lmkd import config as configs
from lmkd import kept_configs
from lmkd.configs import common
from lmkd.core.errors import UserError


@pytest.mark.parametrize(
    "text,steps",
    [("500 steps", 500), ("1 step", 1), ("60 epochs", 3750), ("1e6 examples", 62500), ("0.5 epochs", 31), ("0 steps", 0),
     ("0.001 epochs", 1)],
)  # fmt: skip
def test_lengths_become_steps(text, steps):
    assert configs.length_in_steps(text, faces=1000, batch_size=16, where="here") == steps


@pytest.mark.parametrize("text", ["60", "60 epoch s", "sixty epochs", "-1 steps", "60 hours", "1.2.3 steps", ""])
def test_what_is_no_length_is_refused_with_its_place(text):
    with pytest.raises(UserError, match="config.x.*steps, epochs, examples"):
        configs.length_in_steps(text, faces=1000, batch_size=16, where="config.x")


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("variant", [None, "smoke"])
def test_every_shipped_config_passes_its_check(name, variant):
    configs.check(configs.load(f"configs/{name}.py" + (f":{variant}" if variant else "")))


@pytest.mark.parametrize("name", sorted(set(EXPERIMENTS) - {"ablation", "compare", "finetune", "study"}))
def test_plain_is_one_stage_that_needs_no_other(name):
    config = configs.load(f"configs/{name}.py:plain")
    configs.check(config)
    (stage,) = config.stages
    assert not config.stage[stage].teachers and config.stage[stage].terms


def test_a_shorter_study_shortens_what_its_critics_wait_for():
    whole, tenth = (configs.load(f"configs/study.py:laptop,sizes=1m,seeds=1{part}") for part in ("", ",length=10"))
    lengths = [(s.train.length, s.terms.adversarial_w32.schedule.begin) for s in (c.stage.taught_1m_s0 for c in (whole, tenth))]
    assert lengths == [("6000 steps", "1000 steps"), ("600 steps", "100 steps")]


def test_all_problems_come_in_one_message():
    config = common.get_config()
    config.stages = ("student", "teacher")
    config.data.crop = "landmark"
    config.data.image_px = 100
    config.augment.flip_p = 1.5
    config.heatmap.decoder = "darc"
    config.stage.student.model.backbone = "hrnet.HRNett"
    config.stage.student.model.head_options = {"neck": 3}
    config.stage.student.terms.heatmap.type = "ground_truth.HeatmapMSEE"
    config.stage.student.train.length = "60"
    config.stage.student.optimizer.name = "adamx"
    with pytest.raises(UserError) as error:
        configs.check(config)
    message = str(error.value)
    for part in (
        "unknown stage 'teacher'", "Did you mean 'landmarks'", "config.data.image_px: 100 is no multiple of 32",
        "config.augment.flip_p: 1.5", "Did you mean 'dark'", "Did you mean 'hrnet.HRNet'",
        "unknown option of head heads.V2 'neck'",
        "Did you mean 'ground_truth.HeatmapMSE'", "'60' is no length", "Did you mean 'adam",
    ):  # fmt: skip
        assert part in message, part
    assert "(10 problems)" in message


def test_cross_entropy_needs_softmax_maps():
    config = common.get_config()
    config.stage.student.terms = {"ce": common.term("ground_truth.PositionCrossEntropy")}
    with pytest.raises(UserError, match="heatmap_activation='softmax'"):
        configs.check(config)


def test_json_round_trip():
    config = common.get_config()
    assert kept_configs.from_json(kept_configs.to_json(config)) == config


def test_changes_that_shape_a_stage_are_named_and_others_are_free():
    before, now = common.get_config(), common.get_config()
    now.stage.student.optimizer.learning_rate = 5e-4
    now.data.crop_scale = 1.1
    now.data.threads = 8
    now.evaluation.flip_test = False
    now.evaluation.normaliser = "box"
    now.stage.student.train.log_every = "1 steps"
    shaping = ["data.crop_scale: 1.25 -> 1.1", "stage.student.optimizer.learning_rate: 0.001 -> 0.0005"]
    assert kept_configs.changed_keys(before, now, "student", finished=True) == shaping
    choosing = ["evaluation.normaliser:  -> box"]  # the best checkpoint, while it is yet to be chosen
    assert kept_configs.changed_keys(before, now, "student", finished=False) == [shaping[0], *choosing, shaping[1]]


def test_a_shipped_config_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Path(configs.resolve_path("configs/quickstart.py:smoke").partition(":")[0]).is_file()
    assert configs.resolve_path("configs/quickstart.py:smoke").endswith("quickstart.py:smoke")
    with pytest.raises(UserError, match="Did you mean 'quickstart.py'"):
        configs.resolve_path("configs/quickstrat.py")


def test_unknown_variant_is_refused():
    with pytest.raises(UserError, match="Did you mean 'smoke'"):
        configs.load("configs/quickstart.py:smok")
