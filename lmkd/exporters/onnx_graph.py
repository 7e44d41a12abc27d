"""An ONNX graph while it is built: nodes, constants, and values that remember how their axes lie.

ONNX Runtime's convolutions want channels first, JAX's arrays here have them last. A `Value` keeps both: the axes as JAX sees
them and the order in which they are stored, so that a transpose in JAX is bookkeeping, and no convolution has transposes
around it.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

INPUT_BATCH = "b"


class Value(NamedTuple):
    """A tensor of the graph.

    Attributes:
      name: of the stored tensor.
      stored: the JAX axis that each stored axis is; the identity where nothing moved.
      shape: sizes by JAX axis as they are stored: 1 where JAX has more but the values repeat; symbolic ones as JAX has them.
    """

    name: str
    stored: tuple[int, ...]
    shape: tuple[Any, ...]


class Builder:
    """Collects nodes and constants, and lays values out."""

    def __init__(self) -> None:
        self.nodes: list[tuple[str, tuple[str, ...], str, dict[str, Any]]] = []
        self.constants: dict[str, np.ndarray] = {}
        self._made: dict[Any, Any] = {}

    def node(self, operation: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node of one output and returns the output's name; an equal node is not added twice."""
        key = (operation, inputs, tuple(sorted((k, tuple(v) if isinstance(v, list) else v) for k, v in attributes.items())))
        if key not in self._made:
            self._made[key] = f"{operation.lower()}_{len(self.nodes)}"
            self.nodes.append((operation, inputs, self._made[key], attributes))
        return self._made[key]

    def constant(self, array: Any) -> str:
        """Adds a constant and returns its name; an equal one is not added twice."""
        array = np.ascontiguousarray(array)
        key = ("constant", array.dtype.str, array.shape, array.tobytes())
        if key not in self._made:
            self._made[key] = f"constant_{len(self.constants)}"
            self.constants[self._made[key]] = array
        return self._made[key]

    def integers(self, values: Sequence[Any]) -> str:
        """Adds whole numbers as a constant of int64, as ONNX wants shapes, axes and starts."""
        return self.constant(np.asarray(values, np.int64))

    def known(self, array: np.ndarray, stored: tuple[int, ...] | None = None) -> Value:
        """Returns a constant as a value, stored in the order asked for."""
        stored = stored if stored is not None and len(stored) == array.ndim else tuple(range(array.ndim))
        return Value(self.constant(array.transpose(stored)), stored, array.shape)

    def laid(self, value: Value, stored: Sequence[int]) -> Value:
        """Returns a value with its axes stored in that order."""
        stored = tuple(stored)
        if value.stored == stored:
            return value
        order = [value.stored.index(axis) for axis in stored]
        return Value(self.node("Transpose", value.name, perm=order), stored, value.shape)

    def plain(self, value: Value, shape: Sequence[Any] | None = None) -> Value:
        """Returns a value stored as JAX has it; with `shape`, repeated along the axes on which it is only 1 so far."""
        value = self.laid(value, range(len(value.shape)))
        if shape is None or alike(shape, value.shape):
            return value
        return Value(self.node("Expand", value.name, self.sizes(shape)), value.stored, tuple(shape))

    def reshaped(self, value: Value, shape: Sequence[Any]) -> Value:
        """Returns a value in another shape; one size may be symbolic."""
        value = self.plain(value)
        stored = tuple(range(len(shape)))
        if alike(shape, value.shape):
            return value
        free = [size for size in shape if not isinstance(size, int)]
        if len(free) > 1:
            raise NotSupported(f"a reshape to {tuple(shape)}, with two free sizes")
        wanted = self.integers([size if isinstance(size, int) else -1 for size in shape])
        return Value(self.node("Reshape", value.name, wanted), stored, tuple(shape))

    def sizes(self, shape: Sequence[Any]) -> str:
        """Returns the name of a tensor int64 [n] of sizes, symbolic ones computed from the input's batch."""
        if all(isinstance(size, int) for size in shape):
            return self.integers(shape)
        return self.node("Concat", *(self._size(size) for size in shape), axis=0)

    def _size(self, size: Any) -> str:
        if isinstance(size, int):
            return self.integers([size])
        multiple = re.fullmatch(rf"(?:(\d+)\*)?{INPUT_BATCH}", str(size))
        if not multiple:
            raise NotSupported(f"a size of {size}")
        batch = self.node("Shape", "crops", start=0, end=1)
        return self.node("Mul", batch, self.integers([int(multiple[1])])) if multiple[1] else batch

    def used(
        self, outputs: Sequence[str]
    ) -> tuple[list[tuple[str, tuple[str, ...], str, dict[str, Any]]], dict[str, np.ndarray]]:
        """Returns the nodes and constants that the outputs depend on."""
        wanted, kept = set(outputs), []
        for node in reversed(self.nodes):
            if node[2] in wanted:
                kept.append(node)
                wanted.update(node[1])
        return kept[::-1], {name: array for name, array in self.constants.items() if name in wanted}


class NotSupported(Exception):
    """Something in the network that this exporter has no ONNX for; the message names it."""


def alike(shape: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two shapes are the same; symbolic sizes are by what they are called, since comparing them may be undecided."""
    return [str(size) for size in shape] == [str(size) for size in other]
