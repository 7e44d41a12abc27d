"""Scores trained models on prepared splits: NME, failure rate, AUC, by subset and group, one row a face.

    python -m lmkd.evaluate --model=runs/faces68 [--which=best|latest] [--data=the300w:common ...] [--crop=rectangle]
                            [--normaliser=inter_pupil] [--noflip_test] [--decoder=dark] [--output=DIR]
                            [--suite=robustness [--limit=N]] [--suite=limits]
    python -m lmkd.evaluate --model=runs/faces68 --model=out/tflite_int8 --model=out/onnx/model.onnx    # side by side

A model is a checkpoint or an exported file. Without --data it is scored on the test splits of its own config. A model of 98
points is scored on a 68-point set by the points that the two share. With --output it writes `faces_*.csv`, `results.json` and
`report.html` there. --suite=robustness scores under corruptions and attack besides (docs/robustness.md), over the first --limit
faces, into `robustness.json`. --suite=limits sorts the faces by turn, tilt, mouth, size and skin tone and scores each
quarter, and tells how the labels lie beside the points on all faces, into `limits.md` and `limits.json`.
"""

import itertools
import json
import shlex
import sys
from pathlib import Path

from absl import flags

from lmkd import cli

SUITES = ("robustness", "limits")

_MODEL = flags.DEFINE_multi_string("model", [], "A workdir, a stage's or one step's folder, an exported file; several times.")
_WHICH = flags.DEFINE_string("which", "best", "best or latest checkpoint.")
_DATA = flags.DEFINE_multi_string("data", [], "Split NAME[/CONFIG]:SPLIT; may be given several times.")
_CROP = flags.DEFINE_multi_string("crop", [], "Crop protocol, landmarks or rectangle; may be given several times.")
_NORMALISER = flags.DEFINE_string("normaliser", "", "inter_ocular, inter_pupil, box, ...; the scheme's default by default.")
_FLIP_TEST = flags.DEFINE_bool("flip_test", None, "Average with the mirrored crop; the model's config decides by default.")
_DECODER = flags.DEFINE_string("decoder", "", "How points are read off heatmaps; the model's config decides by default.")
_BATCH = flags.DEFINE_integer("batch_size", 0, "Faces at once; the model's config's by default.", lower_bound=0)
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Where prepared data sets lie; TFDS's own folder by default.")
_SUITE = flags.DEFINE_multi_string(
    "suite", [], "Besides the scores: robustness (eight corruptions, and attacks), limits (scores by kinds of faces)."
)
_LIMIT = flags.DEFINE_integer("limit", 0, "robustness takes so many faces of a split, the first ones; 0: all.", lower_bound=0)
_OUTPUT = flags.DEFINE_string("output", "", "Folder for faces_*.csv, results.json and report.html.")
_FACES = flags.DEFINE_bool("faces", True, "Pictures of faces in the report; --no_faces leaves them out.")


def main() -> None:
    """The door's one call."""
    from lmkd import build, opened
    from lmkd.core.errors import UserError, folder, unknown
    from lmkd.data.transforms import CROP_PROTOCOLS
    from lmkd.evaluation.tables import summary_text

    cli.quiet()
    if not _MODEL.value:
        raise UserError("which model? --model=runs/quickstart, for one")
    for suite in _SUITE.value:
        if suite not in SUITES:
            raise unknown("suite", suite, SUITES, "--suite")
    if _LIMIT.value and "robustness" not in _SUITE.value:
        raise UserError("--limit is of the robustness suite's faces: give --suite=robustness with it")
    for flag in (_DATA_DIR, _OUTPUT):
        folder(f"--{flag.name}", flag.value)
    for crop in _CROP.value:
        if crop not in CROP_PROTOCOLS:
            raise unknown("crop protocol", crop, CROP_PROTOCOLS, "--crop")
    models = [
        opened.open_model(path, _WHICH.value, flip_test=_FLIP_TEST.value, decoder=_DECODER.value or None)
        for path in _MODEL.value
    ]
    if "robustness" in _SUITE.value and any(m.loaded is None for m in models):
        raise UserError("--suite=robustness attacks the network itself, so it needs checkpoints, not exported files")
    models = [m._replace(config=_settings(m.config)) for m in models]
    build.prepare_device(models[0].config)
    headline = next((m for m in models if m.label == "best"), models[0])  # the report shows faces of this one alone
    labels = told_apart([m.label for m in models], [m.name for m in models])
    by_model = [
        (model, found)
        for model, label in zip(models, labels, strict=True)
        for found in _scored(model, label, pictures=model is headline)
    ]
    scored = [found for _, found in by_model]
    print(summary_text([s.result for s in scored]))
    robust = [found for model in models for found in _robustness(model)] if "robustness" in _SUITE.value else []
    limited = _limits(by_model) if "limits" in _SUITE.value else []
    if _OUTPUT.value:
        _write(Path(_OUTPUT.value), models, scored, robust, limited)


def _settings(config):
    """A model's own config with what the flags say otherwise."""
    config.data.data_dir = _DATA_DIR.value or config.data.data_dir
    config.scheme = ""  # every set in its own scheme: points that the model lacks cannot be scored anyway
    config.data.test = tuple(_DATA.value) or config.data.test
    config.data.test_crops = tuple(_CROP.value) or config.data.test_crops
    config.evaluation.flip_test = config.evaluation.flip_test if _FLIP_TEST.value is None else _FLIP_TEST.value
    config.evaluation.normaliser = _NORMALISER.value or config.evaluation.normaliser
    config.evaluation.batch_size = _BATCH.value or config.evaluation.batch_size
    return config


def told_apart(labels: list[str], names: list[str]) -> list[str]:
    """Returns the models' labels; where two are alike ("best"), with their folders or files, or whole paths, before them."""
    from lmkd.opened import first_distinct

    pairs = list(zip(names, labels, strict=True))
    short, whole = [f"{Path(name).name} {label}" for name, label in pairs], [f"{name} {label}" for name, label in pairs]
    numbered = [f"{n}: {one}" for n, one in enumerate(whole, start=1)]  # one model, named twice
    return list(first_distinct(labels, short, whole, numbered))


def _scored(model, label: str, *, pictures: bool) -> list:
    from lmkd import scoring

    trained = f"trained on {scoring.trained_on(model.training_data)}"
    pictures = pictures and bool(_OUTPUT.value) and _FACES.value
    return [
        scoring.score_split(model, model.config, reference, crop=crop, provenance=trained, checkpoint=label, pictures=pictures)
        for reference, crop in itertools.product(model.config.data.test, model.config.data.test_crops)
    ]


def _robustness(model) -> list:
    from lmkd import robustness
    from lmkd.evaluation.robustness import text

    found = []
    for reference, crop in itertools.product(model.config.data.test, model.config.data.test_crops):
        limit = _LIMIT.value or None
        found.append(
            robustness.run(
                model.loaded,
                model.config,
                reference,
                crop=crop,
                limit=limit,
                progress=lambda line: print(line, file=sys.stderr),
            )
        )
        print(f"\n{text(found[-1])}")
    return found


def _limits(by_model) -> list:
    from lmkd import scoring
    from lmkd.evaluation import limits

    found = []
    for model, scored in by_model:
        found.append(scoring.where_errors_lie(model, model.config, scored.result))
        print(f"\n{limits.text(found[-1])}")
    return found


def _write(folder: Path, models, scored, robust, limited) -> None:
    from lmkd import build, kept_configs, scoring
    from lmkd.evaluation import limits, report, robustness
    from lmkd.evaluation.content import ReportContent, headline
    from lmkd.evaluation.files import whole_file

    folder.mkdir(parents=True, exist_ok=True)
    results, config = [s.result for s in scored], models[0].config
    for r in results:
        which = f"_{r.checkpoint}" if len(models) > 1 else ""
        scoring.write_faces(folder, f"{r.name}_{r.crop_protocol}{which}", r)
    with whole_file(folder / "results.json") as file:
        file.write(json.dumps(scoring.numbers(results), indent=1))
    if robust:
        with whole_file(folder / "robustness.json") as file:
            file.write(json.dumps([robustness.to_dict(r) for r in robust], indent=1))
    if limited:
        with whole_file(folder / "limits.json") as file:
            file.write(json.dumps([limits.to_dict(one) for one in limited], indent=1))
        with whole_file(folder / "limits.md") as file:
            file.write("\n\n".join(map(limits.text, limited)) + "\n")
    first = headline(results)
    used = [p for r in results for p in build.records(config, (r.name,)).provenance]
    trained_on = [p for model in models for p in model.training_data]
    content = ReportContent(
        title=f"lmkd: {', '.join(model.name for model in models)}",
        command=shlex.join(["python", "-m", "lmkd.evaluate", *sys.argv[1:]]),
        results=results,
        history=[],
        faces=next((s.pictures for s in scored if s.result is first), []) if _FACES.value else None,
        cost="\n\n".join(map(_cost, models)),
        config_json=kept_configs.to_json(config),
        versions=build.versions(),
        datasets=scoring.datasets(tuple(dict.fromkeys([*trained_on, *used]))),
        notices=scoring.notices(scored),
        robustness=robust,
        quoted=config.evaluation.quoted,
    )
    report.write_report(folder / "report.html", content)
    print(f"\nreport: {(folder / 'report.html').absolute()}")


def _cost(model) -> str:
    from lmkd.exporters import card
    from lmkd.models import cost

    if model.loaded is None:
        return f"{model.name}\n{model.format}, {card.size_bytes(Path(model.name)) / 1e6:.2f} MB"
    return f"{model.name}\n{cost.table(cost.count(model.loaded.model, model.image_px))}"


def console() -> None:
    """Entry point."""
    cli.run(main)


if __name__ == "__main__":
    console()
