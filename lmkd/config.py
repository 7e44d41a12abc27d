"""Loads configs, and checks a whole one at once before a device is touched.

Below `lmkd.build` nobody sees a config.
"""

import functools
import importlib
import importlib.util
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lmkd.core import plugins, schemes
from lmkd.core.errors import UserError, nearest, report_together, unknown
from lmkd.data import pipeline, reading
from lmkd.data.transforms import CROP_PROTOCOLS
from lmkd.models.landmarker import COLOURS, PARTS
from lmkd.ops.heatmaps import ROUND_TRIP_CELLS
from lmkd.training import checkpoints, optimisers, parallel

ACTIVATIONS = ("linear", "softmax")
DTYPES = ("auto", "float32", "bfloat16")
LENGTH_UNITS = ("steps", "epochs", "examples")
ON_SAVE_ERROR = ("stop", "go_on")
NEEDS_SOFTMAX = ("PositionCrossEntropy", "SoftArgmaxL1", "SoftArgmaxWing", "TeacherPositions")  # terms on logits


def resolve_path(argument: str) -> str:
    """Returns "PATH[:variant]" with the path found: as given, or else the shipped config of that name.

    Raises:
      UserError: there is no such file; the message lists the shipped ones.
    """
    path, colon, variant = argument.partition(":")
    if not Path(path).is_file():
        folder = Path(str(importlib.import_module("lmkd.configs").__file__)).parent
        shipped = {p.name: p for p in folder.glob("*.py") if p.name not in ("__init__.py", "common.py", "method.py")}
        name = Path(path).name if path.endswith(".py") else f"{Path(path).name}.py"
        if name not in shipped:
            raise UserError(
                f"--config={argument}: there is no file {path}.{nearest(name, shipped)} Shipped: {', '.join(sorted(shipped))}."
            )
        path = str(shipped[name])
    return path + colon + variant


def load(argument: str) -> ConfigDict:
    """Returns the config of "PATH[:variant]", as the flag --config does, without overrides."""
    path, _, variant = resolve_path(argument).partition(":")
    spec = importlib.util.spec_from_file_location(f"lmkd_config_{Path(path).stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant or None)


def length_in_steps(text: str, *, faces: int, batch_size: int, where: str) -> int:
    """Turns "500 steps", "60 epochs" or "1e6 examples" into steps, rounded to the nearest, at least 1 (0 stays 0).

    Raises:
      UserError: the text is no such length.
    """
    match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s+([a-z]+)\s*", str(text))
    unit = match.group(2) if match else ""
    singular = {u.removesuffix("s"): u for u in LENGTH_UNITS}
    unit = singular.get(unit, unit)
    try:
        number = float(match.group(1)) if match else -1.0
    except ValueError:
        number = -1.0
    if unit not in LENGTH_UNITS or number < 0:
        raise UserError(f"{where}: {text!r} is no length. Write a number and one of {', '.join(LENGTH_UNITS)}: '60 epochs'.")
    per_unit = {"steps": 1.0, "epochs": faces / batch_size, "examples": 1.0 / batch_size}[unit]
    return max(round(number * per_unit), 1) if number else 0


def check(config: ConfigDict) -> None:
    """Checks a whole config; raises ONE `UserError` with every problem, or returns."""
    problems: list[str] = []
    for name in config.stages:
        if name not in config.stage:
            problems.append(str(unknown("stage", name, config.stage.keys(), "config.stages")))
    if not config.stages or len(set(config.stages)) != len(config.stages):
        problems.append(f"config.stages: name each stage once, at least one; got {tuple(config.stages)}")
    known = sorted(set(config.stages) & set(config.stage.keys()))
    problems += [p for found in (_data(config, known), _augment(config), _rest(config)) for p in found]
    for name in known:
        problems += _stage(config.stage[name], f"config.stage.{name}")
        problems += _teachers(config, name)
    problems += _ablation(config)
    report_together(problems, "the config cannot run")


def seed_of(config: ConfigDict, stage: str) -> int:
    """The seed of a stage: its own, or else the experiment's."""
    own = config.stage[stage].seed
    return config.seed if own < 0 else own


def teachers_of(stage: ConfigDict, term: ConfigDict, built: Any) -> tuple[str, ...]:
    """The teachers that a term looks at: those it names, or else all of the stage's, in alphabetical order."""
    if built.teachers == "none":
        return ()
    return tuple(term.teachers) or tuple(sorted(stage.teachers.keys()))


def split_lists(config: Any, stages: Iterable[str]) -> Iterator[tuple[str, Any, str]]:
    """Every list of splits in a config, or in its plain values: where it stands, the part that holds it, its key there."""
    for key in ("train", "validation", "test"):
        yield f"config.data.{key}", config["data"], key
    for name in stages:
        for key in ("splits", "unlabelled"):
            yield f"config.stage.{name}.train.{key}", config["stage"][name]["train"], key


def _data(config: ConfigDict, stages: Iterable[str]) -> Iterator[str]:
    data = config.data
    for where, part, key in split_lists(config, stages):
        yield from _splits(part[key], where)
    if not data.train:
        yield "config.data.train names no split"
    for key, value in (("crop", data.crop), *(("test_crops", c) for c in data.test_crops)):
        if value not in CROP_PROTOCOLS:
            yield str(unknown("crop protocol", value, CROP_PROTOCOLS, f"config.data.{key}"))
    if data.on_unreadable not in pipeline.ON_UNREADABLE:
        yield str(unknown("policy", data.on_unreadable, pipeline.ON_UNREADABLE, "config.data.on_unreadable"))
    yield from _at_least(data, "config.data", image_px=32, crop_scale=0.1, threads=1, keep_decoded_mb=0.0)
    if data.image_px % 32:
        yield f"config.data.image_px: {data.image_px} is no multiple of 32 (the network's lowest resolution is 1/32)"
    if config.scheme and config.scheme not in schemes.SHIPPED:
        yield str(unknown("landmark scheme", config.scheme, schemes.SHIPPED, "config.scheme"))


def _splits(splits: Any, where: str) -> Iterator[str]:
    if isinstance(splits, str):
        yield f"{where}: write a tuple of splits, ('{splits}',)"
        return
    for reference in splits:
        yield from _problem(functools.partial(reading.parse, reference), where)


def _augment(config: ConfigDict) -> Iterator[str]:
    for key, value in config.augment.items():
        most = 180 if key == "rotation_deg" else 1
        if not 0 <= value <= most or (key == "scale" and value == 1):
            yield f"config.augment.{key}: {value} is out of range (0 to {most})"


def _rest(config: ConfigDict) -> Iterator[str]:
    if config.heatmap.decoder not in ROUND_TRIP_CELLS:
        yield str(unknown("decoder", config.heatmap.decoder, ROUND_TRIP_CELLS, "config.heatmap.decoder"))
    if config.runtime.dtype not in DTYPES:
        yield str(unknown("dtype", config.runtime.dtype, DTYPES, "config.runtime.dtype"))
    if config.runtime.parallel not in parallel.KINDS:
        yield str(unknown("parallel map", config.runtime.parallel, parallel.KINDS, "config.runtime.parallel"))
    yield from _at_least(config.heatmap, "config.heatmap", sigma_cells=0.1)
    yield from _at_least(config.runtime, "config.runtime", stall_seconds=0)
    yield from _at_least(config.evaluation, "config.evaluation", batch_size=1)
    yield from _at_least(config, "config", seed=0)
    if not all(t > 0 for t in config.evaluation.thresholds):
        yield f"config.evaluation.thresholds: {config.evaluation.thresholds} must be above 0 (fractions: 0.08 is 8 %)"


def _stage(stage: ConfigDict, where: str) -> Iterator[str]:
    model, train = stage.model, stage.train
    for part in ("backbone", "head"):
        at = f"{where}.model.{part}"
        yield from _plugin("lmkd.models", model[part], model[f"{part}_options"], part, at, f"{at}_options")
    if model.weights and not Path(model.weights).is_file():
        yield f"{where}.model.weights: there is no file {model.weights}"
    if model.decoder and model.decoder not in ROUND_TRIP_CELLS:
        yield str(unknown("decoder", model.decoder, ROUND_TRIP_CELLS, f"{where}.model.decoder"))
    if model.colour not in COLOURS:
        yield str(unknown("colour", model.colour, COLOURS, f"{where}.model.colour"))
    for key in ("start_parts", "frozen"):
        for name in model[key]:
            if name not in PARTS:
                yield str(unknown("part", name, PARTS, f"{where}.model.{key}"))
    if set(model.frozen) == set(PARTS):
        yield f"{where}.model.frozen: {tuple(model.frozen)} leaves nothing to train"
    if model.heatmap_activation not in ACTIVATIONS:
        yield str(unknown("activation", model.heatmap_activation, ACTIVATIONS, f"{where}.model.heatmap_activation"))
    if not stage.terms:
        yield f"{where}.terms is empty: there is nothing to train on"
    for name, term in stage.terms.items():
        at = f"{where}.terms.{name}"
        yield from _plugin("lmkd.distill.terms", term.type, term.options, "term", f"{at}.type", f"{at}.options")
        if str(term.type).endswith(NEEDS_SOFTMAX) and model.heatmap_activation != "softmax":
            yield f"{where}.terms.{name}: {term.type} needs {where}.model.heatmap_activation='softmax'"
    for key, valid in (("name", optimisers.OPTIMISERS), ("schedule", optimisers.SCHEDULES)):
        if stage.optimizer[key] not in valid:
            yield str(unknown(f"optimizer {key}", stage.optimizer[key], valid, f"{where}.optimizer.{key}"))
    yield from _at_least(train, f"{where}.train", batch_size=1, micro_batches=1, ema_decay=0.0)
    yield from _at_least(stage.optimizer, f"{where}.optimizer", learning_rate=0.0, weight_decay=0.0, clip_norm=0.0)
    yield from _at_least(stage.critics, f"{where}.critics", learning_rate=0.0, clip_norm=0.0, steps=1)
    yield from _at_least(model, f"{where}.model", image_px=0, sigma_cells=0.0)
    yield from _at_least(train.attacks, f"{where}.train.attacks", share=0.0, epsilon=0.0, steps=1)
    if model.image_px % 32:
        yield f"{where}.model.image_px: {model.image_px} is no multiple of 32 (the network's lowest resolution is 1/32)"
    if not 0 <= train.smooth_points <= 1:
        yield f"{where}.train.smooth_points: {train.smooth_points} is no share of variance, 0 to 1 (0: points as annotated)"
    shares = {f"{where}.train.{k}": train[k] for k in ("ema_decay", "norm_momentum")}
    if train.attacks.share > 1:
        yield f"{where}.train.attacks.share: {train.attacks.share} is above 1"
    shares |= {f"{where}.optimizer.{k}": stage.optimizer[k] for k in ("momentum", "b2")}
    for key, value in shares.items():
        if not 0 <= value < 1:
            yield f"{key}: {value} is not within 0 and 1"
    if stage.optimizer.name == "adam" and stage.optimizer.weight_decay:
        yield f"{where}.optimizer.weight_decay has no effect with 'adam': take 'adamw', or 0"
    if train.on_save_error not in ON_SAVE_ERROR:
        yield str(unknown("policy", train.on_save_error, ON_SAVE_ERROR, f"{where}.train.on_save_error"))
    if not 0 < train.retry_rate <= 1:
        yield f"{where}.train.retry_rate: {train.retry_rate} is not above 0 and at most 1"
    if train.micro_batches >= 1 and train.batch_size % train.micro_batches:
        yield f"{where}.train.batch_size: {train.batch_size} does not divide into {train.micro_batches} micro_batches"
    lengths = {f"{where}.train.{k}": train[k] for k in ("length", "log_every", "validate_every", "save_every")}
    lengths[f"{where}.optimizer.warmup"] = stage.optimizer.warmup
    lengths |= {f"{where}.optimizer.boundaries[{i}]": b for i, b in enumerate(stage.optimizer.boundaries)}
    for name, term in stage.terms.items():
        lengths |= {f"{where}.terms.{name}.schedule.{k}": term.schedule[k] for k in ("begin", "ramp", "decay_every")}
    lengths |= {f"{where}.train.shares_every": train.shares_every, f"{where}.critics.patience": stage.critics.patience}
    for key in ("length", "log_every", "validate_every", "save_every"):
        if re.match(r"[0.]+ ", str(train[key])):
            yield f"{where}.train.{key}: {train[key]!r} is no time at all; give at least '1 step'"
    for key, text in lengths.items():
        yield from _problem(functools.partial(length_in_steps, text, faces=1, batch_size=1, where=key), "")


def _teachers(config: ConfigDict, name: str) -> Iterator[str]:
    stage, where = config.stage[name], f"config.stage.{name}"
    if stage.row and not stage.scored:
        yield f"{where}.row: {stage.row!r} cannot stand in the table while {where}.scored is False"
    earlier = config.stages[: list(config.stages).index(name)]
    for teacher, place in stage.teachers.items():
        if place in config.stages and place not in earlier:
            yield f"{where}.teachers.{teacher}: config.stages has stage {place} after {name}; put it before"
        if not place:
            yield f"{where}.teachers.{teacher} is empty: name a stage or the folder of a trained model"
    if stage.teacher_which not in checkpoints.WHICH:
        yield str(unknown("choice of checkpoint", stage.teacher_which, checkpoints.WHICH, f"{where}.teacher_which"))
    for key in ("prune_from", "start_from"):
        if stage.model[key] and stage.model[key] not in stage.teachers:
            yield str(unknown("teacher", stage.model[key], stage.teachers.keys(), f"{where}.model.{key}"))
    taught = False
    for key, term in stage.terms.items():
        at = f"{where}.terms.{key}"
        if isinstance(term.teachers, str):
            yield f"{at}.teachers: write a tuple of names, ('{term.teachers}',)"
            continue
        for teacher in term.teachers:
            if teacher not in stage.teachers:
                yield str(unknown("teacher", teacher, stage.teachers.keys(), f"{at}.teachers"))
        try:
            built = plugins.resolve("lmkd.distill.terms", term.type)
        except UserError:
            continue  # told by _stage
        seen = teachers_of(stage, term, built)
        silent = bool(seen) and _silent_without_labels(built, term.options)
        if stage.train.unlabelled and silent and hasattr(built, "all_points"):
            yield f"{at}: {term.type} says nothing of the faces of train.unlabelled: set {at}.options.all_points=True"
        taught |= bool(seen) and not silent
        if built.teachers != "none" and not seen:
            yield f"{at}: {term.type} needs a teacher; config.stage.{name}.teachers names none"
        if built.teachers == "one" and len(seen) > 1:
            yield f"{at}: {term.type} looks at one teacher; choose with {at}.teachers, from {', '.join(seen)}"
    if stage.train.unlabelled and not taught:
        yield f"{where}.train.unlabelled: nobody teaches there; give {where}.terms one that looks at a teacher, or take it out"


def _silent_without_labels(term: Callable[..., Any], options: ConfigDict) -> bool:
    """Whether a term of these options adds nothing on faces whose points do not count. Options that are wrong _stage tells."""
    try:
        return getattr(term(**options), "silent_without_labels", False)
    except (UserError, TypeError):
        return False


def _ablation(config: ConfigDict) -> Iterator[str]:
    rows = {s.row for s in config.stage.values() if s.row}
    if config.ablation.baseline and config.ablation.baseline not in rows:
        yield str(unknown("row", config.ablation.baseline, rows, "config.ablation.baseline"))
    others = {s.compared_with: name for name, s in config.stage.items() if s.compared_with and s.compared_with not in rows}
    for row, name in others.items():
        yield str(unknown("row", row, rows, f"config.stage.{name}.compared_with"))


def _plugin(package: str, name: str, options: ConfigDict, kind: str, where: str, options_at: str) -> Iterator[str]:
    try:
        found = plugins.resolve(package, name, kind=kind, where=where)
    except UserError as error:
        yield str(error)
        return
    yield from plugins.check_options(found, dict(options), kind=f"{kind} {name}", where=options_at)


def _at_least(part: ConfigDict, where: str, **bounds: float) -> Iterator[str]:
    for key, bound in bounds.items():
        if part[key] < bound:
            yield f"{where}.{key}: {part[key]} is below {bound}"


def _problem(attempt: Callable[[], Any], where: str) -> Iterator[str]:
    try:
        attempt()
    except UserError as error:
        yield f"{where}: {error}" if where else str(error)
