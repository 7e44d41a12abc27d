"""Stages with teachers: what does not fit is refused and says how, weights are told apart, first variables are drawn."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmkd import build, kept_configs, scoring, stages
from lmkd import config as configs
from lmkd.configs import common, finetune, method, variants
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
    assert variants.plain(s).train.unlabelled == () and variants.plain(s).train.splits == s.train.splits
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
