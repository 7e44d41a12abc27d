"""JAX's convolutions, products, windows and gathers in ONNX: the rules that care how axes lie (see `onnx_rules`)."""

from collections.abc import Callable
from typing import Any

import numpy as np

from lmkd.exporters.onnx_graph import Builder, NotSupported, Value
from lmkd.exporters.onnx_rules import CHANNELS_FIRST, Inputs, elementwise, full, sliced, without

_NHWC, _HWIO = (0, 3, 1, 2), (3, 2, 0, 1)  # where jax.lax.ConvDimensionNumbers finds batch, channels, rows and columns


def convolution(build: Builder, equation: Any, inputs: Inputs) -> Value:
    """A convolution of known weights, grouped or not."""
    (x, kernel), params = inputs, equation.params
    numbers = params["dimension_numbers"]
    usual = (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec) == (_NHWC, _HWIO, _NHWC)
    if (
        not usual
        or isinstance(kernel, Value)
        or any(d != 1 for d in params["lhs_dilation"])
        or params["batch_group_count"] != 1
    ):
        raise NotSupported("a convolution that is transposed, not channels-last, or whose weights are computed from the image")
    name = build.node(
        "Conv",
        build.laid(full(build, x, equation.invars[0]), CHANNELS_FIRST).name,
        build.constant(kernel.transpose(_HWIO)),
        strides=list(params["window_strides"]),
        pads=_pads(params["padding"]),
        dilations=list(params["rhs_dilation"]),
        group=params["feature_group_count"],
    )
    return Value(name, CHANNELS_FIRST, equation.outvars[0].aval.shape)


def product(build: Builder, equation: Any, inputs: Inputs) -> Value:
    """A product of matrices: with a known one in whatever layout the other has, else as Einsum."""
    ((left, right), batches) = equation.params["dimension_numbers"]
    known = [not isinstance(x, Value) for x in inputs]
    if not any(known) or any(batches) or len(left) != 1 or np.ndim(inputs[known.index(True)]) > 2:
        return _einsum(build, equation, inputs)
    first = not known[0]  # whether what is not known comes first
    (axis,), (contracted,) = (left, right) if first else (right, left)
    x = full(build, inputs[0 if first else 1], equation.invars[0 if first else 1])
    matrix = np.asarray(inputs[1 if first else 0])
    if matrix.ndim == 1:
        shaped = matrix.reshape([-1 if n == axis else 1 for n in range(len(x.shape))])
        weighed = elementwise(build, equation, [x, shaped], "Mul")
        at = build.integers([weighed.stored.index(axis)])
        return without(weighed, (axis,), build.node("ReduceSum", weighed.name, at, keepdims=0))
    matrix, rank = np.moveaxis(matrix, contracted, 0), len(x.shape)
    place = x.stored.index(axis)
    if rank == 4 and place == 1:
        name = build.node("Conv", x.name, build.constant(matrix.T[:, :, None, None]))
    elif place == rank - 2:
        name = build.node("MatMul", build.constant(matrix.T), x.name)
    else:
        x = build.laid(x, [*(a for a in x.stored if a != axis), axis])
        name = build.node("MatMul", x.name, build.constant(matrix))
    stays = [a for a in range(rank) if a != axis]
    made = [*stays, axis] if first else [axis, *stays]  # the result's axes, the contracted one's place taken by the new one
    return Value(name, tuple(made.index(a) for a in x.stored), equation.outvars[0].aval.shape)


def max_pool(build: Builder, equation: Any, inputs: Inputs) -> Value:
    """Maxima of windows over rows and columns."""
    (x,), params = inputs, equation.params
    window, strides, padding = params["window_dimensions"], params["window_strides"], params["padding"]
    dilated = any(d != 1 for d in (*params["base_dilation"], *params["window_dilation"]))
    if dilated or len(window) != 4 or any(size != 1 for size in (window[0], window[3], strides[0], strides[3])):
        raise NotSupported(f"a maximum over windows of {window}")
    name = build.node(
        "MaxPool",
        build.laid(full(build, x, equation.invars[0]), CHANNELS_FIRST).name,
        kernel_shape=list(window[1:3]),
        strides=list(strides[1:3]),
        pads=_pads(padding[1:3]),
    )
    return Value(name, CHANNELS_FIRST, equation.outvars[0].aval.shape)


def gather(build: Builder, equation: Any, inputs: Inputs) -> Value:
    """Slices in steps, `jnp.take` along one axis, `jnp.take_along_axis`; indices must lie inside, as ours do."""
    x, indices = inputs
    numbers, shape = equation.params["dimension_numbers"], equation.outvars[0].aval.shape
    source = full(build, x, equation.invars[0])
    lines = None if isinstance(indices, Value) else _lines(numbers, equation.params["slice_sizes"], indices)
    if lines is not None:
        cut = [(low, high, step, source.stored.index(axis)) for low, high, step, axis in lines]
        return Value(sliced(build, source, cut), source.stored, shape)
    source = build.plain(source)
    if len(numbers.collapsed_slice_dims) != 1 or numbers.start_index_map != numbers.collapsed_slice_dims:
        raise NotSupported(f"a gather with {numbers}")
    (axis,), rank = numbers.collapsed_slice_dims, len(source.shape)
    others = tuple(a for a in range(rank) if a != axis)
    at = full(build, indices, equation.invars[1])
    if numbers.operand_batching_dims == others == numbers.start_indices_batching_dims and not numbers.offset_dims:
        along = build.reshaped(at, equation.invars[1].aval.shape[:-1])
        return Value(build.node("GatherElements", source.name, along.name, axis=axis), source.stored, shape)
    one = len(at.shape) == 1
    expected = tuple(range(rank - 1)) if one else others
    if numbers.operand_batching_dims or len(at.shape) > 2 or numbers.offset_dims != expected:
        raise NotSupported(f"a gather with {numbers}")
    picked = build.reshaped(at, () if one else at.shape[:1])
    return Value(build.node("Gather", source.name, picked.name, axis=axis), tuple(range(len(shape))), shape)


def _lines(numbers: Any, sizes: Any, indices: np.ndarray) -> list[tuple[int, int, int, int]] | None:
    """A gather at known places as (start, end, step, axis) of a slice, which is how JAX writes one of free batch; else None."""
    grid, collapsed = indices.shape[:-1], numbers.collapsed_slice_dims
    others = tuple(axis for axis in range(len(sizes)) if axis not in collapsed)
    if numbers.operand_batching_dims or len(grid) != len(collapsed) or numbers.offset_dims != others:
        return None
    found = []
    for column, axis in enumerate(numbers.start_index_map):
        places = indices[..., column]
        if axis in collapsed:
            along = np.moveaxis(places, collapsed.index(axis), 0)
            along = along.reshape(len(along), -1)
        else:
            along = places.reshape(1, -1)
        line = along[:, 0] if axis in collapsed else along[0, 0] + np.arange(sizes[axis])
        steps = set(np.diff(line).tolist()) or {1}
        if (along != along[:, :1]).any() or len(steps) > 1 or min(steps) < 1:
            return None
        found.append((int(line[0]), int(line[-1]) + 1, steps.pop(), axis))
    return found


def dynamic_slice(build: Builder, equation: Any, inputs: Inputs) -> Value:
    """A part that begins at known places."""
    x, *starts = inputs
    known = [int(start) for start in starts if not isinstance(start, Value)]
    if len(known) < len(starts):
        raise NotSupported("a slice that begins where the image says")
    x = full(build, x, equation.invars[0])
    cut = [
        (start, start + size, 1, x.stored.index(axis))
        for axis, (start, size) in enumerate(zip(known, equation.params["slice_sizes"], strict=True))
        if str(size) != str(x.shape[axis])
    ]
    return Value(sliced(build, x, cut) if cut else x.name, x.stored, equation.outvars[0].aval.shape)


def _einsum(build: Builder, equation: Any, inputs: Inputs) -> Value:
    ((left, right), (left_batch, right_batch)) = equation.params["dimension_numbers"]
    values = [build.plain(full(build, x, v)) for x, v in zip(inputs, equation.invars, strict=True)]
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    first = {axis: next(letters) for axis in range(len(values[0].shape))}
    shared = dict(zip((*right, *right_batch), (*left, *left_batch), strict=True))
    second = {a: first[shared[a]] if a in shared else next(letters) for a in range(len(values[1].shape))}
    free = [first[a] for a in first if a not in (*left, *left_batch)] + [second[a] for a in second if a not in shared]
    result = "".join([first[a] for a in left_batch] + free)
    formula = f"{''.join(first.values())},{''.join(second.values())}->{result}"
    name = build.node("Einsum", *(x.name for x in values), equation=formula)
    return Value(name, tuple(range(len(result))), equation.outvars[0].aval.shape)


def _pads(padding: Any) -> list[int]:
    """ONNX's order: where rows and columns begin, then where they end."""
    return [low for low, _ in padding] + [high for _, high in padding]


RULES: dict[str, Callable[[Builder, Any, Inputs], Any]] = {
    "conv_general_dilated": convolution, "dot_general": product, "dynamic_slice": dynamic_slice, "gather": gather,
    "reduce_window_max": max_pool,
}  # fmt: skip
