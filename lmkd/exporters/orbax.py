"""An inference-only Orbax checkpoint: parameters, batch statistics, config and landmark scheme, and nothing else of training.

It has the layout of one step's folder: `--model`, `build.load` and `config.stage.X.teachers` take it like any checkpoint. Norms
are as they were trained, not folded.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from lmkd.exporters.formats import Format, Tolerance

FILE = "."  # the folder itself
FORMATS = {
    "orbax": Format(__name__, "float32", Tolerance(0.0, 0.0), "a checkpoint without training's state, float32"),
    "orbax_float16": Format(__name__, "float16", Tolerance(1e-3, None), "a checkpoint, its weights kept in float16"),
}


def write_checkpoint(folder: Path, variables: Mapping[str, Any], meta: Mapping[str, Any], variant: str = "float32") -> None:
    """Writes `model` and `meta` into `folder`, which exists.

    Args:
      folder: of the export.
      variables: what predicts: "params" and "batch_stats".
      meta: what the checkpoint says of itself, JSON values.
      variant: type that floating-point numbers are stored in; whoever loads them has float32 again.
    """
    arrays = {part: _arrays(variables[part], np.dtype(variant)) for part in variables if variables[part]}
    with ocp.StandardCheckpointer() as writer:
        writer.save(folder.absolute() / "model", arrays)
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as writer:
        writer.save(folder.absolute() / "meta", args=ocp.args.JsonSave(dict(meta)))
    for marker in folder.rglob("commit_success.txt"):  # its text is a path on the machine that wrote it
        marker.write_text("")


def _arrays(tree: Mapping[str, Any], dtype: np.dtype) -> dict[str, Any]:
    return {name: _arrays(x, dtype) if isinstance(x, Mapping) else np.asarray(x).astype(dtype) for name, x in tree.items()}
