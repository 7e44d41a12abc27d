"""The anisotropic attention head: heatmaps that edge maps and point maps attend to (ADNet, STAR, Hong & Lin).

head = AnisotropicAttention(68, edges=scheme.lines, enlarge="deconvolution", channels=256)     # the teacher's
head = AnisotropicAttention(68, edges=scheme.lines)                                            # the student's
fused, taps = head.apply(variables, maps, train=False)             # taps: edges, point_maps, features, ...
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lmkd.core.errors import report_together, unknown
from lmkd.models import layers
from lmkd.models.deconvolution import TransposedConv
from lmkd.models.heads import last_maps
from lmkd.models.layers import Conv
from lmkd.models.readout import Heatmaps
from lmkd.ops import edges as lines

ENLARGE = ("nearest", "deconvolution", "none")


class AnisotropicAttention(nn.Module):
    """Heatmaps times attention; attention is a point's edges, summed, times its own point map.

    Huang et al. 2021, arXiv 2109.05721 (ADNet), the anisotropic attention module, as Zhou et al. 2023 (STAR) and Hong, Lin 2024
    have it: one 1x1 convolution each to K heatmaps (instance norm without parameters, ReLU), edge maps (sigmoid) and K point
    maps (sigmoid). A point on no edge has 1 in the place of its edges. The fused maps are not negative and not of peak 1:
    decode them as they are (`heatmap_activation="linear"`). A map may be zero everywhere.

    Deviations from Hong & Lin: no noise on the features while training; the transposed convolutions have no bias (batch norm
    has one). With "nearest" the convolutions come before the enlarging, which gives the same maps for 1/64 of the work.

    Attributes:
      num_points: K.
      edges: polylines as point indices, a closed one with its first point at the end (`Scheme.lines`).
      enlarge: how the lowest map reaches the highest resolution: "nearest" (Hong & Lin's student); "deconvolution", transposed
        convolutions 6x6 at stride 4 and 4x4 at stride 2 with batch norm and ReLU (its teacher; taps "deconv1", "deconv2");
        "none" takes the highest map.
      channels: a 1x1 convolution to so many before anything else; None has none.
    """

    num_points: int
    edges: lines.Edges
    enlarge: str = "nearest"
    channels: int | None = None
    dtype: DTypeLike = jnp.float32
    norm: Callable = layers.batch_norm()
    readout: ClassVar[type] = Heatmaps

    @nn.compact
    def __call__(
        self, maps: Sequence[Float[Array, "b _ _ _"]], train: bool
    ) -> tuple[Float[Array, "b h w k"], dict[str, Array]]:
        wrong = [] if self.enlarge in ENLARGE else [str(unknown("way to enlarge", self.enlarge, ENLARGE))]
        report_together([*wrong, *lines.problems(self.edges, self.num_points)], "head AnisotropicAttention cannot be built")
        size, taps = (maps[0].shape[1], maps[0].shape[2]), {}
        x = maps[0] if self.enlarge == "none" else maps[-1]
        if self.channels is not None:
            x = Conv(self.channels, size=1, use_bias=True, dtype=self.dtype, name="reduce")(x)
        if self.enlarge == "deconvolution":
            for n, (kernel, stride) in enumerate(((6, 4), (4, 2)), 1):
                x = TransposedConv(x.shape[-1], kernel, stride, dtype=self.dtype, name=f"deconv{n}")(x)
                x = layers.activated(self.norm(use_running_average=not train, name=f"bn{n}")(x), nn.relu, train)
                taps[f"deconv{n}"] = x
        k, e = self.num_points, len(self.edges)
        # One product for the three branches.
        branches = last_maps(k + e + k, self.dtype)(x)
        heatmaps = nn.relu(_instance_norm(branches[..., :k]))
        edge_maps, point_maps = nn.sigmoid(branches[..., k : k + e]), nn.sigmoid(branches[..., k + e :])
        fused = heatmaps * _of_points(edge_maps, self.edges, k) * point_maps
        # A map that is constant in blocks has the mean and variance of its blocks: enlarging commutes with all of the above.
        fused, edge_maps, point_maps, x = (layers.upsample(m, size, "nearest") for m in (fused, edge_maps, point_maps, x))
        return fused, {**taps, "edges": edge_maps, "point_maps": point_maps, "features": x}


def _of_points(edge_maps: Array, edges: lines.Edges, num_points: int) -> Array:
    """The sum of each point's edge maps, [b, h, w, K]; 1 for a point on none."""
    on_edge = lines.membership(edges, num_points)
    none = (on_edge.sum(axis=0) == 0).astype(on_edge.dtype).reshape(1, 1, 1, -1)
    return jnp.einsum("bhwe,ek->bhwk", edge_maps, on_edge, precision=jax.lax.Precision.HIGHEST) + none


def _instance_norm(maps: Array) -> Array:
    """Each map of each face to mean 0 and variance 1 over positions, epsilon 1e-5 as PyTorch's, without parameters."""
    centred = maps - jnp.mean(maps, axis=(1, 2), keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=(1, 2), keepdims=True) + 1e-5)
