"""StableHLO by `jax.export`: one file for CPU, CUDA and TPU, any number of crops; jax alone reads it.

    exported = jax.export.deserialize(open("model.stablehlo", "rb").read())
    exported.call(crops_u8)["landmarks_px"]                   # needs jax and flatbuffers, nothing of this package

Weights are constants of the program. jax keeps such files readable for at least six months ahead and three years back.
"""

from pathlib import Path

import jax
import jax.export
import numpy as np

from lmkd.exporters import formats
from lmkd.exporters.formats import Format, Runner, Tolerance
from lmkd.exporters.graph import Graph, reading
from lmkd.models.readout import Reading

FILE = "model.stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")
FORMATS = {
    "stablehlo": Format(__name__, "", Tolerance(1e-5, 1e-3), "jax.export for CPU, CUDA and TPU, float32, any batch"),
}


def write(graph: Graph, path: Path, variant: str, crops: np.ndarray) -> None:
    """Writes the graph to `path`; there is one variant, and nothing to calibrate.

    Raises:
      UserError: flatbuffers is not installed.
    """
    (batch,) = jax.export.symbolic_shape("b")
    crop = jax.ShapeDtypeStruct((batch, graph.image_px, graph.image_px, 3), np.uint8)
    program = jax.export.export(jax.jit(graph.run), platforms=PLATFORMS)(crop)
    try:
        path.write_bytes(program.serialize())
    except ImportError as error:
        raise formats.needs("flatbuffers", "StableHLO", error) from error


def runner(path: Path, threads: int) -> Runner:
    """Returns crops uint8 [b, S, S, 3] -> `Reading`; XLA takes the threads that the process may use, not `threads`."""
    try:
        program = jax.export.deserialize(bytearray(formats.checked_path(path).read_bytes()))
    except ImportError as error:
        raise formats.needs("flatbuffers", "StableHLO", error) from error
    call = jax.jit(program.call)

    def run(crops: np.ndarray) -> Reading:
        return reading(call(crops))

    return run
