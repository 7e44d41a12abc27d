"""The one seam of the parallel map: how a step runs on every device of every host.

mapped = map_train_step(step)                    # jax.pmap
mapped = map_train_step(step, "mesh")            # the same under jax.jit, over a named mesh
state, metrics = mapped(replicate(state), split_over_devices(batch), replicate(frozen), replicate(only))

The two maps run the same program and take the same arguments. With several hosts, pmap's arrays are each host's own, replicated
over its devices, and a mesh's are one array over all devices; `shared` and `on_this_host` go from one form to the other.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

AXIS = "batch"  # the steps' collectives name this axis
KINDS = ("pmap", "mesh")


def replicate(tree: Any) -> Any:
    """Puts a pytree on every device of this host, as the mapped functions return it: a first call with anything else compiles
    twice. Every host must give the same values."""
    return jax.device_put(tree, _sharding(jax.local_devices()))


def map_train_step(step: Callable[..., tuple[Any, Any]], kind: str = "pmap") -> Callable[..., tuple[Any, Any]]:
    """Maps (state, batch, frozen, only) -> (state, metrics) over devices; all but the batch come and go without a device axis.

    The state is donated.

    Args:
      step: the step; its collectives name `AXIS`.
      kind: "pmap", or "mesh": `jax.shard_map` over a mesh of all devices, under `jax.jit`.
    """
    if kind == "pmap":
        return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0, None, None), out_axes=(None, None), donate_argnums=(0,))
    everywhere, rows = _sharding(jax.devices()), _sharding(jax.devices(), AXIS)

    def on_one_device(state, batch, frozen, only):
        return step(state, jax.tree.map(lambda x: x[0], batch), frozen, only)

    specs = (everywhere.spec, rows.spec, everywhere.spec, everywhere.spec)
    whole = jax.shard_map(on_one_device, mesh=everywhere.mesh, in_specs=specs, out_specs=everywhere.spec, check_vma=False)
    mapped = jax.jit(whole, donate_argnums=(0,))

    def run(state, batch, frozen, only):
        batch = jax.tree.map(lambda x: jax.make_array_from_process_local_data(rows, x), batch)
        return mapped(shared(state), batch, shared(frozen), shared(only))

    return run


def map_predict(predict: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Maps (variables, batch) -> per-face arrays over this host's devices; every host predicts for itself."""
    everywhere, rows = _sharding(jax.local_devices()), _sharding(jax.local_devices(), AXIS)

    def on_one_device(variables, batch):
        return jax.tree.map(lambda x: x[None], predict(variables, jax.tree.map(lambda x: x[0], batch)))

    specs = (everywhere.spec, rows.spec)
    whole = jax.shard_map(on_one_device, mesh=everywhere.mesh, in_specs=specs, out_specs=rows.spec, check_vma=False)
    mapped = jax.jit(whole)
    return lambda variables, batch: mapped(on_this_host(variables), batch)


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


def rows_over_devices(tree: Any) -> tuple[Any, Callable[[np.ndarray], Any]]:
    """Puts a pytree on each of this host's devices; returns it, and a function that shares an array's rows out among them.

    The number of rows must be a multiple of the number of devices. What `jax.jit` makes of the two is shared out alike.
    """
    rows = _sharding(jax.local_devices(), AXIS)
    return replicate(tree), lambda array: jax.device_put(array, rows)


def shared(tree: Any) -> Any:
    """What every host holds as its own, as arrays over all hosts' devices: what checkpoints and meshes take."""
    if jax.process_count() == 1:
        return tree
    everywhere = _sharding(jax.devices())
    return jax.tree.map(lambda x: _of_local_shards(x, everywhere) if x.is_fully_addressable else x, tree)


def on_this_host(tree: Any) -> Any:
    """What is replicated over all hosts' devices, as arrays over this host's."""
    if jax.process_count() == 1:
        return tree
    here = _sharding(jax.local_devices())

    def one(x):
        if not isinstance(x, jax.Array) or x.is_fully_addressable:
            return jax.device_put(x, here)
        return _of_local_shards(x, here)

    return jax.tree.map(one, tree)


def _of_local_shards(x: jax.Array, sharding: jax.sharding.NamedSharding) -> jax.Array:
    """The replicated array under another sharding; nothing is copied. JAX makes random keys only of their numbers."""
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_of_local_shards(jax.random.key_data(x), sharding), impl=jax.random.key_impl(x))
    return jax.make_array_from_single_device_arrays(x.shape, sharding, [shard.data for shard in x.addressable_shards])


def _sharding(devices: list[Any], *axes: str) -> jax.sharding.NamedSharding:
    return jax.sharding.NamedSharding(jax.sharding.Mesh(np.array(devices), (AXIS,)), jax.sharding.PartitionSpec(*axes))
