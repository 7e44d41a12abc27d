import math
import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_reference

from lmkd.core.errors import UserError
from lmkd.models import swin_v2
from lmkd.models.swin_v2 import Stage, SwinV2

DRAW = torch_reference.draw
T: dict = dict()
B: dict = dict(embed=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32))
TINY: dict = dict(embed=4, depths=(1, 1, 2, 1), heads=(1, 1, 2, 2), window=4)


def draw(name, shape, seed):
    """torch_reference.draw, and what a transformer needs beyond it.

    Linear weights from N(0, 1 / inputs). Temperatures' logarithms from 1 to 5, of which those above 4.6 are clamped.
    """
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if name.endswith("logit_scale"):
        return random.uniform(1, 5, shape).astype(np.float32)
    if len(shape) == 2:
        return random.normal(0, np.sqrt(1 / shape[1]), shape).astype(np.float32)
    return DRAW(name, shape, seed)


# timm 1.0.31, swinv2_tiny_window16_256 and swinv2_base_window16_256: whole, less the classifier of 1000 classes.
@pytest.mark.parametrize("options, expected", [(T, 28_347_154 - 769_000), (B, 87_918_816 - 1_025_000)], ids=["T", "B"])
def test_parameters_are_the_published_ones(options, expected):
    assert torch_reference.parameters(SwinV2(**options)) == expected


def test_maps_equal_those_of_timm(monkeypatch):
    # swinv2_tiny_window16_256 of timm 1.0.31, at 96 px with windows of 6 cells: maps of 24 and 12 cells (shifted), of 6 (one
    # window: not shifted) and of 3 (a smaller window).
    monkeypatch.setattr(torch_reference, "draw", draw)
    torch_reference.assert_backbone_equals(SwinV2(window=6, pretrained_windows=(0, 12, 0, 3)), "swinv2_tiny")


def test_microsofts_own_names_are_read_too():
    # They keep a merging with the stage before it, call the classifier head.weight, and store index tables.
    timm = torch_reference.load("swinv2_tiny").state
    microsoft = {re.sub(r"(?<=layers\.)\d(?=\.downsample)", lambda n: str(int(n[0]) - 1), n): v for n, v in timm.items()}
    assert "layers.0.downsample.reduction.weight" in microsoft and "layers.3.downsample.norm.bias" in timm
    extra = ("head.weight", "layers.0.blocks.0.attn.relative_coords_table", "layers.1.blocks.1.attn_mask")
    microsoft |= dict.fromkeys(extra, np.zeros(1))
    both = [torch_reference.backbone_variables(SwinV2(), state, jnp.zeros((1, 32, 32, 3))) for state in (timm, microsoft)]
    assert set(both[0]) == {"params"}
    jax.tree.map(np.testing.assert_array_equal, *both)


def test_maps_and_taps():
    maps, taps, _ = torch_reference.shapes_of(SwinV2(**TINY), 128)
    assert maps == [(2, 32, 32, 4), (2, 16, 16, 8), (2, 8, 8, 16), (2, 4, 4, 32)]
    assert taps == {f"stage{i}": shape for i, shape in enumerate(maps, start=1)}


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_variables():
    net, image = SwinV2(**TINY, dtype=jnp.bfloat16), jnp.zeros((1, 64, 64, 3), jnp.bfloat16)
    (maps, _), variables = jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), image, train=True))
    assert {m.dtype for m in maps} == {jnp.dtype(jnp.bfloat16)}
    assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    "side, window, expected", [(64, 16, 16), (8, 16, 8), (56, 16, 14), (40, 16, 10), (9, 4, 3), (1, 16, 1)]
)
def test_the_window_is_the_largest_that_divides_the_map(side, window, expected):
    assert swin_v2.fitting_window(side, window) == expected


def test_every_side_up_to_32_windows_has_one():
    for cells in range(1, 17):
        for side in (8 * cells, 4 * cells, 2 * cells, cells):
            assert side % swin_v2.fitting_window(side, 16) == 0
    with pytest.raises(UserError, match="a map of 34 cells has no window of 8 to 16 cells"):
        swin_v2.fitting_window(34, 16)


def test_cutting_goes_row_by_row_and_back():
    cells = jnp.arange(16.0).reshape(1, 4, 4, 1)
    windows = swin_v2.cut(cells, 2)
    assert windows[0, :, :, 0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    np.testing.assert_array_equal(swin_v2.uncut(windows, 4), cells)


def test_shifted_regions_part_what_was_not_beside_each_other():
    # Side 4, windows of 2, shift 1: row and column 0 came around to place 3, into the window of places 2 and 3.
    regions = swin_v2.shift_regions(4, 2, 1)
    came_around = np.roll(np.arange(4), -1)
    for window, (i, j) in enumerate(np.ndindex(2, 2)):
        cells = [(came_around[2 * i + a], came_around[2 * j + b]) for a, b in np.ndindex(2, 2)]
        for p, q in np.ndindex(4, 4):
            beside = all(abs(cells[p][k] - cells[q][k]) <= 1 for k in (0, 1))
            assert (regions[window, p] == regions[window, q]) == beside


def test_distances_are_log_spaced():
    # A window of 2 cells: distances -1, 0, 1, as -8, 0, 8 before the logarithm to base 8.
    axis = [-math.log(9, 8), 0, math.log(9, 8)]
    np.testing.assert_allclose(swin_v2.log_distances(2, 2), [(a, b) for a in axis for b in axis], atol=1e-6)
    # The same distance in units of an earlier window of 5 cells is 2.
    np.testing.assert_allclose(swin_v2.log_distances(2, 5)[-1], [math.log(3, 8)] * 2, atol=1e-6)
    indices = swin_v2.pair_indices(2)
    assert indices[0, 3] == 0 and indices[3, 0] == 8  # from the first cell to the last one: (-1, -1)
    assert indices[0, 1] == 3 and indices[0, 2] == 1  # (0, -1) and (-1, 0)
    assert (np.diag(indices) == 4).all()


def test_unit_vectors():
    vectors = jnp.asarray([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(swin_v2.unit(vectors), [[0.6, 0.8], [0, 0]], atol=1e-7)
    assert np.isfinite(jax.grad(lambda v: swin_v2.unit(v).sum())(vectors)).all()


def test_training_reaches_every_parameter_of_a_stage():
    stage = Stage(depth=2, heads=2, window=2)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 8, 8, 4)), jnp.float32)
    shapes = jax.eval_shape(lambda: stage.init(jax.random.key(0), x, merge=True))["params"]
    random = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: jnp.asarray(random.normal(0, 0.5, leaf.shape), jnp.float32), shapes)
    gradients = jax.jit(jax.grad(lambda p: (stage.apply({"params": p}, x, merge=True) ** 3).sum()))(params)
    assert all(bool(g.any()) for g in jax.tree.leaves(gradients))


def test_impossible_sizes_are_reported_together():
    with pytest.raises(UserError) as error:
        SwinV2(embed=10, depths=(2, 2, 0), heads=(3, 2, 4, 8), window=0)
    for text in ("4 problems", "depths: needs four numbers", "depths[2]", "window: needs", "heads[0]: 3 do not divide the 10"):
        assert text in str(error.value)
    with pytest.raises(UserError, match="image side 100 px: needs a multiple of 32"):
        torch_reference.shapes_of(SwinV2(**TINY), 100)
