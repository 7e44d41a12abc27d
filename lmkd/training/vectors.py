"""Parameters of a network as a few long vectors, and back: what the optimiser works on.

    vectors = joined(params)                 # {"backbone": {"kernels": [n], "others": [m]}, "head": {...}}
    params = parted(vectors, params)

An optimiser does the same few operations with every array, and a network has hundreds of arrays, most of them small. Array by
array they were half of the operations of a compiled training step, all of which every start has to load (docs/performance.md).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lmkd.models.apart import apart

KERNELS, OTHERS = "kernels", "others"
"""Arrays of two dimensions and more, which weight decay shrinks; and norms' and biases' vectors, which it leaves."""


def joined(tree: Mapping[str, Any]) -> dict[str, dict[str, jax.Array]]:
    """Returns, for every top-level name, its arrays in the order of the tree: kernels in one vector, all others in another.

    A kind that a name has no array of is left out.
    """
    return {name: {kind: jnp.concatenate([x.reshape(-1) for x in group]) for kind, group in _kinds(part).items()}
            for name, part in tree.items()}  # fmt: skip


def parted(vectors: Mapping[str, Mapping[str, jax.Array]], like: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tree `like` with the vectors' values: the inverse of `joined`."""
    return {name: _parted(vectors[name], part) for name, part in like.items()}


def are_kernels(vectors: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, bool]]:
    """Says of every vector whether it holds kernels: the mask of weight decay."""
    return {name: {kind: kind == KERNELS for kind in part} for name, part in vectors.items()}


Join = Callable[[Any], dict[str, dict[str, jax.Array]]]


def shapes_in_trees(state: Any, like: Any, join: Join) -> Any:
    """Returns the shapes of an optimiser's state as checkpoints kept it before there were vectors.

    Args:
      state: shapes of its state now.
      like: shapes of the parameters that it is of, which its moments have too.
      join: how these parameters are joined.
    """
    return _swapped(state, jax.tree.structure(jax.eval_shape(join, like)), lambda _: like)


def gathered(state: Any, like: Any, join: Join) -> Any:
    """Returns an optimiser's state from before there were vectors with each tree of like's structure joined."""
    return _swapped(state, jax.tree.structure(like), join)


def _swapped(state, structure, change):
    def found(node):
        return jax.tree.structure(node) == structure

    return jax.tree.map(lambda node: change(node) if found(node) else node, state, is_leaf=found)


def _kind(x) -> str:
    return KERNELS if x.ndim > 1 else OTHERS


def _kinds(part: Any) -> dict[str, list[Any]]:
    leaves = jax.tree.leaves(part)
    groups = {kind: [x for x in leaves if _kind(x) == kind] for kind in (KERNELS, OTHERS)}
    return {kind: group for kind, group in groups.items() if group}


def _parted(vectors, part):
    leaves, structure = jax.tree.flatten(part)
    sizes = {kind: [x.size for x in group] for kind, group in _kinds(part).items()}
    pieces = {kind: iter(_cut(vectors[kind], sizes[kind])) for kind in sizes}
    return jax.tree.unflatten(structure, [next(pieces[_kind(x)]).reshape(x.shape) for x in leaves])


def _cut(vector, sizes):
    """Apart: each piece would compute its share of the vector anew, and be a kernel of its own that does."""
    return apart(functools.partial(jax.lax.split, sizes=sizes), here=True)(vector)
