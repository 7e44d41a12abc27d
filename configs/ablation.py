"""What each part of the method is worth: shared teachers, then students that differ in one thing, with several seeds.

    python -m lmkd.main --config=configs/ablation.py                  # on the quickstart's synthetic faces
    python -m lmkd.main --config=configs/ablation.py:faces68          # on real faces, configs/faces68.py at 64 px and shorter
    python -m lmkd.main --config=configs/ablation.py:search           # plain students over width and depth, and their front
    python -m lmkd.main --config=configs/ablation.py:faces68,seeds=1  # options are joined by commas; `smoke` is one of them

Every student has the same steps, faces, augmentation, average and optimiser as the plain one; "plain, same time" has as many
more steps as the whole method takes longer. The report has the table, paired bootstrap intervals against "plain", and curves.
"""

from ml_collections import ConfigDict

from lmkd.configs import faces68, method, quickstart, variants
from lmkd.core.errors import UserError

BASES = {"quickstart": quickstart, "faces68": faces68}
OPTIONS = (*BASES, "search", "smoke", "seeds=N")
SAME_TIME = 1.8  # steps of "plain, same time" over the others': measured, docs/results.md
WIDTHS, DEPTHS = (8, 16, 24), {"shallow": (1, 1, 1), "slim": (1, 2, 1), "deep": (1, 3, 2)}


def get_config(variant: str | None = None) -> ConfigDict:
    """Returns the ablation over one of `BASES`."""
    words = variants.options(variant, OPTIONS)
    bases = [word for word in words if word in BASES]
    if len(bases) > 1:
        raise UserError(f"--config=configs/ablation.py: choose one of {', '.join(BASES)}, not {' and '.join(bases)}")
    base = BASES[bases[0] if bases else "quickstart"]
    seeds = int(words.get("seeds", 1 if "search" in words else 3))
    config = base.get_config()
    scaled = _within_hours if base is faces68 else _within_an_hour
    scaled(config)
    config.expected = ""
    warm_up = "300 steps" if base is faces68 else base.WARM_UP
    students = _search(config) if "search" in words else _rows(config, warm_up)
    del config.stage.student
    teachers = () if "search" in words else ("teacher_w32", "teacher_v2p")
    if "search" in words:
        del config.stage.teacher_w32, config.stage.teacher_v2p
    config.stages = (*teachers, *method.add_rows(config, students, seeds))
    config.ablation.baseline = "width 16, slim" if "search" in words else "plain"
    config.ablation.front = True
    config.ablation.robustness_faces = 0 if "search" in words else 100
    return variants.smoke(config) if "smoke" in words else config


def _within_an_hour(config: ConfigDict) -> None:
    """Gives the quickstart, which has ten minutes, the depth that networks have elsewhere, and teachers of 600 steps."""
    for name, s in config.stage.items():
        s.model.backbone_options.modules, s.model.backbone_options.blocks = (1, 2, 1), 2
        if name.startswith("teacher"):
            s.train.length = "600 steps"


def _within_hours(config: ConfigDict) -> None:
    """Brings the real-face experiment, a night for one student, to what two cores train in two hours: a dozen students."""
    config.data.image_px = 64
    for name, s in config.stage.items():
        if name.startswith("teacher"):
            s.model.backbone_options.width = 20
        s.train.length = "2000 steps"
        s.train.validate_every, s.train.save_every, s.train.shares_every = "1000 steps", "500 steps", "500 steps"
    config.stage.student.model.backbone_options.width = 8


def _rows(config: ConfigDict, warm_up: str) -> dict[str, ConfigDict]:
    """The students by row: the same recipe for all, and what each adds to it."""
    rows = {
        "plain": lambda s: None,
        "plain, same time": lambda s: method.longer(s, SAME_TIME),
        "+ teacher heatmaps": method.teacher_heatmaps,
        "+ channel KL": method.channel_kl,
        "+ channel attention": lambda s: method.channel_attention(s, halve_every=warm_up),
        "+ adversarial": lambda s: method.adversarial(s, warm_up),
        "everything, one teacher": lambda s: method.everything(s, warm_up, ("w32",)),
        "plain, pruned from W32": method.pruned,
        "everything, pruned from W32": lambda s: _all_of(s, method.pruned, lambda s: method.everything(s, warm_up)),
        "everything, separable": lambda s: _all_of(s, _separable, lambda s: method.everything(s, warm_up)),
        "everything": lambda s: method.everything(s, warm_up),
    }
    students = {}
    for row, change in rows.items():
        s = students[row] = variants.plain(config.stage.student)
        change(s)
    return students


def _all_of(s: ConfigDict, *changes: method.Change) -> None:
    for change in changes:
        change(s)


def _separable(s: ConfigDict) -> None:
    s.model.backbone_options.block = "separable"


def _search(config: ConfigDict) -> dict[str, ConfigDict]:
    """Plain students over width and depth."""
    students = {}
    for width in WIDTHS:
        for depth, modules in DEPTHS.items():
            s = students[f"width {width}, {depth}"] = variants.plain(config.stage.student)
            s.model.backbone_options.width, s.model.backbone_options.modules = width, modules
    return students
