"""Any trained model, ready to run: a checkpoint or an exported file behind one call.

    opened = open_model("runs/quickstart")          # a workdir, a stage's folder or one step's folder
    reading = opened.run(crops)                     # uint8 [b, S, S, 3] -> heatmaps, landmarks_px, confidence, as NumPy arrays

Whoever scores, predicts or measures a model takes an `Opened` and does not ask what runs it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from lmkd import build
from lmkd.core.schemes import Scheme
from lmkd.models import landmarker
from lmkd.models.readout import Reading


class Opened(NamedTuple):
    """A model that can be run.

    Attributes:
      run: RGB crops uint8 [b, S, S, 3] -> `Reading` of NumPy arrays: heatmaps float32 [b, h, w, K], landmarks_px float32
        [b, K, 2] in crop pixels, confidence float32 [b, K]. Any b from 1; may be called from several threads.
      scheme: its landmark scheme.
      image_px: S, side of a crop.
      crop_scale: the crop's side, in longer sides of the face's box.
      name: what a person calls it: its folder or file.
    """

    run: Callable[[np.ndarray], Reading]
    scheme: Scheme
    image_px: int
    crop_scale: float
    name: str


def open_model(path: str | Path, which: str = "best", *, flip_test: bool | None = None) -> Opened:
    """Opens a model.

    Args:
      path: a workdir, a stage's folder or one step's folder.
      which: "best" or "latest" checkpoint.
      flip_test: average with the mirrored crop; None does as the model's config says.

    Raises:
      UserError: there is no such model, or it cannot be read.
    """
    loaded = build.load(path, which)
    config = loaded.config
    flips = config.evaluation.flip_test if flip_test is None else flip_test
    flip = tuple(loaded.scheme.flip) if flips else None
    predict = jax.jit(lambda variables, crops: landmarker.predict(loaded.model, variables, crops, flip_permutation=flip))
    variables = jax.device_put(loaded.variables)

    def run(crops: np.ndarray) -> Reading:
        # Padded to a power of two, so that a few programs serve every number of faces.
        count = len(crops)
        padded = np.concatenate([crops, np.zeros((_next_power(count) - count, *crops.shape[1:]), np.uint8)])
        return Reading(*(np.asarray(x)[:count] for x in predict(variables, padded)))

    return Opened(run, loaded.scheme, loaded.image_px, float(config.data.crop_scale), str(loaded.folder))


def _next_power(count: int) -> int:
    return 1 << max(count - 1, 0).bit_length()
