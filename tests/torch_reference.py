"""Networks run once in PyTorch (models/reference/README.md): weights and images drawn by name, outputs stored small."""

import gzip
import json
import zlib
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmkd.models import weights

FOLDER = Path(__file__).parent / "models" / "reference"


class Reference(NamedTuple):
    """A network's PyTorch tensors by name, its images, and `stored`: what its output is compared with."""

    state: dict[str, np.ndarray]
    images: jax.Array
    seed: int
    stored: dict[str, np.ndarray]


def draw(name: str, shape: list[int], seed: int) -> np.ndarray:
    """Draws the tensor called `name`."""
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if name.endswith("running_var"):
        value = random.uniform(0.5, 1.5, shape)
    elif name.endswith("running_mean"):
        value = random.normal(0, 0.1, shape)
    elif len(shape) == 4:
        value = random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
    elif name.endswith("weight"):
        value = random.uniform(0.2, 0.6, shape)
    else:
        value = random.normal(0, 0.1, shape)
    return value.astype(np.float32)


def load(name: str) -> Reference:
    """Reads a backbone's reference."""
    spec = json.loads(gzip.decompress((FOLDER / f"{name}.json.gz").read_bytes()))
    state = {n: draw(n, shape, spec["seed"]) for n, shape in spec["shapes"].items()}
    images = np.random.default_rng([spec["seed"], 1]).normal(0, spec["image_std"], spec["image_shape"]).astype(np.float32)
    with np.load(FOLDER / f"{name}.npz") as file:
        return Reference(state, jnp.asarray(images), spec["seed"], dict(file))


def backbone_variables(net, state, images, names=None) -> dict:
    """Puts PyTorch tensors into a backbone through `weights.convert`, by its own table or by `names`."""
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), images, train=False))
    variables = {collection: {"backbone": tree} for collection, tree in shapes.items()}
    converted = weights.convert(state, variables, names or weights.published_names(net), backbone_only=True)
    return {collection: tree["backbone"] for collection, tree in converted.items()}


def shapes_of(net, side: int, channels: int = 3):
    """Returns the shapes of a backbone's maps, taps and variables, without running anything."""
    image = jnp.zeros((2, side, side, channels))
    (maps, taps), variables = jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), image, train=False))
    return [m.shape for m in maps], {n: t.shape for n, t in taps.items()}, jax.tree.map(lambda v: v.shape, dict(variables))


def parameters(net, channels: int = 3) -> int:
    """Counts a backbone's parameters, statistics apart."""
    image = jnp.zeros((1, 32, 32, channels))
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), image, train=False))["params"]
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))


def assert_backbone_equals(net, name: str, names=None) -> None:
    """Holds a backbone's maps to 1e-4 of the spread of those that PyTorch computed in float64."""
    reference = load(name)
    variables = backbone_variables(net, reference.state, reference.images, names)
    with jax.default_matmul_precision("highest"):
        maps = jax.jit(lambda v, x: net.apply(v, x, train=False)[0])(variables, reference.images)
    for n, ours in enumerate(maps, start=1):
        assert ours.dtype == np.float32
        assert ours.shape == tuple(reference.stored[f"stage{n}_shape"])
        expected = reference.stored[f"stage{n}"]
        where = np.random.default_rng([reference.seed, n]).choice(ours.size, expected.size, replace=False)
        bound = 1e-4 * float(reference.stored[f"stage{n}_std"])
        np.testing.assert_allclose(np.asarray(ours).reshape(-1)[where], expected, rtol=0, atol=bound, err_msg=f"map {n}")
