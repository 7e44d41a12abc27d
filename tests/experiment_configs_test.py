"""The configs that make experiments of many stages, or take a model on: rows, recipes, faces, and what is refused."""

import jax
import numpy as np
import pytest
from shipped import EXPERIMENTS

from lmkd import build, stages, starting
from lmkd import config as configs
from lmkd.configs import ablation, finetune, study
from lmkd.core import schemes
from lmkd.core.errors import UserError


def test_the_ablation_has_rows_seeds_and_equal_recipes():
    config = ablation.get_config("seeds=2")
    configs.check(config)
    rows = [config.stage[name].row for name in config.stages]
    assert rows[:2] == ["", ""] and len(rows) == 2 + 2 * 11 and rows[-1] == "everything"
    plain, everything = config.stage.plain_s0, config.stage.everything_s1
    assert (plain.seed, everything.seed) == (0, 1)
    assert plain.optimizer == everything.optimizer and plain.train == everything.train
    assert set(everything.terms) - set(plain.terms) == {"channel", "adversarial_w32", "adversarial_v2p"}
    assert all(term.weight > 0 for term in everything.terms.values())
    pruned = config.stage.plain_pruned_from_w32_s0
    assert pruned.model.prune_from == config.stage.everything_pruned_from_w32_s0.model.prune_from == "w32"
    assert pruned.terms == plain.terms and config.stage.everything_separable_s0.terms == everything.terms


@pytest.mark.parametrize("name", [*EXPERIMENTS, "study:laptop"])
def test_points_are_read_by_the_mean_where_a_loss_trains_it(name):
    file, colon, variant = name.partition(":")
    config = configs.load(f"configs/{file}.py{colon}{variant}")
    for stage in config.stage.values():
        trains_the_mean = any(term.type.endswith("SoftArgmaxL1") for term in stage.terms.values())
        assert trains_the_mean == (stage.model.heatmap_activation == "softmax")
        assert (build.decoder(stage, config) == "mean") >= trains_the_mean


def test_the_study_compares_each_size_with_its_own_plain_student():
    config = study.get_config("sizes=0.3m+1m,seeds=2,length=50,percent=30")
    configs.check(config)
    assert len(config.stages) == 2 + 2 * 5 * 2
    taught, plain, longer = config.stage.taught_1m_s1, config.stage.plain_1m_s1, config.stage.plain_1m_same_time_s1
    assert (taught.row, taught.compared_with, taught.seed) == ("taught 1m", "plain 1m", 1)
    assert config.stage.taught_1m_pruned_from_w32_s1.compared_with == config.stage.plain_1m_pruned_from_w32_s1.row
    assert taught.optimizer == plain.optimizer and taught.train == plain.train and taught.model == plain.model
    assert plain.train.length == "30 epochs" and plain.optimizer.boundaries == ("15 epochs", "25 epochs")
    assert longer.train.length == "54 epochs" and longer.optimizer.boundaries == ("27 epochs", "45 epochs")
    assert config.data.train == ("the300w:train_photos[:30%]",) and config.data.validation == ("the300w:validation_photos",)


@pytest.mark.parametrize("variant", [None, "px=96,mild", "from=faces68-2m,width=16"])
def test_models_of_the_package_are_taken_on(variant, tmp_path):
    config = finetune.get_config(variant)
    configs.check(config)
    teachers = stages.load_teachers(config, "student", tmp_path)
    stages.check_fit(config, "student", schemes.FACE68, teachers)
    net = build.model(config.stage.student, config, schemes.FACE68)
    first = starting.first_variables(net, config.stage.student, config.data.image_px, 0, teachers)
    jax.tree.map(np.testing.assert_array_equal, first["params"], teachers["first"].variables["params"])
    jax.tree.map(np.testing.assert_array_equal, first["batch_stats"], teachers["first"].variables["batch_stats"])


def test_a_second_teacher_begins_with_the_backbone_of_the_first(tmp_path):
    config = finetune.get_config("from=faces68-2m,width=16,v2p")
    configs.check(config)
    first = stages.load_teachers(config, "student", tmp_path)["first"]
    net = build.model(config.stage.student, config, schemes.FACE68)
    found = starting.first_variables(net, config.stage.student, config.data.image_px, 0, {"first": first})["params"]
    jax.tree.map(np.testing.assert_array_equal, found["backbone"], first.variables["params"]["backbone"])
    assert net.head.neck_channels == 48 and set(found["head"]) != set(first.variables["params"]["head"])


def test_on_a_laptop_the_study_can_teach_on_frames_that_nobody_labelled():
    config = study.get_config("laptop,sizes=1m,seeds=1,labels=teachers")
    plain, taught = config.stage.plain_1m_s0, config.stage.taught_1m_s0
    assert config.data.train == ("the300w:train_photos",) and plain.train.unlabelled == ()
    assert taught.train.unlabelled == ("youtube_faces68:train_people",)
    assert {name for name, term in taught.terms.items() if term.options.get("all_points")} == {
        "adversarial_w32", "adversarial_v2p", "channel", "response", "points"
    }  # fmt: skip
    everybody = study.get_config("laptop,sizes=1m,seeds=1,labels=automatic")
    assert everybody.data.train == ("the300w:train_photos", "youtube_faces68:train_people")
    assert everybody.stage.taught_1m_s0.train.unlabelled == ()


def test_taught_students_see_the_photographs_that_a_percentage_leaves_out_without_labels():
    config = study.get_config("laptop,sizes=1m,seeds=1,percent=10,rest,labels=teachers,also=own_faces:train")
    configs.check(config)
    plain, taught = config.stage.plain_1m_pruned_from_w32_s0, config.stage.taught_1m_pruned_from_w32_s0
    assert config.data.train == ("the300w:train_photos[:10%]",) and plain.train.unlabelled == ()
    new = ("the300w:train_photos[10%:]", "youtube_faces68:train_people", "own_faces:train")
    assert taught.train.unlabelled == new
    assert taught.train.length == plain.train.length == "6000 steps"


def test_the_study_at_a_larger_input_keeps_the_gaussians_share():
    config = study.get_config("laptop,sizes=1m,seeds=1,px=128")
    assert (config.data.image_px, config.heatmap.sigma_cells) == (128, 2.0)


def test_the_study_takes_trained_teachers():
    config = study.get_config("laptop,sizes=1m,seeds=1,labels=hand,teachers=runs/a")
    assert config.stages[0] == "plain_1m_s0" and set(config.stage) == set(config.stages)
    assert config.stage.taught_1m_s0.teachers.to_dict() == {"w32": "runs/a"}
    assert [name for name in config.stage.taught_1m_s0.terms if name.startswith("adversarial")] == ["adversarial_w32"]
    assert config.data.train == ("the300w:train_photos",)
    both = study.get_config("teachers=a+b").stage.taught_0_3m_s0.teachers.to_dict()
    assert both == {"w32": "a", "v2p": "b"}


@pytest.mark.parametrize(
    "variant,part",
    [
        ("labels=automatic", "goes with laptop"),
        ("laptop,labels=hands", "Did you mean 'hand'"),
        ("percent=101", "1 to 100"),
        ("percent=10,rest", "go with laptop"),
        ("also=own_faces:train", "go with laptop"),
        ("laptop,rest", "percent=N below 100"),
        ("sizes=3m", "Did you mean '0.3m'"),
        ("teachers=a+b+c", "3 teachers"),
        ("seeds", "seeds=N"),
    ],
)
def test_a_wrong_option_of_the_study_is_told(variant, part):
    with pytest.raises(UserError, match=part):
        study.get_config(variant)


@pytest.mark.parametrize(
    "variant,part", [("seeds=0", "seeds=0"), ("serch", "Did you mean 'search'"), ("faces68,quickstart", "choose one")]
)
def test_a_wrong_option_of_the_ablation_is_told(variant, part):
    with pytest.raises(UserError, match=part):
        ablation.get_config(variant)
