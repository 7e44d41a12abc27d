"""Whether a checkpoint's tensors are the ones that were saved, and the ones that a network needs.

    kept = checksums(variables)                       # {"params/head/final/bias": "1c291ca3", ...}, saved beside them
    changed(variables, kept)                          # names whose bytes are others now
    differences(shapes(stored), shapes(needed))       # "missing: ...", "unexpected: ...", "other shape: ..."

Orbax's own files carry checksums of their index alone: a flipped bit in a tensor comes back as another weight.
"""

import gc
import sys
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

MOST_BYTES = 16 << 30
"""A checkpoint whose tensors claim more is refused before anything is allocated: a landmark network's take megabytes."""


def checksums(tree: Any) -> dict[str, str]:
    """Returns the CRC-32 of each tensor by its name; what this host does not hold whole is left out."""
    return {name: _checksum(leaf) for name, leaf in _leaves(tree) if _is_here(leaf)}


def changed(tree: Any, kept: Mapping[str, str]) -> list[str]:
    """Lists the tensors whose checksum is not the one that was kept."""
    return [name for name, now in checksums(tree).items() if kept.get(name, now) != now]


def shapes(tree: Any) -> dict[str, tuple[tuple[int, ...], np.dtype | None]]:
    """Returns name -> (shape, dtype) of a pytree of arrays, shapes or Orbax's metadata; dtype None of a random key."""
    found: dict[str, tuple[tuple[int, ...], np.dtype | None]] = {}
    for name, leaf in _leaves(tree):
        if _is_key(leaf):
            found[name] = ((), None)  # stored as numbers whose shape is jax's affair
        elif hasattr(leaf, "shape"):
            found[name] = (tuple(leaf.shape), np.dtype(leaf.dtype))
    return found


def size_bytes(stored: Mapping[str, tuple[tuple[int, ...], np.dtype | None]]) -> int:
    """Bytes that stored tensors claim; counted in Python's integers, which do not overflow."""
    total = 0
    for shape, dtype in stored.values():
        count = dtype.itemsize if dtype else 0
        for side in shape:
            count *= int(side)
        total += count
    return total


def differences(stored: Mapping[str, Any], needed: Mapping[str, Any]) -> list[str]:
    """Says which stored tensors (`shapes`) are not those that are needed: missing, unexpected, other shape."""
    problems = [f"missing: {name} {list(needed[name][0])}" for name in sorted(needed.keys() - stored.keys())]
    problems += [f"unexpected: {name} {list(stored[name][0])}" for name in sorted(stored.keys() - needed.keys())]
    for name in sorted(stored.keys() & needed.keys()):
        (here, _), (there, kind) = stored[name], needed[name]
        if kind is not None and here != there:
            problems.append(f"other shape: {name} is {list(here)}, needed {list(there)}")
    return problems


def attempt(read: Callable[[], Any]) -> tuple[Any, str]:
    """Returns (what `read` returns, ""), or (None, what went wrong in a line) where it raises anything.

    Orbax reads many tensors at once; where one fails, the abandoned others say so at length when they are collected: here,
    where nobody hears it.
    """
    before = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        try:
            return read(), ""
        except Exception as error:  # TensorStore's and Orbax's errors are of many kinds, and pages long
            told = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"
        gc.collect()  # the error and what its frames hold are gone only now
        return None, told
    finally:
        sys.unraisablehook = before


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in flat]


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _is_here(leaf: Any) -> bool:
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated


def _checksum(leaf: Any) -> str:
    value = np.ascontiguousarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
    return f"{zlib.crc32(value.tobytes()):08x}"
