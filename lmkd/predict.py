"""Finds the landmarks of faces in pictures and videos: files with the points drawn in, and a table in original pixels.

    python -m lmkd.predict faces.jpg folder/ video.mp4 [--model=PATH] [--output=predictions] [--nodraw]
                           [--format=json|csv|own_faces] [--detector=cascade|whole|PATH.onnx] [--box=x0,y0,x1,y1 ...]
                           [--smooth] [--which=best|latest] [--noflip_test] [--norefine]

The model is `faces68-1m`, which comes with the package, unless --model names another.

Faces are found by OpenCV's cascade, by a YuNet model of yours, or not at all: --box says where they are (about the face's
points: brows to chin), --detector=whole takes each picture for one face. A file that cannot be read is told and left
out, and the exit status is then 2; a picture without a face is told and is no error.
"""

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from lmkd import cli, pretrained
from lmkd.core import errors
from lmkd.core.errors import UserError, report_together, unknown

if TYPE_CHECKING:
    from lmkd.predictor import Predictor

_MODEL = flags.DEFINE_string(
    "model", pretrained.DEFAULT, "A workdir, a stage's folder, one step's folder, or one that comes with lmkd."
)
_WHICH = flags.DEFINE_string("which", "best", "best or latest checkpoint.")
_OUTPUT = flags.DEFINE_string("output", "predictions", "Folder for the drawn files and the table.")
_FORMAT = flags.DEFINE_string("format", "json", "json, csv, or own_faces: pictures and points as lmkd.prepare reads them.")
_DETECTOR = flags.DEFINE_string("detector", "cascade", "cascade, whole, or the path of a YuNet model (.onnx).")
_BOX = flags.DEFINE_multi_string("box", [], "x0,y0,x1,y1 in pixels, about a face's points; may be given several times.")
_SMOOTH = flags.DEFINE_bool("smooth", False, "Filter the points of videos over time (one-euro filter).")
_DRAW = flags.DEFINE_bool("draw", True, "Write the pictures and videos with points; --nodraw writes the table alone.")
_FLIP_TEST = flags.DEFINE_bool("flip_test", None, "Average with the mirrored crop; the model decides by default.")

_REFINE = flags.DEFINE_bool("refine", True, "Look again at faces that a detector found, about their points.")


def main(words: list[str]) -> None:
    """The door's one call."""
    from lmkd.prediction import files, inputs, outputs

    cli.quiet()
    if not words:
        raise UserError("on what? Name pictures, videos or folders: python -m lmkd.predict faces.jpg folder/")
    if _FORMAT.value not in outputs.FILES:
        raise unknown("format", _FORMAT.value, outputs.FILES, "--format")
    if _BOX.value and flags.FLAGS["detector"].present:
        raise UserError("--box says where the faces are and --detector looks for them: give one of the two")
    boxes = _boxes(_BOX.value)
    folder = Path(errors.folder("--output", _OUTPUT.value))
    found, left_out = inputs.gather(words, folder)
    warn = functools.partial(print, file=sys.stderr)
    for line in left_out:
        warn(line)
    predictor = _predictor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output={folder}: no folder for results can be made there ({error.strerror})") from error
    job = files.Job(predictor, folder, _FORMAT.value, boxes, draw=_DRAW.value, smooth=_SMOOTH.value, model=predictor.model.name)
    skipped = files.predict(found, job, tell=print, warn=warn)
    print(f"\n{len(found) - len(skipped)} of {len(found)} files: {job.table}")
    if skipped:
        raise UserError(f"{len(skipped)} of {len(found)} files could not be used, as told above; the others are done")


def _predictor() -> "Predictor":
    from lmkd import build, predictor
    from lmkd.configs import common

    build.prepare_device(common.get_config())
    return predictor.load(
        _MODEL.value, _WHICH.value, detector=_DETECTOR.value, refine=_REFINE.value, flip_test=_FLIP_TEST.value
    )


def _boxes(texts: list[str]) -> list[list[float]] | None:
    """Reads the boxes of --box, None where there are none."""
    boxes: list[list[float]] = []
    problems = []
    for text in texts:
        try:
            x0, y0, x1, y1 = map(float, text.split(","))
            boxes.append([x0, y0, x1, y1])
        except ValueError:
            problems.append(f"--box={text}: write four numbers x0,y0,x1,y1")
    report_together(problems, "boxes")
    return boxes or None


def console() -> None:
    """Entry point."""
    cli.run(main, takes_words=True)


if __name__ == "__main__":
    console()
