"""Compact landmark distillation (Shukla & Huang 2021): ResNet-50 teaches Stud5, five convolutions; coordinates, grey 224 px.

    python -m lmkd.main --config=configs/compact.py          # 300W, an accelerator
    python -m lmkd.main --config=configs/compact.py:small    # synthetic faces at 64 px, on a laptop

The paper's four configurations in one report: ResNet50Base, Stud5Base, Stud5RBD (squared L2 to the truth + lambda times that to
the teacher's points) and Stud5CKD (phase 1, not scored: the last convolution matches the teacher's through a 1x1 regressor that
is dropped; phase 2: the dense layer alone is trained, on labels). Free here, since the paper states none of them: optimiser,
rates, lengths, lambda, batch size. docs/systems.md has what differs.
"""

from ml_collections import ConfigDict

from lmkd.configs import common, systems, variants

LAMBDA = 0.5  # RBD's weight of the teacher's points


def get_config(variant: str | None = None) -> ConfigDict:
    """Returns the config."""
    config = common.get_config()
    config.data.test = ("the300w:common", "the300w:challenging", "the300w:full")
    config.data.image_px = 224
    config.augment.rotation_deg, config.augment.rotation_p = 10.0, 1.0
    config.augment.scale, config.augment.shift, config.augment.colour = 0.05, 0.05, 0.3
    config.augment.flip_p = 0.0
    config.stage = ConfigDict()
    config.stage.resnet50 = _stage(systems.resnet50, "ResNet50Base")
    config.stage.stud5 = _stage(systems.stud5, "Stud5Base")
    config.stage.stud5_rbd = rbd(_stage(systems.stud5, "Stud5RBD"))
    config.stage.stud5_hint = hint(_stage(systems.stud5, ""))
    config.stage.stud5_ckd = ckd(_stage(systems.stud5, "Stud5CKD"))
    config.stages = ("resnet50", "stud5", "stud5_rbd", "stud5_hint", "stud5_ckd")
    config.ablation.baseline = "Stud5Base"
    return variants.finish(config, variant)


def _stage(backbone, row: str) -> ConfigDict:
    s = common.stage()
    backbone(s)
    systems.coordinates(s)
    systems.adam(s, length="100 epochs", drops=("60 epochs", "85 epochs"))
    s.model.colour = "grey"
    s.row = row
    return s


def rbd(s: ConfigDict, teacher: str = "resnet50") -> ConfigDict:
    """Response-based: + lambda times the squared L2 to the teacher's points."""
    s.teachers.teacher = teacher
    s.terms.response = common.term("coordinates.TeacherPointL2", weight=LAMBDA, scale=100.0)
    return s


def hint(s: ConfigDict, teacher: str = "resnet50") -> ConfigDict:
    """CKD, phase 1: the convolutions alone, by a hint through a 1x1 regressor. Its points mean nothing."""
    s.teachers.teacher = teacher
    s.terms = ConfigDict()
    s.terms.hint = common.term("features.HintRegression", student_tap="stage4", teacher_tap="stage4")
    s.scored = False
    return s


def ckd(s: ConfigDict, phase_1: str = "stud5_hint", fine_tune: bool = False) -> ConfigDict:
    """CKD, phase 2: the dense layer on labels, the convolutions frozen; or all, where they are fine-tuned."""
    s.teachers.phase_1 = phase_1
    s.model.start_from, s.model.start_parts = "phase_1", ("backbone",)
    s.model.frozen = () if fine_tune else ("backbone",)
    return s
