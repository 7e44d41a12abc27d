import jax
import jax.numpy as jnp
import numpy as np
import torch_reference
from torch_reference import parameters, shapes_of

from lmkd.models import layers
from lmkd.models.resnet import ResNet50

CLASSIFIER = 2048 * 1000 + 1000


def test_equals_torchvision():
    torch_reference.assert_backbone_equals(ResNet50(), "resnet50")


def test_parameters():
    assert parameters(ResNet50()) == 25_557_032 - CLASSIFIER  # torchvision.models.resnet50
    # Shukla & Huang 2021, table of trainable parameters: grey images, 136 outputs of one dense layer.
    assert parameters(ResNet50(), channels=1) + 2048 * 136 + 136 == 23_780_424


def test_maps_and_taps():
    maps, taps, variables = shapes_of(ResNet50(width=4, blocks=(1, 2, 1, 1)), 64, channels=1)
    assert maps == [(2, 16, 16, 16), (2, 8, 8, 32), (2, 4, 4, 64), (2, 2, 2, 128)]
    assert [taps[f"stage{n}"] for n in (1, 2, 3, 4)] == maps
    assert taps["stem"] == (2, 32, 32, 4)
    assert variables["params"]["stem"]["conv"]["kernel"] == (7, 7, 1, 4)
    assert sorted(variables["params"]["stage2"]) == ["block0", "block1"]


def test_bfloat16_computes_in_it_and_keeps_float32_parameters():
    net = ResNet50(width=2, blocks=(1, 1, 1, 1), dtype=jnp.bfloat16, norm=layers.batch_norm(dtype=jnp.bfloat16))
    (maps, _), variables = jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), True))
    assert {m.dtype for m in maps} == {np.dtype(jnp.bfloat16)}
    assert {v.dtype for v in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
