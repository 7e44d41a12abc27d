"""Our HRNets, loaded through our importer, against outputs of the authors' PyTorch networks (reference/README.md)."""

import gzip
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_reference import draw

from lmkd.models import heads, weights
from lmkd.models.hrnet import PUBLISHED_NAMES, HRNet
from lmkd.models.landmarker import Landmarker
from lmkd.models.readout import Heatmaps

REFERENCE = Path(__file__).parent / "reference"
NETWORKS = {
    "hrnetv2_w18_98": lambda: (HRNet(width=18), heads.V2(98)),
    "hrnet_w32_68": lambda: (HRNet(width=32, upsample="nearest", all_outputs=False), heads.V1(68)),
}


def normalised_images(seed, side):
    return np.random.default_rng([seed, 1]).normal(0, 1, (2, side, side, 3)).astype(np.float32)


def no_decoder(heatmaps):
    return jnp.zeros((heatmaps.shape[0], heatmaps.shape[-1], 2)), heatmaps.max((1, 2))


@pytest.mark.parametrize("name", NETWORKS)
def test_heatmaps_equal_the_published_networks(name):
    spec = json.loads(gzip.decompress((REFERENCE / f"{name}.json.gz").read_bytes()))
    with np.load(REFERENCE / f"{name}.npz") as file:
        expected = file["heatmaps"]
    state = {n: draw(n, shape, spec["seed"]) for n, shape in spec["shapes"].items()}
    images = normalised_images(spec["seed"], spec["image_size"])
    backbone, head = NETWORKS[name]()
    model = Landmarker(backbone, head, Heatmaps(no_decoder), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images))
    variables = weights.convert(state, shapes, PUBLISHED_NAMES)
    # Not under jit: compiling 300 convolutions takes longer than running them once, operation by operation.
    with jax.default_matmul_precision("highest"):
        heatmaps = np.asarray(model.apply(variables, images).heatmaps)
    assert heatmaps.dtype == np.float32
    np.testing.assert_allclose(heatmaps, expected, rtol=0, atol=1e-4 * expected.std())
