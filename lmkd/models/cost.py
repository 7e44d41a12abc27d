"""Parameters and multiply-adds of a landmarker, by part.

    rows = cost.count(model, side_px=256)
    print(cost.table(rows))

Nothing is run: the numbers come from one abstract evaluation. Multiply-adds (MACs) are those of convolutions (depthwise
ones too, which `layers.DepthwiseConv` writes as elementwise products) and matrix products for one image; batch norm,
activations, interpolation and decoding are not counted, as in published figures (a "FLOPs" figure may be this or twice
this).
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lmkd.models.layers import DEPTHWISE_SCOPE, RESIZE_SCOPE


class Row(NamedTuple):
    """Cost of one part: its name, its number of parameters (statistics apart), its multiply-adds for one image."""

    part: str
    parameters: int
    macs: int


def count(model: nn.Module, side_px: int) -> list[Row]:
    """Counts a landmarker's parameters and multiply-adds.

    Args:
      model: a `Landmarker`, or any module that takes a uint8 image [1, S, S, 3] and has parameters under "backbone".
      side_px: S.

    Returns:
      A row for each child of the backbone (stem, stage1, ...) and for every other top-level module (head), in the order
      of the computation.
    """
    image = jax.ShapeDtypeStruct((1, side_px, side_px, 3), jnp.uint8)
    # init is traced with the forward pass, so one trace gives both the parameters' shapes and the operations.
    trace = jax.make_jaxpr(lambda x: model.init_with_output(jax.random.key(0), x)[1]["params"], return_shape=True)
    jaxpr, parameters = trace(image)
    macs: dict[str, int] = {}
    for scopes, value in _products(jaxpr.jaxpr, (), 1):
        part = _part(scopes[1:])  # the first scope is the landmarker itself
        macs[part] = macs.get(part, 0) + value
    sizes: dict[str, int] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(parameters):
        part = _part([key.key for key in path])
        sizes[part] = sizes.get(part, 0) + math.prod(leaf.shape)
    return [Row(part, sizes.get(part, 0), macs.get(part, 0)) for part in dict.fromkeys([*macs, *sizes])]


def total(rows: Sequence[Row]) -> Row:
    """Returns the sum of `rows`, named "total"."""
    return Row("total", sum(r.parameters for r in rows), sum(r.macs for r in rows))


def table(rows: Sequence[Row]) -> str:
    """Returns `rows` and their total as aligned text, in millions of parameters and of multiply-adds."""
    width = max(len(r.part) for r in [*rows, total(rows)])
    lines = [f"{'part':<{width}}  {'parameters (M)':>14}  {'MACs (M)':>10}"]
    for row in [*rows, total(rows)]:
        lines.append(f"{row.part:<{width}}  {row.parameters / 1e6:>14.3f}  {row.macs / 1e6:>10.1f}")
    return "\n".join(lines)


def _part(scopes: Sequence[str]) -> str:
    # The backbone's children are parts of their own; anything else is one part.
    if not scopes:
        return "other"
    return scopes[1] if scopes[0] == "backbone" and len(scopes) > 1 else scopes[0]


def _products(jaxpr: Any, scopes: tuple[str, ...], times: int) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yields (name scopes, multiply-adds) of every convolution and matrix product outside interpolation.

    A depthwise convolution stands as elementwise products in a scope of its own, where each product is a multiply-add.
    """
    for equation in jaxpr.eqns:
        here = (*scopes, *(s for s in str(equation.source_info.name_stack).split("/") if s))
        if RESIZE_SCOPE in here:
            continue
        name = equation.primitive.name
        if name == "conv_general_dilated":
            yield here, times * _convolution_macs(equation)
        elif name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            depth = math.prod(equation.invars[0].aval.shape[i] for i in contracted)
            yield here, times * depth * math.prod(equation.outvars[0].aval.shape)
        elif name == "mul" and DEPTHWISE_SCOPE in here:
            yield here, times * math.prod(equation.outvars[0].aval.shape)
        repeats = equation.params["length"] if name == "scan" else 1
        for inner in _inner_jaxprs(equation.params.values()):
            yield from _products(inner, here, times * repeats)


def _convolution_macs(equation: Any) -> int:
    kernel = equation.invars[1].aval.shape
    features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    return math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // features


def _inner_jaxprs(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, tuple | list):
            yield from _inner_jaxprs(value)
        elif hasattr(value, "eqns"):
            yield value
        elif hasattr(value, "jaxpr"):
            yield value.jaxpr
