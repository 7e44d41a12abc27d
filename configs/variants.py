"""The words after the colon of --config: what they may be, and the forms that every experiment has."""

from ml_collections import ConfigDict

from lmkd.core import plugins
from lmkd.core.errors import unknown

VARIANTS = ("plain", "small", "smoke")
TINY = {  # what `smoke` makes of a backbone's and a head's options
    "hrnet.HRNet": {"width": 4, "modules": (1, 1, 1), "blocks": 1, "stage1_width": 4, "stage1_blocks": 1, "stem_width": 8},
    "heads.V2p": {"neck_channels": 8},
    "mobilenet_v2.MobileNetV2": {"width": 0.1},
    "shufflenet_v2.ShuffleNetV2": {"width": 0.5},
    "efficientnet.EfficientNet": {"width": 0.1, "depth": 0.3},
    "swin_v2.SwinV2": {"embed": 8, "depths": (1, 1, 1, 1), "heads": (1, 1, 2, 2), "pretrained_windows": (0, 0, 0, 0)},
    "resnet.ResNet50": {"width": 4, "blocks": (1, 1, 1, 1)},
    "stud5.Stud5": {"widths": (4, 4, 8, 8, 8)},
    "deconvolution.Deconvolutions": {"channels": 8},
    "light.Light": {"channels": 8},
}


def plain(s: ConfigDict) -> ConfigDict:
    """Returns a copy of a stage without its teachers, what they teach, on which faces, and what it takes over from them."""
    s = ConfigDict(s.to_dict())
    s.teachers = ConfigDict()
    s.model.start_from, s.model.prune_from, s.model.frozen = "", "", ()
    s.train.unlabelled = ()
    for name in [name for name, t in s.terms.items() if plugins.resolve("lmkd.distill.terms", t.type).teachers != "none"]:
        del s.terms[name]
    return s


def smoke(config: ConfigDict) -> ConfigDict:
    """Shrinks any experiment to seconds on a CPU: the tiny synthetic faces, a tiny network, a few steps."""
    config = config.copy_and_resolve_references()
    tiny = _tiny_data(config)
    config.data.train = (f"{tiny}:train",)
    config.data.validation = (f"{tiny}:validation",) if config.data.validation else ()
    config.data.test = (f"{tiny}:test",)
    config.data.image_px = 64
    config.evaluation.batch_size = 8
    config.runtime.dtype = "float32"

    config.expected = ""
    for s in config.stage.values():
        s.model.backbone_options.update(TINY.get(s.model.backbone, {}))
        s.model.head_options.update(TINY.get(s.model.head, {}))
        s.model.weights = ""
        s.model.image_px = 0
        s.train.splits = ()
        s.train.unlabelled = (f"{tiny}:train",) if s.train.unlabelled else ()
        s.train.length = "6 steps"
        s.train.batch_size = 8
        s.train.log_every = "2 steps"
        s.train.validate_every = "3 steps"
        s.train.save_every = "3 steps"
        s.train.shares_every = "3 steps"
        s.optimizer.warmup = "2 steps"
        s.optimizer.boundaries = ("4 steps",) if s.optimizer.boundaries else ()
        for t in s.terms.values():
            t.schedule.begin, t.schedule.ramp = "0 steps", "0 steps"
            if t.type.endswith("Adversarial"):
                t.options.update({"widths": (4, 8)})
    return config


def small(config: ConfigDict) -> ConfigDict:
    """Brings an experiment to a laptop: the quickstart's synthetic faces at 64 px, 400 steps of 16 a stage, cosine rates."""
    config = config.copy_and_resolve_references()
    for split in ("train", "validation", "test"):
        config.data[split] = (f"synthetic_faces/quickstart_68:{split}",)
    config.data.image_px = 64
    drawn = config.data.train
    for s in config.stage.values():
        s.train.splits, s.train.unlabelled = (), drawn if s.train.unlabelled else ()
        s.model.image_px = 0
        s.optimizer.schedule, s.optimizer.warmup = "cosine", "40 steps"
        s.train.length, s.train.batch_size = "400 steps", 16
        s.train.validate_every = s.train.save_every = s.train.shares_every = "200 steps"
    return config


def _tiny_data(config: ConfigDict) -> str:
    names = " ".join(config.data.train)
    return "synthetic_faces/tiny" if config.scheme == "" and ("wflw" in names) else "synthetic_faces/tiny_68"


def options(variant: str | None, allowed: tuple[str, ...]) -> dict[str, str]:
    """Returns the words after the colon of --config, joined by commas there: "smoke" -> "", "seeds=2" -> "2".

    Args:
      variant: the text after the colon.
      allowed: words as they are ("smoke"), with a whole number from 1 ("seeds=N"), or with any text ("teachers=DIR").

    Raises:
      UserError: another word, told with the nearest one.
    """
    kinds = {form.partition("=")[0]: form.partition("=")[2] for form in allowed}
    found = {}
    for word in filter(None, (variant or "").split(",")):
        name, _, value = word.partition("=")
        kind = kinds.get(name)
        if kind is None or bool(kind) != bool(value) or (kind == "N" and not (value.isdigit() and int(value))):
            raise unknown("option", word, allowed, "after the colon of --config")
        found[name] = value
    return found


def finish(config: ConfigDict, variant: str | None) -> ConfigDict:
    """Returns a config with the variant after the colon of --config applied: the last line of every `get_config`.

    "plain" is one stage alone, without teachers: the one of that name or else the last; "small" and "smoke" are the functions;
    words are joined by commas.
    """
    words = options(variant, VARIANTS)
    if "plain" in words:
        name = "plain" if "plain" in config.stage else config.stages[-1]
        config.stage = ConfigDict({name: plain(config.stage[name]).to_dict()})
        config.stages, config.expected, config.ablation.baseline = (name,), "", ""
    if "small" in words:
        config = small(config)
    return smoke(config) if "smoke" in words else config
