"""ONNX, float32, any number of crops; onnxruntime alone runs the file.

    session = onnxruntime.InferenceSession("model.onnx")
    landmarks_px, = session.run(["landmarks_px"], {"crops": crops_u8})

Route: a small exporter of our own over the jaxpr of the one graph, `onnx_rules` and `onnx_products`, one rule a primitive.
Tried beside it: jax2onnx pins an Orbax older than ours and cannot share an environment with this package (and its default
output for a multi-branch network was refused by ONNX Runtime); tf2onnx would bring TensorFlow into a path that needs none.
The file is channels-first inside, as ONNX Runtime's convolutions want it, without transposes between them. A network with a
primitive that has no rule is refused by name.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np

from lmkd.core.errors import UserError
from lmkd.exporters import formats, onnx_products, onnx_rules
from lmkd.exporters.formats import Format, Runner, Tolerance
from lmkd.exporters.graph import INPUT, OUTPUTS, Graph, reading
from lmkd.exporters.onnx_graph import INPUT_BATCH, Builder, NotSupported, Value
from lmkd.models.readout import Reading

FILE = "model.onnx"
FORMATS = {"onnx": Format(__name__, "", Tolerance(1e-5, 1e-3), "ONNX, float32, any batch")}
OPSET = 18  # the first whose reductions all take their axes alike
IR_VERSION = 9  # what ONNX Runtime reads from 1.16 on
RULES = onnx_rules.RULES | onnx_products.RULES


def write(graph: Graph, path: Path, variant: str, crops: np.ndarray) -> None:
    """Writes the graph to `path`; there is one variant, and nothing to calibrate.

    Raises:
      UserError: onnx is not installed, or the network has an operation that this exporter does not know.
    """
    try:
        import onnx
    except ImportError as error:
        raise formats.needs("onnx", "writing ONNX", error) from error
    (batch,) = jax.export.symbolic_shape(INPUT_BATCH)
    crop = jax.ShapeDtypeStruct((batch, graph.image_px, graph.image_px, 3), np.uint8)
    traced = jax.jit(lambda crops: [graph.run(crops, grouped=True)[name] for name in OUTPUTS]).trace(crop)
    build = Builder()
    try:
        found = _converted(build, traced.jaxpr.jaxpr, traced.jaxpr.consts, [Value(INPUT, (0, 1, 2, 3), crop.shape)])
        names = [
            build.plain(onnx_rules.full(build, x, variable), variable.aval.shape).name
            for x, variable in zip(found, traced.jaxpr.jaxpr.outvars, strict=True)
        ]
    except NotSupported as error:
        raise UserError(f"this network cannot be exported to ONNX: it has {error}. StableHLO takes every network.") from error
    shapes = {name: v.aval.shape for name, v in zip(OUTPUTS, traced.jaxpr.jaxpr.outvars, strict=True)}
    onnx.save(_model(build, names, shapes, crop.shape), path)


def runner(path: Path, threads: int) -> Runner:
    """Returns crops uint8 [b, S, S, 3] -> `Reading`, on `threads` threads.

    Raises:
      UserError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise formats.needs("onnxruntime", "ONNX", error) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(formats.checked_path(path)), sess_options=options, providers=["CPUExecutionProvider"]
    )

    def run(crops: np.ndarray) -> Reading:
        found: Any = session.run(list(OUTPUTS), {INPUT: np.ascontiguousarray(crops)})
        return reading(dict(zip(OUTPUTS, found, strict=True)))

    return run


def _converted(build: Builder, jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """Adds a jaxpr to the graph; returns what it returns: values, or NumPy arrays where they are known."""
    known = {**dict(zip(jaxpr.constvars, map(np.asarray, constants), strict=True))}
    known |= dict(zip(jaxpr.invars, arguments, strict=True))

    def read(variable: Any) -> Any:
        return np.asarray(variable.val, variable.aval.dtype) if hasattr(variable, "val") else known[variable]

    for equation in jaxpr.eqns:
        inputs = [read(v) for v in equation.invars]
        inner = next((equation.params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if k in equation.params), None)
        if inner is not None:
            found = _converted(build, getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), inputs)
        elif not any(isinstance(x, Value) for x in inputs) and _sized(equation):
            found = equation.primitive.bind(*inputs, **equation.params)
            found = [np.asarray(x) for x in (found if equation.primitive.multiple_results else [found])]
        else:
            found = _by_rule(build, equation, inputs)
        known.update(zip(equation.outvars, found, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _by_rule(build: Builder, equation: Any, inputs: list[Any]) -> list[Any]:
    name = equation.primitive.name
    if name not in RULES:
        raise NotSupported(f"the operation {name!r}")
    found = RULES[name](build, equation, inputs)
    return found if isinstance(found, list) else [found]


def _sized(equation: Any) -> bool:
    """Whether all of an equation's outputs have sizes that are known."""
    return all(isinstance(size, int) for v in equation.outvars for size in v.aval.shape)


def _model(build: Builder, names: Sequence[str], shapes: dict[str, Any], crop: Any) -> Any:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants = build.used(names)
    made = [
        helper.make_node(operation, list(inputs), [output], **attributes) for operation, inputs, output, attributes in nodes
    ]
    made += [helper.make_node("Identity", [name], [output]) for name, output in zip(names, OUTPUTS, strict=True)]

    def sizes(shape: Any) -> list[Any]:
        return [size if isinstance(size, int) else str(size) for size in shape]

    graph = helper.make_graph(
        made,
        "lmkd",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, sizes(crop))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes(shapes[name])) for name in OUTPUTS],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="lmkd"
    )
    onnx.checker.check_model(model)
    return model
