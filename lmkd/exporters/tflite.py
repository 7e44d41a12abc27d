"""TFLite for phones: float32, float16, dynamic-range int8 and full int8; `ai-edge-litert` alone runs the files.

    interpreter = ai_edge_litert.interpreter.Interpreter("model.tflite")
    interpreter.get_signature_runner()(crops=crop_u8[None])["landmarks_px"]          # one crop a call

Route: `jax2tf`, TensorFlow's converter to a float32 file, `ai-edge-quantizer` from there. The quantizer takes and leaves
operations by the name scopes that Flax gives them, so that decoding stays in float inside every file: coordinates in int8
would step by half a pixel. In the full int8 file the network is int8 up to the features; the last layer has int8 weights and
float output, since heatmaps cut to 256 steps lose the tails that decoding reads. The converter cannot make the number of
crops free (it fails at argmax), so files take one.
"""

import contextlib
import io
import os
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from lmkd.exporters import formats
from lmkd.exporters.formats import Format, Runner, Tolerance
from lmkd.exporters.graph import INPUT, OUTPUTS, Graph, reading
from lmkd.models.readout import Reading

FILE = "model.tflite"
FORMATS = {
    "tflite": Format(__name__, "float32", Tolerance(1e-5, 1e-3), "TFLite, float32, one crop"),
    "tflite_float16": Format(__name__, "float16", Tolerance(1e-3, None), "TFLite, weights in float16, one crop"),
    "tflite_dynamic_int8": Format(
        __name__, "dynamic_int8", Tolerance(5e-3, None), "TFLite, weights in int8, activations cut as they come, one crop"
    ),
    "tflite_int8": Format(
        __name__, "int8", Tolerance(1e-2, None), "TFLite, weights and activations in int8 up to the features, one crop"
    ),
}
# Scopes of operations, as Flax names them.
NETWORK = r"Landmarker/(backbone|head)/|Landmarker\._normalised"
BEFORE_LAST = r"Landmarker/(backbone|head/(?!final))|Landmarker\._normalised"
LAST = r"Landmarker/head/final"


def write(graph: Graph, path: Path, variant: str, crops: np.ndarray) -> None:
    """Writes one variant of the graph to `path`; "int8" is calibrated on `crops`.

    Raises:
      UserError: TensorFlow or ai-edge-quantizer is not installed.
    """
    converted = _float32(graph)
    path.write_bytes(converted if variant == "float32" else _quantized(converted, variant, crops))


def runner(path: Path, threads: int) -> Runner:
    """Returns crops uint8 [b, S, S, 3] -> `Reading`, crop by crop on `threads` threads.

    Raises:
      UserError: ai-edge-litert is not installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise formats.needs("ai-edge-litert", "TFLite", error) from error
    signature = Interpreter(str(formats.checked_path(path)), num_threads=threads).get_signature_runner()
    lock = threading.Lock()  # an interpreter holds one call's tensors

    def run(crops: np.ndarray) -> Reading:
        with lock:
            each = [signature(**{INPUT: crop[None]}) for crop in crops]
        return reading({name: np.concatenate([one[name] for one in each]) for name in OUTPUTS})

    return run


def _float32(graph: Graph) -> bytes:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tensorflow as tf
        from jax.experimental import jax2tf
    except ImportError as error:
        raise formats.needs("tensorflow", "writing TFLite", error) from error
    crop = tf.TensorSpec((1, graph.image_px, graph.image_px, 3), tf.uint8, name=INPUT)
    module = tf.Module()
    with warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")  # of TensorFlow about itself
        function = jax2tf.convert(lambda crops: graph.run(crops, grouped=True), with_gradient=False)
        module.run = tf.function(function, input_signature=[crop], autograph=False)
        return tf.lite.TFLiteConverter.from_concrete_functions([module.run.get_concrete_function()], module).convert()


def _quantized(converted: bytes, variant: str, crops: np.ndarray) -> bytes:
    try:
        from ai_edge_quantizer import quantizer
        from ai_edge_quantizer.qtyping import TFLOperationName
    except ImportError as error:
        raise formats.needs("ai-edge-quantizer", "a quantised TFLite file", error) from error
    every = TFLOperationName.ALL_SUPPORTED
    with warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")  # its calibration uses what the interpreter calls a debugging option
        maker = quantizer.Quantizer(bytearray(converted))
        if variant == "float16":
            _add_float16(maker)
        elif variant == "dynamic_int8":
            maker.add_dynamic_config(NETWORK, every, num_bits=8)
        else:
            maker.add_static_config(BEFORE_LAST, every, activation_num_bits=8, weight_num_bits=8)
            maker.add_dynamic_config(LAST, every, num_bits=8)
        ranges = (
            maker.calibrate(_calibration(converted, crops), num_threads=formats.cores()) if maker.need_calibration else None
        )
        return bytes(maker.quantize(ranges).quantized_model)


def _add_float16(maker: Any) -> None:
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    half = qtyping.OpQuantizationConfig(
        weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
        compute_precision=qtyping.ComputePrecision.FLOAT,
    )
    operations = qtyping.TFLOperationName
    for operation in (operations.CONV_2D, operations.DEPTHWISE_CONV_2D, operations.FULLY_CONNECTED):
        maker.update_quantization_recipe(NETWORK, operation, half, AlgorithmName.FLOAT_CASTING)


def _calibration(converted: bytes, crops: np.ndarray) -> dict[str, list[dict[str, np.ndarray]]]:
    from ai_edge_litert.interpreter import Interpreter

    (signature,) = Interpreter(model_content=converted).get_signature_list()
    return {signature: [{INPUT: crop[None]} for crop in crops]}


@contextlib.contextmanager
def _quiet():
    """Keeps converters' progress bars, and what their C++ says, off the terminal; an error shows what they said."""
    with tempfile.TemporaryFile() as said, contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        before = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield
        except Exception:
            said.seek(0)
            os.write(before, said.read())
            raise
        finally:
            os.dup2(before, 2)
            os.close(before)
