"""Sums and means over the devices of a mapped axis.

    total = across.total({"loss": loss, "count": count}, "batch")

All arrays, floats of one type, go as one: each message costs, however short it is (measured on CPU: docs/scaling.md). On one
device nothing is asked of anybody: XLA on CPU keeps an all-reduce of a single device, one for each batch norm and more, with
the copies that lead there and back.
"""

from typing import Any

import jax
from jax.flatten_util import ravel_pytree


def total(tree: Any, axis_name: str | None) -> Any:
    """Returns the sum of every array over the axis; None is this device alone."""
    return tree if alone(axis_name) else _as_one(jax.lax.psum, tree, axis_name)


def mean(tree: Any, axis_name: str | None) -> Any:
    """Returns the mean of every array over the axis; None is this device alone."""
    return tree if alone(axis_name) else _as_one(jax.lax.pmean, tree, axis_name)


def alone(axis_name: str | None) -> bool:
    """Whether no other device is asked."""
    return axis_name is None or jax.lax.axis_size(axis_name) == 1


def _as_one(collective, tree, axis_name):
    joined, parted = ravel_pytree(tree)
    return parted(collective(joined, axis_name)) if joined.size else tree
