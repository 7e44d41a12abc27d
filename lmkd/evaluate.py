"""Scores a trained landmarker on prepared splits: NME, failure rate, AUC, by subset and group, one row a face.

    python -m lmkd.evaluate --model=runs/faces68 [--which=best|latest] [--data=the300w:common ...] [--crop=rectangle]
                            [--normaliser=inter_pupil] [--noflip_test] [--suite=robustness [--limit=N]] [--output=DIR]

Without --data it scores the test splits of the model's own config. A model of 98 points is scored on a 68-point set by the
points that the two share. With --output it writes `faces_*.csv`, `results.json` and `report.html` there. --suite=robustness
scores under corruptions and attack besides (docs/robustness.md), over the first --limit faces, into `robustness.json`.
"""

import itertools
import json
import shlex
import sys
from pathlib import Path

from absl import flags

from lmkd import cli

_MODEL = flags.DEFINE_string("model", "", "A workdir, a stage's folder or one step's folder.")
_WHICH = flags.DEFINE_string("which", "best", "best or latest checkpoint.")
_DATA = flags.DEFINE_multi_string("data", [], "Split NAME[/CONFIG]:SPLIT; may be given several times.")
_CROP = flags.DEFINE_multi_string("crop", [], "Crop protocol, landmarks or rectangle; may be given several times.")
_NORMALISER = flags.DEFINE_string("normaliser", "", "inter_ocular, inter_pupil, box, ...; the scheme's default by default.")
_FLIP_TEST = flags.DEFINE_bool("flip_test", None, "Average with the mirrored crop; the model's config decides by default.")
_BATCH = flags.DEFINE_integer("batch_size", 0, "Faces at once; the model's config's by default.", lower_bound=0)
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Where prepared data sets lie; TFDS's own folder by default.")
_SUITE = flags.DEFINE_string("suite", "", "Besides the scores, a suite: robustness (eight corruptions, and attacks).")
_LIMIT = flags.DEFINE_integer(
    "limit", 0, "The suite takes so many faces of a split, the first ones; 0 takes all.", lower_bound=0
)
_OUTPUT = flags.DEFINE_string("output", "", "Folder for faces_*.csv, results.json and report.html.")
_FACES = flags.DEFINE_bool("faces", True, "Pictures of faces in the report; --no_faces leaves them out.")

SUITES = ("robustness",)


def main() -> None:
    """The door's one call."""
    from lmkd import build, scoring
    from lmkd.core.errors import UserError, unknown
    from lmkd.data.transforms import CROP_PROTOCOLS
    from lmkd.evaluation.tables import summary_text

    cli.quiet()
    if not _MODEL.value:
        raise UserError("which model? --model=runs/quickstart, for one")
    if _SUITE.value and _SUITE.value not in SUITES:
        raise unknown("suite", _SUITE.value, SUITES, "--suite")
    if _LIMIT.value and not _SUITE.value:
        raise UserError("--limit is of a suite's faces: give --suite=robustness with it")
    loaded = build.load(_MODEL.value, _WHICH.value)
    config = loaded.config
    config.data.data_dir = _DATA_DIR.value or config.data.data_dir
    config.scheme = ""  # every set in its own scheme: points that the model lacks cannot be scored anyway
    config.evaluation.flip_test = config.evaluation.flip_test if _FLIP_TEST.value is None else _FLIP_TEST.value
    config.evaluation.normaliser = _NORMALISER.value or config.evaluation.normaliser
    config.evaluation.batch_size = _BATCH.value or config.evaluation.batch_size
    crops = _CROP.value or list(config.data.test_crops)
    for crop in crops:
        if crop not in CROP_PROTOCOLS:
            raise unknown("crop protocol", crop, CROP_PROTOCOLS, "--crop")
    build.prepare_device(config)
    references = _DATA.value or config.data.test
    scored = [
        scoring.score_split(
            loaded,
            config,
            reference,
            crop=crop,
            checkpoint=loaded.label,
            provenance=f"trained on {scoring.trained_on(build.training_data(loaded))}",
            pictures=bool(_OUTPUT.value) and _FACES.value,
        )
        for reference in references
        for crop in crops
    ]
    print(summary_text([s.result for s in scored]))
    robust = _robustness(loaded, config, references, crops) if _SUITE.value else []
    if _OUTPUT.value:
        _write(Path(_OUTPUT.value), loaded, config, scored, robust)


def _robustness(loaded, config, references, crops) -> list:
    from lmkd import robustness
    from lmkd.evaluation.robustness import text

    found = []
    for reference, crop in itertools.product(references, crops):
        limit = _LIMIT.value or None
        found.append(
            robustness.run(
                loaded, config, reference, crop=crop, limit=limit, progress=lambda line: print(line, file=sys.stderr)
            )
        )
        print(f"\n{text(found[-1])}")
    return found


def _write(folder: Path, loaded, config, scored, robust) -> None:
    from lmkd import build, scoring
    from lmkd import config as configs
    from lmkd.evaluation import report, robustness
    from lmkd.evaluation.content import ReportContent, headline
    from lmkd.evaluation.files import whole_file
    from lmkd.models import cost

    folder.mkdir(parents=True, exist_ok=True)
    results = [s.result for s in scored]
    for r in results:
        scoring.write_faces(folder, f"{r.name}_{r.crop_protocol}", r)
    with whole_file(folder / "results.json") as file:
        file.write(json.dumps(scoring.numbers(results), indent=1))
    if robust:
        with whole_file(folder / "robustness.json") as file:
            file.write(json.dumps([robustness.to_dict(r) for r in robust], indent=1))
    first = headline(results)
    used = [p for r in results for p in build.records(config, (r.name,)).provenance]
    content = ReportContent(
        title=f"lmkd: {loaded.folder}",
        command=shlex.join(["python", "-m", "lmkd.evaluate", *sys.argv[1:]]),
        results=results,
        history=[],
        faces=next((s.pictures for s in scored if s.result is first), []) if _FACES.value else None,
        cost=cost.table(cost.count(loaded.model, loaded.image_px)),
        config_json=configs.to_json(config),
        versions=build.versions(),
        datasets=scoring.datasets((*build.training_data(loaded), *dict.fromkeys(used))),
        notices=scoring.notices(scored),
        robustness=robust,
        quoted=config.evaluation.quoted,
    )
    report.write_report(folder / "report.html", content)
    print(f"\nreport: {(folder / 'report.html').absolute()}")


def console() -> None:
    """Entry point."""
    cli.run(main)


if __name__ == "__main__":
    console()
