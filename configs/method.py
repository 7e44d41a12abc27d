"""The method, and the rows that take it apart: two large HRNets teach a slim one.

    L_total = w_KD L_KD + w_AKD (L_A1 + L_A2) + w_CD L_CD

L_KD: the student's heatmaps against the true ones. L_CD: channel-distribution KL (Shu et al. 2021) from teacher_w32's features
to the student's, lifted by a 1x1 convolution. L_A1, L_A2: a critic for each teacher. Teachers are trained first, then frozen.

An experiment calls `stages(config, teacher=..., student=...)`; `configs/ablation.py` calls `rows` as well. A recipe here is a
function that changes a stage in place.
"""

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from lmkd.configs import common
from lmkd.core import plugins

Change = Callable[[ConfigDict], None]
TEACHERS = {"w32": "teacher_w32", "v2p": "teacher_v2p"}  # the name in the student's recipe -> the stage


def stages(config: ConfigDict, *, teacher: Change, student: Change, warm_up: str, neck_channels: int = 256) -> None:
    """Gives a config the stages teacher_w32 (head V1), teacher_v2p (head V2p) and student (the whole method).

    Args:
      config: from `common.get_config()`.
      teacher: backbone, objective, optimiser and length of both teachers.
      student: the same of the student, as it would be trained plainly.
      neck_channels: of teacher_v2p's pyramid; 256 as published.
      warm_up: length after which the critics wake and the adversarial term rises, over the same length again.
    """
    config.stage = ConfigDict()
    for name, head in (("teacher_w32", "heads.V1"), ("teacher_v2p", "heads.V2p")):
        s = config.stage[name] = common.stage()
        teacher(s)
        s.model.head = head
        s.model.head_options = ConfigDict({"neck_channels": neck_channels} if head == "heads.V2p" else {})
        s.model.backbone_options.all_outputs = head != "heads.V1"
    s = config.stage.student = common.stage()
    student(s)
    everything(s, warm_up)
    config.stages = ("teacher_w32", "teacher_v2p", "student")


def published_teacher(s: ConfigDict) -> None:
    """HRNet-W32 by the published recipe."""
    common.published_hrnet(s)
    s.model.backbone_options = ConfigDict(common.hrnet(width=32))


def published_student(s: ConfigDict) -> None:
    """A slim HRNet at 256 px, by the same recipe as its teachers: 1.02M parameters, 0.7G MACs (98 points)."""
    common.published_hrnet(s)
    slim = common.hrnet(width=12, modules=(1, 2, 1), blocks=2, stage1_width=32, stage1_blocks=1, stem_width=32)
    s.model.backbone_options = ConfigDict(slim)
    s.optimizer.learning_rate = 1e-3
    s.train.ema_decay = 0.999


def everything(s: ConfigDict, warm_up: str, teachers: tuple[str, ...] = ("w32", "v2p")) -> None:
    """The whole method; with one teacher it is its first half."""
    channel_kl(s)
    adversarial(s, warm_up, teachers)


def channel_kl(s: ConfigDict, weight: float = 0.2) -> None:
    """+ w_CD L_CD: channel-distribution KL on the tap "features", temperature 4 as in the paper."""
    _take_teachers(s, "w32")
    s.terms.channel = common.term("channel.ChannelKL", weight=weight, teachers=("w32",), tap="features", temperature=4.0)


def channel_attention(s: ConfigDict, halve_every: str, weight: float = 0.1) -> None:
    """+ channel attention in its place: pooled statistics after stage 1 and of all features, early decay.

    At weight 1 and without decay it took 40 % of the student's gradient and cost accuracy (docs/results.md).
    """
    _take_teachers(s, "w32")
    s.terms.attention = common.term(
        "channel.ChannelAttention",
        weight=weight,
        teachers=("w32",),
        decay_every=halve_every,
        decay_factor=0.5,
        taps=("stage1", "features"),
        statistics="mean",
    )


def adversarial(s: ConfigDict, warm_up: str, teachers: tuple[str, ...] = ("w32", "v2p"), weight: float = 0.2) -> None:
    """+ w_AKD (L_A1 + L_A2): a critic for each teacher, off until the student draws heatmaps."""
    _take_teachers(s, *teachers)
    for name in teachers:
        s.terms[f"adversarial_{name}"] = common.term(
            "adversarial.Adversarial", weight=weight, teachers=(name,), begin=warm_up, ramp=warm_up, conditioned=False
        )


def teacher_heatmaps(s: ConfigDict, weight: float = 1.0, teachers: tuple[str, ...] = ("w32", "v2p")) -> None:
    """+ the teachers' heatmaps as targets: positions' cross-entropy for softmax heads, mean squared error for linear ones."""
    _take_teachers(s, *teachers)
    kind = "TeacherPositions" if s.model.heatmap_activation == "softmax" else "TeacherHeatmaps"
    options = {} if kind == "TeacherPositions" else {"scale": 1000.0}
    s.terms.response = common.term(f"response.{kind}", weight=weight, **options)


def teacher_points(s: ConfigDict, weight: float = 1.0) -> None:
    """+ teacher_w32's points as targets of the expected position (softmax heads)."""
    _take_teachers(s, "w32")
    s.terms.points = common.term("response.TeacherSoftArgmaxL1", weight=weight, teachers=("w32",))


def answers(s: ConfigDict, teachers: tuple[str, ...] = ("w32", "v2p")) -> None:
    """+ what the teachers answer: their heatmaps and, for softmax heads, teacher_w32's points."""
    teacher_heatmaps(s, teachers=teachers)
    if s.model.heatmap_activation == "softmax":
        teacher_points(s)


def unlabelled(s: ConfigDict, splits: tuple[str, ...]) -> None:
    """+ faces whose labels nobody reads: what is taught is taught there too. After the terms.

    And at every point, on all faces: also at the few that augmentation moved out of the crop.
    """
    s.train.unlabelled = splits
    for t in s.terms.values():
        if "all_points" in plugins.resolve("lmkd.distill.terms", t.type).__dataclass_fields__:
            t.options.all_points = True


def pruned(s: ConfigDict) -> None:
    """+ first weights: teacher_w32's channels of largest batch-norm scale."""
    _take_teachers(s, "w32")
    s.model.prune_from = "w32"


def longer(s: ConfigDict, times: float) -> None:
    """As many times the steps; a schedule's boundaries move along."""
    s.train.length = times_longer(s.train.length, times)
    s.optimizer.boundaries = tuple(times_longer(boundary, times) for boundary in s.optimizer.boundaries)


def times_longer(length: str, times: float) -> str:
    """Returns so many times a length, rounded to its unit."""
    number, unit = length.split()
    return f"{round(float(number) * times)} {unit}"


def add_rows(config: ConfigDict, rows: Mapping[str, ConfigDict], seeds: int) -> list[str]:
    """Gives a config a stage for each row and seed; returns their names, a row's seeds together."""
    names = []
    for row, s in rows.items():
        slug = "_".join("".join(c if c.isalnum() else " " for c in row).split()).lower()
        for seed in range(seeds):
            names.append(f"{slug}_s{seed}")
            copy = config.stage[names[-1]] = ConfigDict(s.to_dict())
            copy.row, copy.seed = row, seed
    return names


def _take_teachers(s: ConfigDict, *names: str) -> None:
    for name in names:
        s.teachers[name] = TEACHERS[name]
