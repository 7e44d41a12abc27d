"""JAX's primitives in ONNX: one rule each, found by the primitive's name.

A rule takes the builder, the equation and its inputs (`Value`s, or NumPy arrays where they are known while exporting) and
returns its one output. Equations whose inputs are all known are computed and need no rule.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lmkd.exporters.onnx_graph import Builder, NotSupported, Value, alike

CHANNELS_FIRST = (0, 3, 1, 2)
Inputs = Sequence[Any]  # a `Value` each, or an array where the program has a constant: every rule knows which it takes

ELEMENTWISE = {
    "abs": "Abs", "add": "Add", "add_any": "Add", "and": "And", "ceil": "Ceil", "cos": "Cos", "div": "Div", "eq": "Equal",
    "erf": "Erf", "exp": "Exp", "floor": "Floor", "ge": "GreaterOrEqual", "gt": "Greater", "le": "LessOrEqual", "log": "Log",
    "logistic": "Sigmoid", "lt": "Less", "max": "Max", "min": "Min", "mul": "Mul", "neg": "Neg", "not": "Not", "or": "Or",
    "pow": "Pow", "sign": "Sign", "sin": "Sin", "sqrt": "Sqrt", "sub": "Sub", "tanh": "Tanh",
}  # fmt: skip
REDUCTIONS = {"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin"}


def maximum(build: Builder, equation: Any, inputs: Inputs) -> Value:
    """Max; against 0 it is Relu, which runtimes join to the convolution before."""
    x, y = inputs
    if isinstance(x, Value) and not isinstance(y, Value) and y.ndim == 0 and y == 0 and y.dtype == np.float32:
        return x._replace(name=build.node("Relu", x.name))
    return elementwise(build, equation, inputs)


def minimum(build: Builder, equation: Any, inputs: Inputs) -> Value:
    """Min; against a known number it is Clip, which runtimes join to the convolution before."""
    number, x = sorted(inputs, key=lambda v: isinstance(v, Value))
    if isinstance(x, Value) and not isinstance(number, Value) and number.ndim == 0 and number.dtype == np.float32:
        return x._replace(name=build.node("Clip", x.name, "", build.constant(number)))
    return elementwise(build, equation, inputs)


def elementwise(build: Builder, equation: Any, inputs: Inputs, operation: str = "", **attributes: Any) -> Value:
    """Any operation whose inputs are broadcast against each other; the result is stored as its largest input is."""
    moving = [x for x in inputs if isinstance(x, Value)]
    stored = max(moving, key=lambda x: (len(x.shape), sum(size != 1 for size in x.shape))).stored
    laid = [build.known(np.asarray(x), stored) if not isinstance(x, Value) else build.laid(x, stored) for x in inputs]
    name = build.node(operation or ELEMENTWISE[equation.primitive.name], *(x.name for x in laid), **attributes)
    return Value(name, stored, _broadcast([x.shape for x in laid]))


def not_equal(build: Builder, equation: Any, inputs: Inputs) -> Value:
    """Ne, which ONNX lacks."""
    same = elementwise(build, equation, inputs, "Equal")
    return same._replace(name=build.node("Not", same.name))


def remainder(build: Builder, equation: Any, inputs: Inputs) -> Value:
    """Rem: the sign is the dividend's, as C has it."""
    return elementwise(build, equation, inputs, "Mod", fmod=1)


def inverse_root(build: Builder, equation: Any, inputs: Inputs) -> Value:
    """1 / sqrt(x)."""
    root = elementwise(build, equation, inputs, "Sqrt")
    return root._replace(name=build.node("Reciprocal", root.name))


def squared(build: Builder, equation: Any, inputs: Inputs) -> Value:
    """x * x."""
    return elementwise(build, equation, [inputs[0], inputs[0]], "Mul")


def integer_power(build: Builder, equation: Any, inputs: Inputs) -> Value:
    """x to a known whole number."""
    if equation.params["y"] == 2:
        return squared(build, equation, inputs)
    exponent = np.asarray(equation.params["y"], equation.invars[0].aval.dtype)
    return elementwise(build, equation, [inputs[0], exponent], "Pow")


def select(build: Builder, equation: Any, inputs: Inputs) -> Value:
    """select_n of two cases."""
    if len(inputs) != 3:
        raise NotSupported(f"a choice among {len(inputs) - 1} cases")
    return elementwise(build, equation, [inputs[0], inputs[2], inputs[1]], "Where")


def clamped(build: Builder, equation: Any, inputs: Inputs) -> Value:
    """clamp(low, x, high)."""
    low, x, high = inputs
    return elementwise(build, equation, [elementwise(build, equation, [x, low], "Max"), high], "Min")


def cast(build: Builder, equation: Any, inputs: Inputs) -> Value:
    """Another dtype."""
    import onnx

    x, wanted = _moving(inputs[0]), onnx.helper.np_dtype_to_tensor_dtype(np.dtype(equation.params["new_dtype"]))
    if equation.invars[0].aval.dtype == equation.params["new_dtype"]:
        return x
    return x._replace(name=build.node("Cast", x.name, to=int(wanted)))


def same(build: Builder, equation: Any, inputs: Inputs) -> Value:
    """Nothing: stop_gradient, copy."""
    return _moving(inputs[0])


def reduce(build: Builder, equation: Any, inputs: Inputs) -> Value:
    """Sums and extremes over axes, which go."""
    x, axes = full(build, inputs[0], equation.invars[0]), equation.params["axes"]
    where = build.integers([x.stored.index(axis) for axis in axes])
    name = build.node(REDUCTIONS[equation.primitive.name], x.name, where, keepdims=0)
    return without(x, axes, name)


def argmax(build: Builder, equation: Any, inputs: Inputs) -> Value:
    """The first of the largest along one axis."""
    import onnx

    x, (axis,) = full(build, inputs[0], equation.invars[0]), equation.params["axes"]
    name = build.node("ArgMax", x.name, axis=x.stored.index(axis), keepdims=0, select_last_index=0)
    wanted = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(equation.params["index_dtype"]))
    return without(x, (axis,), build.node("Cast", name, to=int(wanted)))


def transpose(build: Builder, equation: Any, inputs: Inputs) -> Value:
    """Bookkeeping: the stored tensor stays as it is."""
    x, order = _moving(inputs[0]), equation.params["permutation"]
    return Value(x.name, tuple(order.index(axis) for axis in x.stored), tuple(x.shape[axis] for axis in order))


def reshape(build: Builder, equation: Any, inputs: Inputs) -> Value:
    """Another shape of the same elements."""
    whole = build.plain(full(build, inputs[0], equation.invars[0]))
    return build.reshaped(whole, equation.params["new_sizes"])


def squeeze(build: Builder, equation: Any, inputs: Inputs) -> Value:
    """Axes of size 1 go."""
    x, axes = _moving(inputs[0]), equation.params["dimensions"]
    where = build.integers([x.stored.index(axis) for axis in axes])
    return without(x, axes, build.node("Squeeze", x.name, where))


def broadcast(build: Builder, equation: Any, inputs: Inputs) -> Value:
    """New axes of size 1: whoever needs all elements repeats them (`Builder.plain`)."""
    x, into = (
        build.plain(inputs[0] if isinstance(inputs[0], Value) else build.known(inputs[0])),
        equation.params["broadcast_dimensions"],
    )
    shape: list[Any] = [1] * len(equation.params["shape"])
    for axis, size in zip(into, x.shape, strict=True):
        shape[axis] = size
    return build.reshaped(x, shape)


def concatenate(build: Builder, equation: Any, inputs: Inputs) -> Value:
    """Values one after the other along an axis, stored as the first one is."""
    axis = equation.params["dimension"]
    stored = next(x.stored for x in inputs if isinstance(x, Value))
    laid = [build.laid(full(build, x, v), stored) for x, v in zip(inputs, equation.invars, strict=True)]
    return Value(build.node("Concat", *(x.name for x in laid), axis=stored.index(axis)), stored, equation.outvars[0].aval.shape)


def stack(build: Builder, equation: Any, inputs: Inputs) -> Value:
    """Values side by side along a new axis."""
    axis, shape = equation.params["axis"], equation.outvars[0].aval.shape
    whole = [build.plain(full(build, x, v)) for x, v in zip(inputs, equation.invars, strict=True)]
    each = [build.node("Unsqueeze", x.name, build.integers([axis])) for x in whole]
    return Value(build.node("Concat", *each, axis=axis), tuple(range(len(shape))), shape)


def split(build: Builder, equation: Any, inputs: Inputs) -> list[Value]:
    """Parts of equal size along an axis; the batch of a flip test among them."""
    x, axis, sizes = build.plain(_moving(inputs[0])), equation.params["axis"], equation.params["sizes"]
    if len(sizes) != 2 or str(sizes[0]) != str(sizes[1]):
        raise NotSupported(f"a split into {sizes}")
    total = build.sizes((x.shape[axis],))
    middle = build.node("Div", total, build.integers([2]))
    where, zero = build.integers([axis]), build.integers([0])
    bounds = ((zero, middle), (middle, total))
    names = [build.node("Slice", x.name, low, high, where) for low, high in bounds]
    return [Value(name, x.stored, v.aval.shape) for name, v in zip(names, equation.outvars, strict=True)]


def slices(build: Builder, equation: Any, inputs: Inputs) -> Value:
    """A part of each axis, in steps."""
    x, params = full(build, inputs[0], equation.invars[0]), equation.params
    steps = params["strides"] or (1,) * len(x.shape)
    cut = [
        (low, high, step, x.stored.index(axis))
        for axis, (low, high, step) in enumerate(zip(params["start_indices"], params["limit_indices"], steps, strict=True))
        if (low, str(high), step) != (0, str(x.shape[axis]), 1)
    ]
    return Value(sliced(build, x, cut) if cut else x.name, x.stored, equation.outvars[0].aval.shape)


def reverse(build: Builder, equation: Any, inputs: Inputs) -> Value:
    """Axes backwards."""
    x = full(build, inputs[0], equation.invars[0])
    cut = [(-1, np.iinfo(np.int64).min, -1, x.stored.index(axis)) for axis in equation.params["dimensions"]]
    return x._replace(name=sliced(build, x, cut))


def pad(build: Builder, equation: Any, inputs: Inputs) -> Value:
    """A border of one value."""
    x, value, config = full(build, inputs[0], equation.invars[0]), inputs[1], equation.params["padding_config"]
    if any(inner or low < 0 or high < 0 for low, high, inner in config) or isinstance(value, Value):
        raise NotSupported(f"a padding of {config}")
    by_axis = [config[axis] for axis in x.stored]
    sides = build.integers([low for low, _, _ in by_axis] + [high for _, high, _ in by_axis])
    return Value(build.node("Pad", x.name, sides, build.constant(value)), x.stored, equation.outvars[0].aval.shape)


def _moving(x: Value | np.ndarray) -> Value:
    """The one input of a rule: were it known, the equation would have been computed."""
    assert isinstance(x, Value)
    return x


def sliced(build: Builder, x: Value, cut: Sequence[tuple[int, int, int, int]]) -> str:
    """Adds a slice of (start, end, step, stored axis) each and returns its name."""
    starts, ends, steps, axes = zip(*cut, strict=True)
    return build.node("Slice", x.name, *(build.integers(part) for part in (starts, ends, axes, steps)))


def full(build: Builder, x: Value | np.ndarray, variable: Any) -> Value:
    """Returns a value with all its elements, repeated where it was only broadcast so far; a known one becomes a constant."""
    if not isinstance(x, Value):
        return build.known(np.asarray(x))
    return x if alike(x.shape, variable.aval.shape) else build.plain(x, variable.aval.shape)


def without(x: Value, axes: Sequence[int], name: str) -> Value:
    """Returns what is left of a value when its axes `axes` have gone; `name` is the stored tensor."""
    left = [axis for axis in range(len(x.shape)) if axis not in axes]
    stored = tuple(left.index(axis) for axis in x.stored if axis in left)
    return Value(name, stored, tuple(x.shape[axis] for axis in left))


def _broadcast(shapes: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    longest = max(shapes, key=len)
    return tuple(
        next((s[n] for s in shapes if len(s) == len(longest) and not (isinstance(s[n], int) and s[n] == 1)), 1)
        for n in range(len(longest))
    )


RULES: dict[str, Callable[[Builder, Any, Inputs], Any]] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(REDUCTIONS, reduce),
    "argmax": argmax, "broadcast_in_dim": broadcast, "clamp": clamped, "concatenate": concatenate, "convert_element_type":
    cast, "copy": same, "copy_p": same, "integer_pow": integer_power, "max": maximum, "min": minimum, "ne": not_equal,
    "pad": pad, "rem": remainder, "reshape": reshape, "rev": reverse, "rsqrt": inverse_root, "select_n": select, "slice":
    slices, "split": split, "square": squared, "squeeze": squeeze, "stack": stack, "stop_gradient": same, "transpose":
    transpose,
}  # fmt: skip
