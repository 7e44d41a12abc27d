"""Exports a checkpoint: every format written, opened again in its own runtime, compared, and only then kept.

    exported = export(build.load("runs/faces68"), ("stablehlo", "onnx"), Path("out"), crops=drawn_crops(loaded))

Each format has its folder, `<output>/<format>/`, with the file and its card. Either all of them appear there or none.
"""

import contextlib
import functools
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lmkd import build, kept_configs, scoring
from lmkd import config as configs
from lmkd.benchmarks import rounds
from lmkd.core import schemes
from lmkd.core.errors import UserError
from lmkd.data import transforms
from lmkd.data.reading import Record, parse
from lmkd.data_builders.synthetic_faces.drawing import draw_records
from lmkd.exporters import card, formats, graph
from lmkd.exporters.formats import Format
from lmkd.models.readout import Reading
from lmkd.opened import CHECKPOINT, Opened, of_checkpoint, open_model

CALIBRATION_FACES = 64
CHECK_FACES = 32
LATENCY_ROUNDS = 15
_STREAM, _DRAWN_PX = 20_260, 192  # of synthetic faces: a stream that no data set draws from, and the pictures' side


class Crops(NamedTuple):
    """Crops uint8 [n, S, S, 3] to calibrate with and others to compare on, and where they are from."""

    calibration: np.ndarray
    check: np.ndarray
    source: str


class Difference(NamedTuple):
    """How far an export lies from its checkpoint: points in pixels (mean over points, worst), heatmaps at the worst cell."""

    crops: int
    mean_px: float
    worst_px: float
    heatmaps: float


class Exported(NamedTuple):
    """One export: its folder, size, difference and the median milliseconds of one crop, the checkpoint's beside them."""

    format: str
    folder: Path
    bytes: int
    difference: Difference
    latency_ms: float
    checkpoint_ms: float


def export(
    loaded: build.Loaded,
    names: Sequence[str],
    output: Path,
    *,
    crops: Crops,
    flip_test: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Exported]:
    """Exports a checkpoint into one folder a format under `output`, which may exist; a format's earlier export is replaced.

    Args:
      loaded: the checkpoint.
      names: formats.
      output: the folder.
      crops: to calibrate and to compare.
      flip_test: puts the flip test into the files (an Orbax export has it in its config).
      progress: told what goes on.

    Raises:
      UserError: an unknown format, a package that is not installed, or a file that lies further from the checkpoint than its
        format's tolerance. Nothing is kept then.
    """
    wanted = {name: formats.find(name) for name in names}
    exact = loaded.in_float32()
    checkpoint = of_checkpoint(exact, flip_test=flip_test)
    flip = tuple(loaded.scheme.flip) if flip_test else None
    whole = graph.of(exact.model, exact.variables, image_px=exact.image_px, flip=flip)
    expected = checkpoint.run(crops.check)
    done = []
    with _all_or_none(output) as staging:
        for name, form in wanted.items():
            progress(f"{name}: writing")
            folder = staging / name
            folder.mkdir()
            _write(form, whole, exact, folder, crops)
            told = about(exact, name, folder, flip_test=flip_test)
            card.write(folder, told)
            progress(f"{name}: comparing with the checkpoint")
            opened = open_model(folder, flip_test=flip_test)
            difference = compared(opened.run(crops.check), expected)
            _refuse(name, form, difference, exact.image_px)
            own_ms, checkpoint_ms = _latencies(opened, checkpoint, crops.check[:1])
            figures = difference._asdict() | {"source": crops.source, "of": "the checkpoint in float32, on this machine"}
            card.write(folder, told | {"difference": figures, "latency_ms": {"one_crop": own_ms, "checkpoint": checkpoint_ms}})
            done.append(Exported(name, output / name, card.size_bytes(folder), difference, own_ms, checkpoint_ms))
    return done


def table(done: Sequence[Exported]) -> str:
    """Returns the exports as a Markdown table."""
    header = ("format", "what", "MB", "mean px", "worst px", "ms a crop", "checkpoint ms")
    rows = [
        (
            e.format,
            formats.find(e.format).what,
            f"{e.bytes / 1e6:.2f}",
            f"{e.difference.mean_px:.4f}",
            f"{e.difference.worst_px:.4f}",
            f"{e.latency_ms:.2f}",
            f"{e.checkpoint_ms:.2f}",
        )
        for e in done
    ]
    return rounds.table(header, rows)


def about(loaded: build.Loaded, name: str, folder: Path, *, flip_test: bool) -> dict[str, Any]:
    """Returns the card of an export but for its checksum and what comparing finds."""
    form, config = formats.find(name), _portable(loaded)
    return {
        "format": name,
        "what": form.what,
        "file": formats.module(form).FILE,
        **card.usage(
            image_px=loaded.image_px,
            crop=config["data"]["crop"],
            crop_scale=float(config["data"]["crop_scale"]),
            grid=loaded.image_px // loaded.model.stride,
            points=loaded.scheme.num_points,
            flip_test=flip_test and not formats.is_checkpoint(form),
        ),
        "stage": loaded.meta["stage"],
        "checkpoint": {"label": loaded.label, "step": loaded.step},
        "scores": _scores(loaded),
        "training_data": loaded.meta.get("training_data", []),
        "licence": card.LICENCE_NOTE,
        "versions": {"trained": loaded.meta.get("versions", {}), "exported": build.versions()},
        "scheme": json.loads(loaded.scheme.to_json()),
        "config": config,
    }


def compared(found: Reading, expected: Reading) -> Difference:
    """Compares what two models read off the same crops."""
    apart = np.linalg.norm(np.asarray(found.landmarks_px, np.float64) - expected.landmarks_px, axis=-1)
    if not np.isfinite(apart).all():
        raise UserError("the exported file gives points that are not finite")
    heatmaps = float(np.abs(found.heatmaps - expected.heatmaps).max())
    return Difference(len(apart), float(apart.mean()), float(apart.max()), heatmaps)


def split_crops(loaded: build.Loaded, reference: str) -> Crops:
    """Cuts faces of a prepared split as the model was trained, evenly spaced over the split, for calibration and comparison."""
    source = scoring.records(loaded, loaded.config, reference)
    chosen = np.unique(np.linspace(0, len(source) - 1, CALIBRATION_FACES + CHECK_FACES).astype(int))
    return _cut(loaded, source.scheme, [source[int(n)] for n in chosen], reference)


def drawn_crops(loaded: build.Loaded) -> Crops:
    """Draws synthetic faces and cuts them as the model was trained, for calibration and comparison."""
    scheme, count = schemes.get("wflw98"), CALIBRATION_FACES + CHECK_FACES
    faces = [
        Record(str(n), f.jpeg, f.landmarks98_px.astype(np.float64), np.ones(98, np.float32), f.rectangle_px, f.subset, "")
        for n, f in enumerate(draw_records(_STREAM, range(count), _DRAWN_PX, workers=1))
    ]
    return _cut(loaded, scheme, faces, "synthetic faces")


def _cut(loaded: build.Loaded, scheme: schemes.Scheme, faces: Sequence[Record], source: str) -> Crops:
    protocol = transforms.CropProtocol(loaded.config.data.crop, loaded.config.data.crop_scale)
    make = transforms.MakeFace(scheme, loaded.image_px, protocol)
    crops = np.stack([make(face, transforms.decode(face), None)["image"] for face in faces])
    # Every third one is compared on, the others calibrate; of a single face there is only the one.
    check = np.arange(len(crops)) % 3 == 0
    return Crops(crops[~check] if len(crops) > 1 else crops, crops[check], source)


@contextlib.contextmanager
def _all_or_none(output: Path) -> Iterator[Path]:
    """A folder beside the final ones, whose folders take their places when the block ends well; otherwise nothing is left."""
    before = next(p for p in (output.absolute(), *output.absolute().parents) if p.exists())
    output.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=output, prefix=".export."))
    try:
        yield staging
        for folder in sorted(staging.iterdir()):
            target = output / folder.name
            if target.exists():
                target.rename(staging / f".{folder.name}")  # removed with the staging folder
            folder.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        empty = output.absolute()
        while empty != before and not any(empty.iterdir()):
            empty.rmdir()
            empty = empty.parent


def _write(form: Format, whole: graph.Graph, loaded: build.Loaded, folder: Path, crops: Crops) -> None:
    module = formats.module(form)
    if formats.is_checkpoint(form):
        module.write_checkpoint(folder, loaded.variables, _exported_meta(loaded), form.variant)
    else:
        module.write(whole, folder / module.FILE, form.variant, crops.calibration)


def _refuse(name: str, form: Format, found: Difference, side_px: int) -> None:
    mean, worst = (None if share is None else share * side_px for share in form.tolerance)
    if (mean is not None and found.mean_px > mean) or (worst is not None and found.worst_px > worst):
        allowed = f"{mean:.4g} px on average" + (f", {worst:.4g} px at most" if worst is not None else "")
        raise UserError(
            f"{name}: the file's points lie {found.mean_px:.4g} px from the checkpoint's on average, {found.worst_px:.4g} px "
            f"at worst, over {found.crops} crops; {allowed} is this format's tolerance. Nothing was kept."
        )


def _latencies(opened: Opened, checkpoint: Opened, crop: np.ndarray) -> tuple[float, float]:
    parts = [rounds.Part(m.format, "one crop", functools.partial(m.run, crop)) for m in (opened, checkpoint)]
    own, other = rounds.timed(parts, rounds=LATENCY_ROUNDS)
    return own.median_ms, other.median_ms


def _portable(loaded: build.Loaded) -> dict[str, Any]:
    """The config as plain values, without the folders of the machine that trained and its names for incomplete data sets:
    training_data keeps what they had, and whoever scores the model has another part, or all."""
    config = json.loads(kept_configs.to_json(loaded.config))
    config["data"] |= {"data_dir": "", "manual_dirs": {}}
    for _, part, key in configs.split_lists(config, config["stage"]):
        part[key] = [_without_partial(reference) for reference in part[key]]
    for stage in config["stage"].values():
        stage["teachers"] = {name: _without_root(place) for name, place in stage["teachers"].items()}
        stage["model"]["weights"] = _without_root(stage["model"]["weights"])
    config["runtime"] |= {"dtype": loaded.meta["config"]["runtime"]["dtype"]} if "config" in loaded.meta else {}
    return config


def _without_partial(reference: str) -> str:
    name, config, split = parse(reference)
    return f"{name}:{split}" if config and config.startswith("partial_") else reference


def _without_root(place: str) -> str:
    """A path of the maker's machine by its name alone; whatever else names a model or a file stays."""
    return Path(place).name if Path(place).is_absolute() else place


def _exported_meta(loaded: build.Loaded) -> dict[str, Any]:
    kept = {key: value for key, value in loaded.meta.items() if key != "teachers"}
    return kept | {"config": _portable(loaded), "exported": {"label": loaded.label, "step": loaded.step}}


def _scores(loaded: build.Loaded) -> list[dict[str, Any]]:
    """What the experiment scored for this very step, without the breakdown; of an Orbax export, what its card has.

    Nothing where the experiment read the points by another decoder.
    """
    trained = kept_configs.completed(kept_configs.from_json(json.dumps(loaded.meta["config"])))
    if loaded.decoder and loaded.decoder != build.decoder(trained.stage[loaded.meta["stage"]], trained):
        return []
    found = card.find(loaded.folder)
    if found is not None:
        return json.loads(found.read_text(encoding="utf-8")).get("scores", [])
    kept = loaded.folder.parents[2] / "results.json" if len(loaded.folder.parents) > 2 else None
    if kept is None or not kept.is_file():
        return []
    of_stage = f"{loaded.meta['stage']} on "
    rows = [r for r in json.loads(kept.read_text(encoding="utf-8"))["results"] if r["name"].startswith(of_stage)]
    keys = ("crop_protocol", "flip_test", "normaliser", "evaluated", "skipped", "overall", "interval_percent")
    return [
        {"data": r["name"].removeprefix(of_stage), "model": CHECKPOINT, **{k: r[k] for k in keys}}
        for r in rows
        if r["step"] == loaded.step
    ]
