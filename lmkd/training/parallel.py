"""The one seam of the parallel map: how a step runs on every device of every host."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

AXIS = "batch"  # the steps' collectives name this axis


def replicate(tree: Any) -> Any:
    """Puts a pytree on every device, as the mapped functions return it: a first call with anything else compiles twice."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()), (AXIS,))
    return jax.device_put(tree, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def map_train_step(step: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    """Maps (state, batch, frozen, only) -> (state, metrics) over devices; all but the batch come and go without a device axis.

    The state is donated.
    """
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0, None, None), out_axes=(None, None), donate_argnums=(0,))


def map_predict(predict: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Maps (variables, batch) -> per-face arrays over this host's devices."""
    return jax.pmap(predict, axis_name=AXIS, in_axes=(None, 0))


def split_over_devices(batch: dict[str, Any], *, parts: int = 1) -> dict[str, np.ndarray]:
    """Reshapes arrays [b, ...] of a host's batch to [devices, (parts,) b / devices / parts, ...]."""
    devices = jax.local_device_count()

    def cut(value: np.ndarray) -> np.ndarray:
        share = len(value) // devices // parts
        lead = (devices, parts, share) if parts > 1 else (devices, share)
        return value.reshape(*lead, *value.shape[1:])

    return {name: cut(value) for name, value in batch.items()}


def joined(values: Any) -> Any:
    """Brings per-face arrays [devices, b, ...] back to NumPy [devices * b, ...]."""
    return jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), values)


def on_this_host(tree: Any) -> tuple[Any, Callable[[np.ndarray], Any]]:
    """Puts a pytree on each of this host's devices; returns it, and a function that shares an array's rows out among them.

    The number of rows must be a multiple of the number of devices. What `jax.jit` makes of the two is shared out alike.
    """
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()), (AXIS,))
    everywhere, rows = (jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes)) for axes in ((), (AXIS,)))
    return jax.device_put(tree, everywhere), lambda array: jax.device_put(array, rows)
