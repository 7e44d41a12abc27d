"""Any trained model, ready to run: a checkpoint or an exported file behind one call.

    opened = open_model("runs/quickstart")          # a workdir, a stage's folder or one step's folder
    opened = open_model("out/onnx/model.onnx")      # an exported file, or its folder
    reading = opened.run(crops)                     # uint8 [b, S, S, 3] -> heatmaps, landmarks_px, confidence, as NumPy arrays

Whoever scores, predicts or measures a model takes an `Opened` and does not ask what runs it.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from lmkd import build, kept_configs, pretrained
from lmkd.core import schemes
from lmkd.core.errors import UserError
from lmkd.core.schemes import Scheme
from lmkd.data.reading import Provenance
from lmkd.exporters import card as cards
from lmkd.exporters import formats
from lmkd.models import landmarker
from lmkd.models.readout import Reading
from lmkd.training import parallel

CHECKPOINT = "checkpoint"


class Opened(NamedTuple):
    """A model that can be run.

    Attributes:
      run: RGB crops uint8 [b, S, S, 3] -> `Reading`: heatmaps float32 [b, h, w, K] (a checkpoint's stay on its device),
        landmarks_px float32 [b, K, 2] in crop pixels and confidence float32 [b, K] as NumPy arrays. Any b from 1; may be
        called from several threads.
      scheme: its landmark scheme.
      image_px: S, side of a crop.
      crop_scale: the crop's side, in longer sides of the face's box.
      name: what a person calls it: its folder or file.
      flip_test: whether `run` averages a crop with its mirror.
      decoder: what reads its points off its heatmaps; "" where nothing does, or nothing is known.
      format: "checkpoint", or the name of the export format.
      label: which one it is, for reports: "best", "last", "step 100"; of an exported file with the format before it.
      step: the training step, None where unknown.
      training_data: what it was trained on.
      config: of the experiment that trained it; the scores' protocol among others. None where nothing is known.
      loaded: the network and its variables, of a checkpoint; None of an exported file.
    """

    run: Callable[[np.ndarray], Reading]
    scheme: Scheme
    image_px: int
    crop_scale: float
    name: str
    flip_test: bool = False
    decoder: str = ""
    format: str = CHECKPOINT
    label: str = ""
    step: int | None = None
    training_data: tuple[Provenance, ...] = ()
    config: ConfigDict | None = None
    loaded: build.Loaded | None = None


def first_distinct(*namings: Sequence[str]) -> Sequence[str]:
    """Returns the first of several ways to name some models that gives no two of them one name; else the last."""
    return next((names for names in namings if len(set(names)) == len(names)), namings[-1])


def open_model(path: str | Path, which: str = "best", *, flip_test: bool | None = None, decoder: str | None = None) -> Opened:
    """Opens a model.

    Args:
      path: a workdir, a stage's folder, one step's folder, an exported file or its folder, a pretrained model's name.
      which: "best" or "latest" checkpoint; an exported file is what it is.
      flip_test: average with the mirrored crop; None does as the model's config says, or as the file was exported.
      decoder: how points are read off heatmaps, a function of `lmkd.ops.heatmaps`; None does as the model's config says.

    Raises:
      UserError: there is no such model, it cannot be read, its card is missing or is another file's, its runtime is not
        installed, or it was exported without the flip test that is asked for (or with it), or with a decoder of its own.
    """
    if decoder:
        build.check_decoder(decoder)
    checkpoint = path
    if exported := _exported(pretrained.resolve(path)):
        card, file = cards.read(exported)
        if not formats.is_checkpoint(formats.find(card["format"], str(file))):
            if decoder:
                raise UserError(f"{file} reads its points by itself: export it again with --decoder={decoder}")
            return _of_file(card, file, flip_test)
        checkpoint = file
    loaded = build.load(checkpoint, which)
    return of_checkpoint(loaded.read_by(decoder) if decoder else loaded, flip_test=flip_test)


def of_checkpoint(loaded: build.Loaded, *, flip_test: bool | None = None) -> Opened:
    """Returns a loaded checkpoint as a model that runs on this host's devices, faces shared out among them."""
    config = loaded.config
    flips = bool(config.evaluation.flip_test if flip_test is None else flip_test)
    flip = tuple(loaded.scheme.flip) if flips else None
    predict = jax.jit(lambda variables, crops: landmarker.predict(loaded.model, variables, crops, flip_permutation=flip))
    variables, share = parallel.rows_over_devices(loaded.variables)

    def run(crops: np.ndarray) -> Reading:
        count = len(crops)
        size = _padded(count, jax.local_device_count())
        padded = np.concatenate([crops, np.zeros((size - count, *crops.shape[1:]), np.uint8)])
        heatmaps, *points = predict(variables, share(padded))
        # Heatmaps stay on the device, points come: most callers never look at the former.
        found: list[Any] = [np.asarray(x)[:count] for x in points]
        return Reading(heatmaps if size == count else heatmaps[:count], *found)

    return Opened(
        run,
        loaded.scheme,
        loaded.image_px,
        float(config.data.crop_scale),
        str(loaded.folder),
        flip_test=flips,
        decoder=loaded.decoder,
        label=loaded.label,
        step=loaded.step,
        training_data=build.training_data(loaded),
        config=config,
        loaded=loaded,
    )


def _exported(path: Path) -> Path | None:
    """The exported file, or the folder of one, that a path means; None where it is no export."""
    if path.is_file() or cards.find(path):
        return path
    inside = sorted(p.parent for p in path.glob(f"*/{cards.NAME}"))
    if len(inside) > 1:
        raise UserError(f"{path} holds several exported models ({', '.join(p.name for p in inside)}): name one, {inside[0]}")
    return inside[0] if inside else None


def _of_file(card: dict[str, Any], file: Path, flip_test: bool | None) -> Opened:
    flips = bool(card["flip_test"])
    if flip_test is not None and flip_test != flips:
        raise UserError(
            f"{file} was exported {'with' if flips else 'without'} the flip test, and nothing outside the file can change "
            f"that: export it again with --{'no' if flips else ''}flip_test"
        )
    form = formats.find(card["format"], str(file))
    try:
        checkpoint: dict[str, Any] = card["checkpoint"]
        opened = Opened(
            formats.module(form).runner(file, formats.cores()),
            schemes.from_json(json.dumps(card["scheme"])),
            int(card["image_px"]),
            float(card["crop"]["scale"]),
            str(file),
            flip_test=flips,
            format=card["format"],
            label=f"{card['format']} of {checkpoint['label']}",
            step=checkpoint["step"],
            training_data=tuple(Provenance(**p) for p in card.get("training_data", ())),
            config=kept_configs.completed(kept_configs.from_json(json.dumps(card["config"]))),
        )
    except UserError:
        raise
    except Exception as error:  # runtimes each have errors of their own for a file that is none of theirs
        raise UserError(f"{file} cannot be opened as {card['format']}: {type(error).__name__}: {str(error)[:300]}") from error
    return opened


def _padded(count: int, devices: int) -> int:
    """A power of two, so that a few programs serve every number of faces, rounded up to an equal share for every device."""
    power = 1 << max(count - 1, 0).bit_length()
    return -(-power // devices) * devices
