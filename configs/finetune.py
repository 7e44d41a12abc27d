"""A trained slim HRNet taken on: by hand labels alone, on your own faces, or at a larger input.

    LMKD_REAL_DATA=DIR python -m lmkd.main --config=configs/finetune.py           # faces68-1m, on 300W's training faces
    ... --config=configs/finetune.py:from=faces68-2m,width=16,mild
    ... --config=configs/finetune.py:from=runs/faces68,width=16,px=96
    ... --config=configs/finetune.py --config.data.train="('own_faces:train',)" --config.data.manual_dirs.own_faces=DIR \\
        --config.data.validation="()" --config.data.test="('own_faces:test',)"

Own faces must have the model's points, by the same names and in the same order: DIR/scheme.json is the file that
`python -c "from lmkd.core import schemes; print(schemes.FACE68.to_json())"` prints. `width` and `px` are the model's to
know: its card has them.

| option | does |
| --- | --- |
| `from=MODEL` | a model of the package or the folder of a trained one (faces68-1m) |
| `width=N` | its width, for every slim HRNet of the house (12, that of faces68-1m) |
| `px=N` | side of the input (160, that of faces68-1m), the model's own or another; the Gaussians keep their share of the crop |
| `mild` | milder augmentation: for the end of a training whose test crops are exact |
| `v2p` | the pyramid's head, drawn, on the model's backbone: the method's second teacher from its first |
| `smoke` | tiny |
"""

from ml_collections import ConfigDict

from lmkd.configs import common, faces68, variants

OPTIONS = ("from=MODEL", "width=N", "px=N", "mild", "v2p", "smoke")


def get_config(variant: str | None = None) -> ConfigDict:
    """Returns the config of one stage that starts from a trained network's weights."""
    words = variants.options(variant, OPTIONS)
    config = faces68.get_config("plain")
    common.at_px(config, int(words.get("px", 160)))
    s = config.stage.student
    s.model.backbone_options.width = int(words.get("width", 12))
    s.teachers.first = words.get("from", "faces68-1m")
    s.model.start_from = "first"
    s.train.length, s.train.validate_every, s.train.shares_every = "3000 steps", "1000 steps", "0 steps"
    s.optimizer.learning_rate = 1e-3
    if "v2p" in words:
        s.model.head, s.model.head_options = "heads.V2p", ConfigDict({"neck_channels": faces68.NECK_CHANNELS})
        s.model.start_parts = ("backbone",)
    if "mild" in words:
        a = config.augment
        a.scale, a.rotation_deg, a.shift = 0.15, 20.0, 0.02
        a.colour, a.blur_p, a.occlusion_p = 0.2, 0.1, 0.1
    return _with_its_start(variants.smoke(config)) if "smoke" in words else config


def _with_its_start(config: ConfigDict) -> ConfigDict:
    """The smoke form's network is too small for anyone's weights: it starts from a stage of its own."""
    s = config.stage.student
    config.stage.first = ConfigDict(variants.plain(s).to_dict())
    s.teachers.first = "first"
    config.stages = ("first", "student")
    return config
