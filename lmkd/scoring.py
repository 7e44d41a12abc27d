"""Scores any model on prepared splits: what `lmkd.main` and `lmkd.evaluate` have in common.

scored = score_split(open_model("out/tflite_int8"), config, "the300w:common", crop="landmarks", provenance="...")
"""

import functools
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from lmkd import build
from lmkd import config as configs
from lmkd.core.errors import UserError, report_together, unknown
from lmkd.core.schemes import Scheme
from lmkd.data import pipeline, reading, transforms
from lmkd.data.corruptions import Corruption
from lmkd.evaluation import evaluator, faces, limits, rows, scores
from lmkd.evaluation.content import DatasetProvenance, Result
from lmkd.models.landmarker import Landmarker
from lmkd.opened import Opened


class Scored(NamedTuple):
    """One result, the pictures of its best, median and worst faces, and the keys of records that could not be read."""

    result: Result
    pictures: list[faces.FacePicture]
    unreadable: list[str]


def score_split(
    opened: Opened,
    config: ConfigDict,
    reference: str,
    *,
    crop: str,
    provenance: str,
    checkpoint: str = "",
    pictures: bool = False,
) -> Scored:
    """Scores one split under one crop protocol.

    Args:
      opened: the model; where the split is in a scheme that its own contains, or the other way round, the points that both
        have are scored.
      config: for the crop, the batch, normaliser and thresholds.
      reference: NAME[/CONFIG]:SPLIT.
      provenance: what the network was trained on, for the report.
      checkpoint: "best", "last", ... for the report; the model's own label by default.
      pictures: also cuts out the best, median and worst faces.
    """
    source, scheme, side = records(opened, config, reference), opened.scheme, opened.image_px
    unreadable = pipeline.Unreadable(config.data.on_unreadable)

    def predict_batch(batch: evaluator.Batch) -> tuple[Any, Any]:
        _, landmarks_px, confidence = opened.run(batch["image"])
        return landmarks_px, confidence

    found = face_rows(predict_batch, scheme, config, source, unreadable, crop=crop, image_px=side)
    scored = scores.score(
        found,
        source.scheme,
        source.flags,
        normaliser=config.evaluation.normaliser or None,
        thresholds=config.evaluation.thresholds,
    )
    result = Result(
        name=reference,
        checkpoint=checkpoint or opened.label,
        crop_protocol=f"{crop} x {config.data.crop_scale:g}",
        normaliser=scored.normaliser,
        scores=scored,
        rows=found,
        scheme=source.scheme,
        flags=source.flags,
        provenance=provenance,
        flip_test=opened.flip_test,
        step=opened.step,
        decoder=opened.decoder,
    )
    shown = _pictures(config, source, unreadable, result, crop, side) if pictures else []
    return Scored(result, shown, unreadable.keys())


def records(model: Opened | build.Loaded, config: ConfigDict, reference: str) -> reading.Records:
    """Opens a split to score a model on; where the set has more points than the model, with those that it has."""
    source = build.records(config, (reference,))
    if source.scheme.name != model.scheme.name and model.scheme.name in source.scheme.subsets:
        return reading.InScheme(source, model.scheme.name)
    return source


def check_scorable(config: ConfigDict) -> None:
    """Looks before training at what the end needs: splits, schemes, normaliser, crops. Nothing is decoded.

    Raises:
      UserError: all problems together.
    """
    problems: list[str] = []
    data, normaliser = config.data, config.evaluation.normaliser
    wanted = []
    for (reference, crops), where in _named_splits(config).items():
        try:
            wanted.append((build.records(config, (reference,)), f"{where} {reference}", crops))
        except UserError as error:
            problems.append(f"{where}: {error}")
    together, learned = _as_they_are_read(config) if not problems else ([], None)
    problems += together
    for source, where, crops in wanted:
        names = source.scheme.normaliser_names()
        if normaliser and normaliser not in names:
            problems.append(str(unknown("normaliser", normaliser, names, f"config.evaluation.normaliser, {where}")))
        try:
            if learned is not None:
                learned.subset_indices(source.scheme.name)
            for record in itertools.islice(pipeline.readable(source, pipeline.Unreadable(data.on_unreadable)), 1):
                for crop in crops:
                    transforms.CropProtocol(crop, data.crop_scale).square(record)
        except UserError as error:
            problems.append(f"{where}: {error}")
    report_together(problems, "the data do not fit the config")


def _named_splits(config: ConfigDict) -> dict[tuple[str, tuple[str, ...]], str]:
    """(split, the crop protocols that it is cut by) -> where in the config it is named first."""
    found: dict[tuple[str, tuple[str, ...]], str] = {}
    for where, part, key in configs.split_lists(config, config.stages):
        crops = tuple(config.data.test_crops) if key == "test" else (config.data.crop,)
        for split in part[key]:
            found.setdefault((split, crops), where)
    return found


def _as_they_are_read(config: ConfigDict) -> tuple[list[str], Scheme | None]:
    """Opens in one what each stage learns from, and what validates. Returns what is wrong, and the last stage's scheme."""
    problems: list[str] = []
    schemes: dict[tuple[tuple[str, ...], ...], Scheme | None] = {}
    for name in config.stages:
        train = config.stage[name].train
        chosen = (tuple(train.splits), tuple(train.unlabelled))
        if chosen not in schemes:
            schemes[chosen] = None
            try:
                schemes[chosen] = build.training_records(config, config.stage[name]).scheme
            except UserError as error:
                problems.append(f"config.stage.{name}: {error}")
    if config.data.validation:
        try:
            build.records(config, config.data.validation)
        except UserError as error:
            problems.append(f"config.data.validation: {error}")
    return problems, schemes[chosen]


def validator(config: ConfigDict) -> Any:
    """Returns (net, image_px, scheme) -> (variables -> mean NME in %) over the validation splits, without flip test."""

    def of_network(net: Landmarker, image_px: int, scheme: Scheme) -> Any:
        source = build.records(config, config.data.validation)
        predict = build.predictor(net, scheme, flip_test=False)
        unreadable = pipeline.Unreadable(config.data.on_unreadable)

        def nme_percent(variables: dict[str, Any]) -> float:
            predict_batch = functools.partial(predict, variables)
            found = face_rows(predict_batch, scheme, config, source, unreadable, crop=config.data.crop, image_px=image_px)
            normaliser = config.evaluation.normaliser or None
            return float(100 * np.nanmean(rows.nme_per_face(found, source.scheme, normaliser)))

        return nme_percent

    return of_network


def where_errors_lie(opened: Opened, config: ConfigDict, result: Result) -> limits.Limits:
    """Returns a result's scores by quarters of the faces, sorted by what their points and their pixels show.

    Raises:
      UserError: the split's scheme does not contain the 68 points that the measures need.
    """
    source = records(opened, config, result.name)
    chosen = list(source.scheme.subset_indices(limits.POINTS))
    points = np.where(result.rows.visible[..., None] > 0, result.rows.truth_px, np.nan)[:, chosen]
    tones = np.full(len(source), np.nan)
    for n in range(len(source)):
        if result.rows.evaluated[n] and np.isfinite(points[n]).all():
            tones[n] = limits.skin_tone(transforms.decode(source[n]), points[n])
    return limits.limits(result, limits.geometric(points) | {"skin of the cheeks, ITA degrees": tones})


def datasets(provenance: tuple[reading.Provenance, ...]) -> list[DatasetProvenance]:
    """Returns provenances as the report shows them."""
    return [
        DatasetProvenance(
            p.name,
            p.config_name,
            p.split if p.labelled else f"{p.split}, without labels",
            p.found,
            p.published,
            p.missing,
            p.licence,
        )
        for p in provenance
    ]


def trained_on(provenance: tuple[reading.Provenance, ...]) -> str:
    """Says what a network was trained on: "the300w:train, 2012 of 3148 faces + ..."."""
    return " + ".join(p.text() for p in provenance)


def write_faces(folder: Path, name: str, result: Result) -> None:
    """Writes a result's rows to `<folder>/faces_<name>.csv`, the name made fit for a file."""
    rows.write_csv(folder / f"faces_{re.sub(r'[^A-Za-z0-9.]+', '-', name)}.csv", result.rows, result.scheme, result.flags)


def numbers(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Returns results as plain values for `results.json`."""
    return [
        {
            "name": r.name,
            "checkpoint": r.checkpoint,
            "step": r.step,
            "crop_protocol": r.crop_protocol,
            "flip_test": r.flip_test,
            "decoder": r.decoder,
            "provenance": r.provenance,
            **scores.scores_to_dict(r.scores),
        }
        for r in results
    ]


def notices(scored: Sequence[Scored]) -> list[str]:
    """Says which faces could not be read."""
    return [f"{s.result.name}: {len(s.unreadable)} unreadable faces skipped: {s.unreadable}" for s in scored if s.unreadable]


def face_rows(
    predict_batch: evaluator.PredictBatch,
    scheme: Scheme,
    config: ConfigDict,
    source: reading.Records,
    unreadable: pipeline.Unreadable,
    *,
    crop: str,
    image_px: int,
    corruption: Corruption | None = None,
) -> rows.FaceRows:
    """Returns one row for each face of `source`, predicted by `predict_batch`, which gives points of `scheme`."""
    if source.scheme.name != scheme.name:
        predict_batch = evaluator.in_target_scheme(predict_batch, scheme, source.scheme.name)
    batches = build.evaluation_batches(config, source, unreadable, crop=crop, image_px=image_px, corruption=corruption)
    return evaluator.evaluate(predict_batch, batches, expected_faces=len(source))


def _pictures(config, source, unreadable, result: Result, crop: str, image_px: int) -> list[faces.FacePicture]:
    nme = rows.nme_per_face(result.rows, source.scheme, result.normaliser)
    wanted = dict(faces.select_faces(result.rows, nme))
    index_of = {result.rows.keys[n]: n for n in wanted}
    found: dict[int, faces.FacePicture] = {}
    for batch in build.evaluation_batches(config, source, unreadable, crop=crop, image_px=image_px):
        for i, key in enumerate(batch["key"]):
            if key in index_of and batch["counted"][i]:
                n = index_of[key]
                image, affine = batch["image"][i], batch["crop_to_image"][i]
                found[n] = faces.face_picture(result.rows, n, image, affine, float(nme[n]), wanted[n])
    return [found[n] for n in wanted if n in found]
