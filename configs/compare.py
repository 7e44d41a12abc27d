"""Every student and method of the house on one data set, with one budget of steps, in one report.

    python -m lmkd.main --config=configs/compare.py                  # the quickstart's synthetic faces, 64 px
    python -m lmkd.main --config=configs/compare.py:faces68          # real faces (configs/faces68.py), 96 px
    python -m lmkd.main --config=configs/compare.py:steps=2000       # the budget of every stage, teachers included; 400
    python -m lmkd.main --config=configs/compare.py --config.stages=light_mobilenet_v2_50,compact_stud5   # some of them

The slim HRNet, plain and under the method; the light baselines; and the other published systems with their teachers. Each keeps
its own objective, optimiser and rate; steps, batch size, faces and augmentation are the same. The report has accuracy against
parameters, MACs, size and latency, and the published figures beside, marked as quoted.
"""

from ml_collections import ConfigDict

from lmkd.configs import compact, faces68, kd_loss, light, mobilefan, quickstart, star, variants

SYSTEMS = {"light": light, "mobilefan": mobilefan, "compact": compact, "kd_loss": kd_loss, "star": star}
OPTIONS = ("faces68", "steps=N", "smoke")


def get_config(variant: str | None = None) -> ConfigDict:
    """Returns the comparison."""
    words = variants.options(variant, OPTIONS)
    steps = int(words.get("steps", 400))
    config = (faces68 if "faces68" in words else quickstart).get_config()
    config.stage.hrnet_plain = variants.plain(config.stage.student)
    config.stage.hrnet_plain.row, config.stage.student.row = "slim HRNet, plain", "slim HRNet, the method"
    names = ["hrnet_plain", *config.stages]
    for system, module in SYSTEMS.items():
        names += _add(config, system, module.get_config("small"))
    config.stages = tuple(names)
    for s in config.stage.values():
        s.train.length, s.train.batch_size = f"{steps} steps", 16
        s.train.validate_every = s.train.save_every = s.train.shares_every = f"{max(steps // 2, 1)} steps"
    config.ablation.baseline, config.ablation.front, config.ablation.latency = "slim HRNet, plain", True, True
    config.evaluation.quoted = True
    config.expected = ""
    return variants.smoke(config) if "smoke" in words else config


def _add(config: ConfigDict, system: str, theirs: ConfigDict) -> list[str]:
    """Takes a system's stages over under its own name; returns their names in order."""
    for name in theirs.stages:
        s = config.stage[f"{system}_{name}"] = ConfigDict(theirs.stage[name].to_dict())
        for teacher, place in s.teachers.items():
            s.teachers[teacher] = f"{system}_{place}"
    return [f"{system}_{name}" for name in theirs.stages]
