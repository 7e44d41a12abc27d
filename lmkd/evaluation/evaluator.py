"""From batches to one row a face, over padding, devices and hosts.

    rows = evaluate(predict_batch, batches, expected_faces=554)

Coordinates leave the crop here, in float64 on the host: `crop_to_image` takes them to original image pixels. Every
record of the split is one row, in order; one row too few or too many is an error, never a slightly wrong mean.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lmkd.core.errors import UserError, report_together
from lmkd.core.geometry import apply_affine
from lmkd.core.schemes import Scheme
from lmkd.evaluation.rows import FaceRows, concatenate, take

Batch = Mapping[str, Any]
PredictBatch = Callable[[Batch], tuple[Any, Any]]

_NEEDED = ("landmarks_px", "visible", "crop_to_image", "mask", "subset", "key", "counted")


def evaluate(predict_batch: PredictBatch, batches: Iterable[Batch], *, expected_faces: int) -> FaceRows:
    """Runs a model over a split and returns one row for each of its records, on every host the same.

    Args:
      predict_batch: takes a batch, returns (landmarks_px [b, K, 2] in crop pixels, confidence [b, K]), anything that
        `numpy.asarray` takes.
      batches: dicts of `core.batch.FIELDS` (NumPy, leading axis b) and besides: `key` (b texts); `counted` u8 [b], 1
        for a row that stands for a record of the split, 0 for padding. A row with `counted` 1 and `mask` 0 is
        an unreadable record: it keeps its row, as skipped. Host i of p yields records i, i + p, i + 2 p, ...
      expected_faces: size of the split, over all hosts.

    Raises:
      UserError: evaluated + skipped differs from `expected_faces`, keys repeat, a prediction of an evaluated face is
        not finite, or shapes do not fit.
    """
    parts = [_rows_of_batch(predict_batch, batch) for batch in batches]
    if not parts:
        raise UserError(f"there is nothing to evaluate: no batches came, {expected_faces} faces expected")
    rows = gather_rows(concatenate(parts))
    # Checked on what all hosts have in common, so that none goes on while another one stops.
    report_together(_problems(rows, expected_faces), "the evaluation is not complete")
    return rows


def in_target_scheme(predict_batch: PredictBatch, scheme: Scheme, target: str) -> PredictBatch:
    """Returns a predictor of the points of `target` from one of `scheme`, to score a model on another data set.

    A WFLW model on 300W: `in_target_scheme(predict_batch, schemes.get("wflw98"), "300w68")`.
    """
    chosen = list(scheme.subset_indices(target))

    def predict(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        landmarks_px, confidence = predict_batch(batch)
        return np.asarray(landmarks_px)[:, chosen], np.asarray(confidence)[:, chosen]

    return predict


def gather_rows(rows: FaceRows) -> FaceRows:
    """Returns the rows of all hosts on each of them, in the split's order; on one host the rows as they are.

    Host i of p holds the split's records i, i + p, i + 2 p, ... (Grain's `[i::p]`): that gives the order. Hosts may
    hold different numbers of rows, of the same K and F. `evaluate` calls this; a second call would repeat every row.
    """
    import jax

    if jax.process_count() == 1:
        return rows
    from jax.experimental import multihost_utils

    index = np.arange(len(rows.keys)) * jax.process_count() + jax.process_index()
    key_bytes = max([len(key.encode()) for key in rows.keys], default=0)
    sizes = np.asarray(multihost_utils.process_allgather(np.array([len(rows.keys), key_bytes], np.int32)))
    key_bytes = max(1, int(sizes[:, 1].max()))
    packed = pack(rows, index, key_bytes=key_bytes)
    # A collective wants one shape on every host, so short hosts add rows of zeros, cut off again below.
    filler = np.zeros((int(sizes[:, 0].max()) - len(packed), packed.shape[1]), np.uint8)
    gathered = np.asarray(multihost_utils.process_allgather(np.concatenate([packed, filler])))
    records = [host[:count] for host, count in zip(gathered, sizes[:, 0], strict=True)]
    return unpack(np.concatenate(records), key_bytes=key_bytes, shape=_point_shape(rows))


def pack(rows: FaceRows, index: np.ndarray, *, key_bytes: int) -> np.ndarray:
    """Returns rows as u8 [n, width]: bytes, since JAX would cut float64 to float32 on the way between hosts."""
    records = np.zeros(len(rows.keys), _record_type(key_bytes, _point_shape(rows)))
    records["index"] = index
    records["key"] = [key.encode() for key in rows.keys]
    for name in rows._fields[1:]:
        records[name] = getattr(rows, name)
    return records.view(np.uint8).reshape(len(records), records.dtype.itemsize)


def unpack(packed: np.ndarray, *, key_bytes: int, shape: tuple[int, int]) -> FaceRows:
    """Returns the rows that `pack` made, sorted by index; `shape` is (K, F)."""
    records = np.ascontiguousarray(packed).view(_record_type(key_bytes, shape)).reshape(len(packed))
    rows = FaceRows([key.decode() for key in records["key"]], *(records[name].copy() for name in FaceRows._fields[1:]))
    return take(rows, np.argsort(records["index"], kind="stable"))


def _rows_of_batch(predict_batch: PredictBatch, batch: Batch) -> FaceRows:
    """The batch's rows without padding."""
    report_together([f"no key {name!r}" for name in _NEEDED if name not in batch], "an evaluation batch is incomplete")
    landmarks_px, confidence = (np.asarray(array, np.float64) for array in predict_batch(batch))
    truth_px = np.asarray(batch["landmarks_px"], np.float64)
    if landmarks_px.shape != truth_px.shape or confidence.shape != truth_px.shape[:2]:
        raise UserError(
            f"predictions {list(landmarks_px.shape)} and confidences {list(confidence.shape)} do not fit the data's "
            f"points {list(truth_px.shape)}. For a model of another scheme use evaluator.in_target_scheme."
        )
    affine = np.asarray(batch["crop_to_image"], np.float64)
    counted, readable = np.asarray(batch["counted"]) > 0, np.asarray(batch["mask"]) > 0
    keys = [key.decode() if isinstance(key, bytes) else str(key) for key in batch["key"]]
    blank = ~readable[:, None, None]
    rows = FaceRows(
        keys=keys,
        predicted_px=np.where(blank, np.nan, apply_affine(affine, landmarks_px)),
        truth_px=np.where(blank, np.nan, apply_affine(affine, truth_px)),
        visible=np.asarray(batch["visible"], np.float32) * readable[:, None],
        confidence=confidence.astype(np.float32) * readable[:, None],
        subset=np.asarray(batch["subset"], np.uint8),
        evaluated=readable.astype(np.uint8),
    )
    return take(rows, np.flatnonzero(counted))


def _problems(rows: FaceRows, expected_faces: int) -> list[str]:
    evaluated = int(rows.evaluated.sum())
    skipped, problems = len(rows.keys) - evaluated, []
    if len(rows.keys) != expected_faces:
        problems.append(f"evaluated {evaluated} + skipped {skipped} = {len(rows.keys)}, the split has {expected_faces} faces")
    repeated = _repeated(rows.keys)
    if repeated:
        problems.append(f"{len(repeated)} keys occur more than once: {_some(repeated)}")
    # A prediction of NaN must not pass for a face without a score: that would make a broken model look better.
    finite = np.isfinite(rows.predicted_px).all(axis=(1, 2))
    broken = [rows.keys[n] for n in np.flatnonzero((rows.evaluated > 0) & ~finite)]
    unknown = (rows.visible > 0) & ~np.isfinite(rows.truth_px).all(axis=2)
    lost = [rows.keys[n] for n in np.flatnonzero(unknown.any(axis=1))]
    if lost:
        problems.append(f"true points that count are not finite for {len(lost)} faces: {_some(lost)}")
    if broken:
        problems.append(f"the model's predictions are not finite for {len(broken)} faces: {_some(broken)}")
    return problems


def _repeated(keys: Sequence[str]) -> list[str]:
    return [key for key, times in Counter(keys).items() if times > 1]


def _some(keys: Sequence[str]) -> str:
    return ", ".join(map(repr, keys[:5])) + (", ..." if len(keys) > 5 else "")


def _point_shape(rows: FaceRows) -> tuple[int, int]:
    return rows.truth_px.shape[1], rows.subset.shape[1]


def _record_type(key_bytes: int, shape: tuple[int, int]) -> np.dtype:
    points, flags = shape
    return np.dtype(
        [
            ("index", np.int64),
            ("key", f"S{key_bytes}"),
            ("predicted_px", np.float64, (points, 2)),
            ("truth_px", np.float64, (points, 2)),
            ("visible", np.float32, (points,)),
            ("confidence", np.float32, (points,)),
            ("subset", np.uint8, (flags,)),
            ("evaluated", np.uint8),
        ]
    )
