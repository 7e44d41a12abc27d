import flax.linen as nn
import jax.numpy as jnp
import pytest

from lmkd.models import cost, heads
from lmkd.models.hrnet import HRNet
from lmkd.models.landmarker import Landmarker
from lmkd.models.readout import Heatmaps


def no_decoder(heatmaps):
    return jnp.zeros((heatmaps.shape[0], heatmaps.shape[-1], 2)), heatmaps.max((1, 2))


def landmarker(backbone, head):
    return Landmarker(backbone, head, Heatmaps(no_decoder))


@pytest.mark.parametrize(
    ("width", "head", "millions", "gmacs"),
    [
        (18, heads.V2, 9.663, 4.69),
        (18, heads.V1, 9.320, 4.26),
        (32, heads.V2, 29.585, 11.44),
        (32, heads.V1, 28.539, 10.20),
    ],
)
def test_published_sizes(width, head, millions, gmacs):
    # Analytic counts at 256 px with 98 points. V1 with the pose code's last module.
    total = cost.total(cost.count(landmarker(HRNet(width, all_outputs=head is heads.V2), head(98)), 256))
    assert total.parameters / 1e6 == pytest.approx(millions, abs=5e-4)
    assert total.macs / 1e9 == pytest.approx(gmacs, abs=5e-3)


def test_parts_by_hand():
    net = HRNet(width=4, modules=(1, 1, 1), blocks=1, stage1_width=2, stage1_blocks=1, stem_width=4)
    rows = cost.count(landmarker(net, heads.V2(5)), 32)
    assert [r.part for r in rows] == ["stem", "stage1", "stage2", "stage3", "stage4", "head"]
    by_part = {r.part: r for r in rows}
    # Two 3x3 convolutions, 3 -> 4 at 16x16 and 4 -> 4 at 8x8; two batch norms of 4.
    assert by_part["stem"] == cost.Row("stem", 27 * 4 + 36 * 4 + 2 * 8, 16 * 16 * 27 * 4 + 8 * 8 * 36 * 4)
    # 60 -> 60 with bias and batch norm, 60 -> 5 with bias, at 8x8; the interpolation is not counted.
    assert by_part["head"] == cost.Row("head", 60 * 60 + 60 + 120 + 60 * 5 + 5, 64 * (60 * 60 + 60 * 5))
    assert cost.total(rows).parameters == sum(r.parameters for r in rows)


def test_separable_convolutions_by_hand():
    net = HRNet(width=4, modules=(1, 1, 1), blocks=1, stage1_width=2, stage1_blocks=1, stem_width=4, block="separable")
    rows = {r.part: r for r in cost.count(landmarker(net, heads.V1(5)), 32)}
    # Stage 1 leaves 8 channels at 8x8. Transitions 8 -> 4 at 8x8 and 8 -> 8 at 4x4, dense.
    dense = (64 * 72 * 4 + 16 * 72 * 8, 72 * 4 + 2 * 4 + 72 * 8 + 2 * 8)
    # A block a branch: twice depthwise (9 a channel) and pointwise.
    blocks = (2 * 64 * (9 * 4 + 16) + 2 * 16 * (9 * 8 + 64), 2 * (36 + 16 + 8) + 2 * (72 + 64 + 16))
    # Up: 1x1 8 -> 4 at 4x4. Down: depthwise of 4 channels, pointwise 4 -> 8, both at 4x4.
    exchange = (16 * 32 + 16 * (9 * 4 + 32), 32 + 8 + 36 + 32 + 16)
    macs, parameters = (sum(x) for x in zip(dense, blocks, exchange, strict=True))
    assert rows["stage2"] == cost.Row("stage2", parameters, macs)


def test_a_foreign_backbone_is_counted_too():
    class Foreign(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = nn.Conv(6, (4, 4), strides=4, padding="VALID", name="patches")(x)
            x = nn.Conv(6, (3, 3), feature_group_count=6, name="depthwise")(x)
            return [nn.Dense(8, name="mix")(x)], {}

    rows = {r.part: r for r in cost.count(landmarker(Foreign(), heads.V1(5)), 32)}
    assert rows["patches"] == cost.Row("patches", 48 * 6 + 6, 64 * 48 * 6)
    assert rows["depthwise"] == cost.Row("depthwise", 9 * 6 + 6, 64 * 9 * 6)
    assert rows["mix"] == cost.Row("mix", 6 * 8 + 8, 64 * 6 * 8)
    assert rows["head"] == cost.Row("head", 8 * 5 + 5, 64 * 8 * 5)


def test_table():
    text = cost.table([cost.Row("stem", 39_000, 179_300_000), cost.Row("head", 1_500_000, 700_000)])
    assert text.splitlines() == [
        "part   parameters (M)    MACs (M)",
        "stem            0.039       179.3",
        "head            1.500         0.7",
        "total           1.539       180.0",
    ]
