"""lmkd: compact facial-landmark models, trained and distilled in JAX / Flax.

    import lmkd

    predictor = lmkd.load()                            # the model for real faces that comes with the package
    predictor = lmkd.load("runs/faces68")              # or a workdir, a stage's folder, one step's folder
    found = predictor(image)                           # uint8 RGB [H, W, 3]; a detector finds the faces
    found = predictor(image, boxes=[[x0, y0, x1, y1]]) # or you say where they are
    found.landmarks_px, found.confidences              # [n, K, 2] in the image's pixels, [n, K]

Importing this module loads nothing heavy: JAX comes with the first `load`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import lmkd.predictor

__version__ = "0.1.0"


def load(
    path: str | Path = "", which: str = "best", *, detector: str = "cascade", refine: bool = True
) -> "lmkd.predictor.Predictor":
    """Opens a trained model for prediction.

    Args:
      path: anything that `--model` names: a workdir, a stage's folder, one step's folder, a model of the package by its
        name; "" is `pretrained.DEFAULT`.
      which: "best" or "latest" checkpoint.
      detector: what finds faces where no boxes are given: "cascade", "whole" (the image is one face) or the path of a
        YuNet model (`.onnx`).
      refine: look again at faces that the detector found; boxes that are given are taken as they are.

    Returns:
      The predictor: `lmkd.predictor.Predictor`.

    Raises:
      UserError: there is no such model or detector, or it cannot be read.
    """
    from lmkd import predictor, pretrained

    return predictor.load(path or pretrained.DEFAULT, which, detector=detector, refine=refine)
