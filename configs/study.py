"""The study: is a slim HRNet that was taught better than one that was not, at which sizes, and by how much?

    python -m lmkd.main --config=configs/study.py                              # 300W at 256 px, for an accelerator
    LMKD_REAL_DATA=DIR python -m lmkd.main --config=configs/study.py:laptop    # 96 px: nights on two cores
    ... --config=configs/study.py:laptop,sizes=1m,seeds=1 --config.stages="('taught_1m_s0',)"   # a part of it, stage by stage

| option | does |
| --- | --- |
| `sizes=0.3m+1m` | these students only |
| `seeds=N` | of each student (3) |
| `teachers=DIR+DIR` | trained models in the place of teacher_w32 and teacher_v2p; with one alone, half of the method |
| `percent=N` | of the training faces of 300W, the first N of 100; teachers, where none are given, learn from these too |
| `rest` | the photographs that `percent` leaves out, for taught students: as their teachers see them, labels unread (laptop) |
| `also=SPLIT` | more faces for taught students, labels unread: `also=own_faces:train` (docs/predict.md; laptop) |
| `labels=teachers` | YouTube's frames too, for taught students, as their teachers see them (laptop) |
| `labels=automatic` | YouTube's frames too, for everyone, as an automatic annotator saw them (laptop) |
| `px=N` | side of the input of all that is trained here (256; laptop: 96); the Gaussians keep their share of the crop |
| `length=N` | N percent of the steps of every student |
| `smoke` | tiny |

For each size: plain, as many more steps as the method took longer in the ablation, taught, and both once more from first
weights that are the teacher's. Steps, augmentation, average and optimiser are the same; a row's gain is on the plain student of
its size, that of a taught student with the teacher's first weights on the plain one with them. Taught is the method, and what
the teachers answer: their maps, and the first one's points.
The best checkpoint is chosen by validation photographs of 300W; nothing looks at the test faces before the end.
"""

from ml_collections import ConfigDict

from lmkd.configs import ablation, common, faces68, method, the300w, variants
from lmkd.core.errors import UserError, unknown

OPTIONS = tuple("laptop sizes=A+B seeds=N teachers=A+B percent=N rest also=A labels=WHO px=N length=N smoke".split())
WIDTHS = {"0.3m": 6, "1m": 12, "2m": 17}  # 0.27M to 0.29M, 0.98M to 1.01M, 1.97M to 1.99M parameters
NAMES = tuple(method.TEACHERS)
PHOTOGRAPHS = "the300w:train_photos"
FRAMES = ("youtube_faces68:train_people",)
LABELS = ("hand", "teachers", "automatic")


def get_config(variant: str | None = None) -> ConfigDict:
    """Returns the study."""
    words = variants.options(variant, OPTIONS)
    laptop = "laptop" in words
    base = faces68 if laptop else the300w
    config = base.get_config()
    frames = _data(config, words, laptop)
    common.at_px(config, int(words.get("px", config.data.image_px)))
    teachers = _teachers(config, words.get("teachers", ""))
    share = int(words.get("length", 100)) / 100
    method.longer(config.stage.student, share)
    warm_up = method.times_longer(base.WARM_UP, share)  # the critics' share of a run stays what it is
    students: dict[str, ConfigDict] = {}
    for size in _sizes(words.get("sizes", "")):
        students |= _rows(config.stage.student, size, warm_up, tuple(teachers), frames)
    del config.stage.student
    before = tuple(place for place in teachers.values() if place in config.stage)
    config.stages = (*before, *method.add_rows(config, students, int(words.get("seeds", 3))))
    for name in config.stages[len(before) :]:
        for teacher in config.stage[name].teachers:
            config.stage[name].teachers[teacher] = teachers[teacher]
    config.ablation.baseline, config.ablation.front, config.ablation.latency = next(iter(students)), True, True
    config.ablation.robustness_faces = 100
    config.evaluation.quoted = True
    return variants.smoke(config) if "smoke" in words else config


def _data(config: ConfigDict, words: dict[str, str], laptop: bool) -> tuple[str, ...]:
    """Sets the splits; returns those without labels, for the students that are taught."""
    labels = words.get("labels", "hand")
    if labels not in LABELS:
        raise unknown("kind of labels", labels, LABELS, "labels= of --config=configs/study.py")
    if labels != "hand" and not laptop:
        raise UserError(f"--config=configs/study.py: labels={labels} goes with laptop; 300W alone has no others")
    percent = int(words.get("percent", 100))
    if percent > 100:
        raise UserError(f"--config=configs/study.py:percent={percent}: 1 to 100")
    if {"rest", "also"} & set(words) and not laptop:
        raise UserError(
            "--config=configs/study.py: rest and also go with laptop, whose lengths are steps; by epochs, more faces would be "
            "more steps for taught students alone"
        )
    if "rest" in words and percent == 100:
        raise UserError("--config=configs/study.py: rest goes with percent=N below 100, which leaves photographs out")
    faces = PHOTOGRAPHS + (f"[:{percent}%]" if percent < 100 else "")
    automatic = FRAMES if labels == "automatic" else ()
    config.data.train, config.data.validation = (faces, *automatic), ("the300w:validation_photos",)
    left_out = (f"{PHOTOGRAPHS}[{percent}%:]",) if "rest" in words else ()
    also = (words["also"],) if "also" in words else ()
    return left_out + (FRAMES if labels == "teachers" else ()) + also


def _teachers(config: ConfigDict, given: str) -> dict[str, str]:
    """The name in the students' recipes -> a stage or a folder; stages that are not needed are taken out."""
    if not given:
        return dict(method.TEACHERS)
    folders = given.split("+")
    if len(folders) > len(NAMES):
        raise UserError(f"--config=configs/study.py:teachers={given}: {len(folders)} teachers; the method has {len(NAMES)}")
    for stage in method.TEACHERS.values():
        del config.stage[stage]
    return dict(zip(NAMES, folders, strict=False))


def _sizes(given: str) -> list[str]:
    sizes = given.split("+") if given else list(WIDTHS)
    for size in sizes:
        if size not in WIDTHS:
            raise unknown("size", size, WIDTHS, "sizes= of --config=configs/study.py")
    return sizes


def _rows(
    student: ConfigDict, size: str, warm_up: str, teachers: tuple[str, ...], frames: tuple[str, ...]
) -> dict[str, ConfigDict]:
    """The students of one size by row, each compared with the plain one of the same first weights."""
    plain = variants.plain(student)
    plain.model.backbone_options.width = WIDTHS[size]

    def changed(*changes: method.Change, on: str = f"plain {size}") -> ConfigDict:
        s = ConfigDict(plain.to_dict())
        for change in changes:
            change(s)
        s.compared_with = on
        return s

    def taught(s: ConfigDict) -> None:
        method.everything(s, warm_up, teachers)
        method.answers(s, teachers)
        if frames:
            method.unlabelled(s, frames)

    pruned = f"plain {size}, pruned from W32"
    return {
        f"plain {size}": plain,
        f"plain {size}, same time": changed(lambda s: method.longer(s, ablation.SAME_TIME)),
        f"taught {size}": changed(taught),
        pruned: changed(method.pruned),
        f"taught {size}, pruned from W32": changed(method.pruned, taught, on=pruned),
    }
