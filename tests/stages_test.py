"""Stages with teachers: what does not fit is refused and says how, weights are told apart, first variables are drawn."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmkd import build, kept_configs, scoring, stages, starting
from lmkd import config as configs
from lmkd.configs import ablation, common, finetune, method, study
from lmkd.core import schemes
from lmkd.core.errors import UserError
from lmkd.distill.terms.channel import ChannelKL


def experiment():
    """The quickstart in its smoke form."""
    return configs.load("configs/quickstart.py:smoke")


def loaded(config, stage="teacher_w32", scheme="300w68", value=1.0) -> build.Loaded:
    """A teacher that was never trained: its description and one weight."""
    variables = {"params": {"head": {"kernel": np.full((2, 2), value, np.float32)}}, "batch_stats": {}}
    found = schemes.get(scheme)
    return build.Loaded(
        build.model(config.stage[stage], config, found), variables, found, config, {"stage": stage}, Path("x/6"), "last"
    )


def test_a_fitting_teacher_passes():
    config = experiment()
    stages.check_fit(config, "student", schemes.get("300w68"), {"w32": loaded(config)})


def test_what_does_not_fit_is_told_in_one_message():
    config, theirs = experiment(), experiment()
    theirs.data.crop_scale, theirs.data.crop, theirs.heatmap.sigma_cells = 1.1, "rectangle", 2.0
    with pytest.raises(UserError) as error:
        stages.check_fit(config, "student", schemes.get("300w68"), {"w32": loaded(theirs, scheme="wflw98")})
    for part in (
        "'wflw98' (98 points)", "'300w68' (68 points)", "data.crop was 'rectangle', here it is 'landmarks'",
        "data.crop_scale was 1.1, here it is 1.25", "config.stage.student.model.sigma_cells=2", "(4 problems)",
    ):  # fmt: skip
        assert part in str(error.value), part


def test_the_same_gaussian_on_another_grid_fits():
    config, theirs = experiment(), experiment()
    theirs.data.image_px, theirs.heatmap.sigma_cells = 128, 3.0  # sigma 3 cells of 32 is sigma 1.5 of 16
    stages.check_fit(config, "student", schemes.get("300w68"), {"w32": loaded(theirs)})
    assert stages.crop_side(config, "student", {"w32": loaded(theirs)}) == 128
    config.stage.student.model.image_px = 32
    with pytest.raises(UserError, match="model.sigma_cells=0.75"):
        stages.check_fit(config, "student", schemes.get("300w68"), {"w32": loaded(theirs)})


def test_a_teacher_that_is_not_there_is_told_with_the_way_out(tmp_path):
    config = experiment()
    config.stage.student.teachers.v2p = str(tmp_path / "nowhere")
    with pytest.raises(UserError) as error:
        stages.load_teachers(config, "student", tmp_path)
    for part in (
        "teachers.w32=teacher_w32",
        "--config.stages=teacher_w32",
        "teachers.v2p=",
        "no such file or folder",
        "(2 problems)",
    ):
        assert part in str(error.value), part


def test_other_weights_are_another_teacher(tmp_path):
    config = experiment()
    before, same, other = (stages.identities({"w32": loaded(config, value=v)}) for v in (1.0, 1.0, 1.5))
    assert before == same != other
    (tmp_path / "finished.json").write_text(json.dumps({"teachers": before}))
    assert stages.changed_teachers(tmp_path, {"w32": loaded(config)}) == []
    (changed,) = stages.changed_teachers(tmp_path, {"w32": loaded(config, value=1.5)})
    assert changed.startswith("teacher w32: ") and before["w32"]["checksum"] in changed
    assert stages.changed_teachers(tmp_path / "new", {"w32": loaded(config)}) == []


def test_checksums_see_names_and_values():
    one, renamed, moved = (
        {"a": np.ones(2), "b": np.zeros(2)},
        {"a": np.ones(2), "c": np.zeros(2)},
        {"a": np.zeros(2), "b": np.ones(2)},
    )
    assert len({stages.checksum(x) for x in (one, renamed, moved)}) == 3


def test_the_recipe_takes_lengths_teachers_and_decay_from_the_config():
    config = experiment()
    s = config.stage.student
    s.terms = {
        "kl": common.term(
            "channel.ChannelKL",
            weight=3.0,
            teachers=("w32",),
            begin="2 epochs",
            ramp="10 steps",
            decay_every="1 epochs",
            decay_factor=0.9,
            temperature=2.0,
        )
    }
    (part,) = stages.recipe(s, lambda text: configs.length_in_steps(text, faces=48, batch_size=8, where="x")).terms
    assert part.term == ChannelKL(temperature=2.0) and part.teachers == ("w32",)
    assert (part.schedule.begin, part.schedule.ramp, part.schedule.decay_every) == (12, 10, 6)
    assert float(part.schedule.at(30)) == pytest.approx(3.0 * 0.9**5)


def test_teachers_are_checked_with_the_whole_config():
    config = experiment()
    s = config.stage.student
    config.stages = ("student", "teacher_w32", "teacher_v2p")
    s.terms.channel.teachers = ("w23",)
    s.terms.adversarial_w32.teachers = ()
    s.model.prune_from = "v2"
    s.teacher_which = "newest"
    with pytest.raises(UserError) as error:
        configs.check(config)
    for part in (
        "config.stages has stage teacher_w32 after student", "Did you mean 'w32'", "looks at one teacher", "Did you mean 'v2p'",
        "unknown choice of checkpoint 'newest'",
    ):  # fmt: skip
        assert part in str(error.value), part


def test_faces_without_labels_need_a_term_that_teaches():
    config = experiment()
    s = config.stage.student
    s.train.unlabelled, s.train.splits = ("synthetic_faces/tiny_68:test",), ("synthetic_faces/tiny_68",)
    with pytest.raises(UserError, match=r"config.stage.student.train.splits: .* write NAME") as error:
        configs.check(config)
    assert "nobody teaches" not in str(error.value)
    s.train.splits = ("synthetic_faces/tiny_68:train",)
    assert common.plain(s).train.unlabelled == () and common.plain(s).train.splits == s.train.splits
    looks_at_teachers_and_needs_labels = common.term("assistive.KDLoss", teachers=("w32", "v2p"))
    for terms in ({"mse": common.term("ground_truth.HeatmapMSE")}, {"kd": looks_at_teachers_and_needs_labels}):
        s.terms = terms
        with pytest.raises(UserError, match="train.unlabelled: nobody teaches there"):
            configs.check(config)


def test_a_stage_learns_from_its_own_faces(tmp_path):
    config = experiment()
    config.data.data_dir, config.scheme = str(tmp_path), "300w68"
    s = config.stage.student
    s.train.splits, s.train.unlabelled = ("synthetic_faces/tiny_68:test",), ("synthetic_faces/tiny:validation",)
    build.prepare_data(config)  # "tiny", of 98 points, is named by this stage alone
    own, others = (build.training_records(config, config.stage[name]) for name in ("student", "teacher_w32"))
    assert [(p.config_name, p.split, p.labelled) for p in own.provenance] == [
        ("tiny_68", "test", True), ("tiny", "validation", False)
    ]  # fmt: skip
    assert [(p.split, p.labelled) for p in others.provenance] == [("train", True)]
    scoring.check_scorable(config)
    s.train.unlabelled = ("synthetic_faces/tiny:vlaidation",)
    with pytest.raises(UserError, match="config.stage.student.train.unlabelled: unknown split 'vlaidation'"):
        scoring.check_scorable(config)


def test_splits_that_do_not_go_together_are_told_before_training_also_of_an_earlier_stage(tmp_path):
    config = experiment()
    config.data.data_dir = str(tmp_path)
    config.stage.teacher_w32.train.splits = ("synthetic_faces/tiny_68:train", "synthetic_faces/tiny:train")
    config.data.validation = ("synthetic_faces/tiny_68:validation", "synthetic_faces/tiny:validation")
    build.prepare_data(config)
    with pytest.raises(UserError, match="config.stage.teacher_w32: these splits have different landmark schemes") as error:
        scoring.check_scorable(config)
    assert "config.data.validation: these splits have different landmark schemes" in str(error.value)


def test_a_term_that_counts_points_must_speak_of_faces_without_labels():
    config = experiment()
    s = config.stage.student
    s.train.unlabelled = ("synthetic_faces/tiny_68:test",)
    with pytest.raises(UserError, match="adversarial_w32: .* says nothing of the faces of train.unlabelled") as error:
        configs.check(config)
    assert "terms.channel" not in str(error.value)  # of features: it speaks of any face
    s.terms.channel.options.tap = "heatmaps"
    with pytest.raises(UserError, match="terms.channel: .* says nothing"):
        configs.check(config)
    s.terms.fused = common.term("star.FusedMaps", teachers=("w32",), tap="logits")  # counts points whatever its tap
    with pytest.raises(UserError, match="terms.fused: .* says nothing"):
        configs.check(config)
    method.unlabelled(s, s.train.unlabelled)
    configs.check(config)


def test_a_network_that_only_gave_first_weights_is_not_run(tmp_path):
    config = finetune.get_config("px=96")
    teachers = stages.load_teachers(config, "student", tmp_path)
    larger = {"first": teachers["first"]._replace(config=finetune.get_config("px=128"), meta={"stage": "student"})}
    built = stages.training(config, "student", schemes.FACE68, larger, lambda text: int(text.split()[0]))
    assert built.networks == {} and built.frozen == {} and built.crop_px == 96


def test_a_term_that_teaches_needs_a_teacher():
    config = common.get_config()
    config.stage.student.terms = {"kl": common.term("channel.ChannelKL")}
    with pytest.raises(UserError, match="needs a teacher; config.stage.student.teachers names none"):
        configs.check(config)


def test_older_configs_are_completed_with_todays_defaults():
    now = experiment()
    kept = json.loads(kept_configs.to_json(now))
    del kept["ablation"], kept["stage"]["student"]["critics"], kept["stage"]["student"]["model"]["sigma_cells"]
    del kept["stage"]["student"]["terms"]["channel"]["teachers"]
    whole = kept_configs.completed(kept_configs.from_json(json.dumps(kept)))
    assert whole.stage.student.critics == now.stage.student.critics and whole.ablation == now.ablation
    assert whole.stage.student.model.sigma_cells == 0.0 and whole.stage.student.terms.channel.teachers == ()
    assert whole.stage.student.model.backbone_options == now.stage.student.model.backbone_options
    assert kept_configs.completed(now) == now


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
    config = study.get_config("laptop,sizes=1m,seeds=1,percent=10,rest,labels=teachers")
    configs.check(config)
    plain, taught = config.stage.plain_1m_pruned_from_w32_s0, config.stage.taught_1m_pruned_from_w32_s0
    assert config.data.train == ("the300w:train_photos[:10%]",) and plain.train.unlabelled == ()
    assert taught.train.unlabelled == ("the300w:train_photos[10%:]", "youtube_faces68:train_people")
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
        ("percent=10,rest", "rest goes with laptop"),
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


def test_a_distilled_stage_is_built_from_its_config_and_taps_are_checked_before_training():
    config, scheme = experiment(), schemes.get("300w68")
    teacher = loaded(config)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8)
    shapes = jax.eval_shape(teacher.model.init, jax.random.key(0), image)
    frozen = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), dict(shapes))
    teachers = {name: teacher._replace(variables=frozen) for name in ("w32", "v2p")}

    def steps(text):
        return configs.length_in_steps(text, faces=48, batch_size=8, where="x")

    built = stages.training(config, "student", scheme, teachers, steps)
    owned = built.first.terms
    assert owned.keys() == {"channel", "adversarial_w32", "adversarial_v2p"}
    student_width, teacher_width = 4 * 15, 4
    assert jax.tree.leaves(owned["channel"].adapter)[0].shape[-2:] == (student_width, teacher_width)
    assert built.first.opt_state["critics"].keys() == {"adversarial_w32", "adversarial_v2p"}
    config.stage.student.terms.channel.options.tap = "features2"
    with pytest.raises(UserError, match="features2"):
        stages.training(config, "student", scheme, teachers, steps)
