"""Hong & Lin 2024 (6th of 165, ICME PAIR challenge): Swin V2-B teaches MobileViT v2 0.5 through fused attention heatmaps.

    python -m lmkd.main --config=configs/star.py          # 300W at 256 px, an accelerator
    python -m lmkd.main --config=configs/star.py:small    # synthetic faces at 64 px, on a laptop, a smaller Swin V2

Both draw heatmaps, edges and points (anisotropic attention), trained by STAR + 10 edges + 10 points. The student,
whose branches start from the teacher's, has the distance between fused heatmaps besides: weight 100 on mean squares, as in the
authors' code (their paper has the Euclidean norm: --config.stage.student.terms.fused.options.kind=l2). AdamW 2e-4, weight decay
1e-4, cosine over 500 epochs. All 68 points here, theirs were 51.
"""

from ml_collections import ConfigDict

from lmkd.configs import common, systems, variants
from lmkd.core import schemes

BRANCH_CHANNELS = 256  # MobileViT v2 0.5's last map; the teacher is reduced to it, so that the student starts from its branches


def get_config(variant: str | None = None) -> ConfigDict:
    """Returns the config."""
    config = common.get_config()
    config.data.test = ("the300w:common", "the300w:challenging", "the300w:full")
    config.heatmap.sigma_cells = 1.5
    config.augment.rotation_deg, config.augment.scale, config.augment.shift = 18.0, 0.1, 0.05
    config.augment.grey_p, config.augment.occlusion_p, config.augment.blur_p = 0.2, 0.4, 0.3
    config.stage = ConfigDict()
    config.stage.teacher = _stage(systems.swin_v2_base, "teacher: Swin V2-B", enlarge="deconvolution", channels=BRANCH_CHANNELS)
    config.stage.plain = _stage(systems.mobilevit_v2, "MobileViT v2 0.5, plain", enlarge="nearest")
    config.stage.student = distilled(_stage(systems.mobilevit_v2, "MobileViT v2 0.5 + fused maps", enlarge="nearest"))
    config.stages = ("teacher", "plain", "student")
    config.ablation.baseline = "MobileViT v2 0.5, plain"
    if "small" in (variant or "") or "smoke" in (variant or ""):
        _slighter(config.stage.teacher)
    return variants.finish(config, variant)


def _stage(backbone, row: str, *, enlarge: str, channels: int | None = None) -> ConfigDict:
    s = common.stage()
    backbone(s)
    edges = schemes.get("300w68").lines
    s.model.head = "anisotropic.AnisotropicAttention"
    s.model.head_options = ConfigDict({"edges": edges, "enlarge": enlarge} | ({"channels": channels} if channels else {}))
    s.model.decoder = "mean"
    s.terms = ConfigDict()
    s.terms.star = common.term("star.Star")
    s.terms.edges = common.term("star.EdgeMaps", weight=10.0, edges=edges)
    s.terms.points = common.term("star.PointMaps", weight=10.0)
    s.optimizer.learning_rate, s.optimizer.weight_decay = 2e-4, 1e-4
    s.train.length, s.train.batch_size = "500 epochs", 32
    s.row = row
    return s


def distilled(s: ConfigDict, teacher: str = "teacher") -> ConfigDict:
    """+ the distance between fused heatmaps; its branches start from the teacher's."""
    s.teachers.teacher = teacher
    s.model.start_from, s.model.start_parts = "teacher", ("head",)
    s.terms.fused = common.term("star.FusedMaps", weight=100.0, kind="mse")
    return s


def _slighter(s: ConfigDict) -> None:
    """A teacher that a laptop can train."""
    slight = {"embed": 64, "depths": (2, 2, 2, 2), "heads": (2, 4, 8, 16), "pretrained_windows": (0, 0, 0, 0)}
    s.model.backbone_options.update(slight)
    s.row = "teacher: Swin V2, 64 channels, 8 blocks"
