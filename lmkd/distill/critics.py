"""Critics: small networks that look at one face's heatmaps and say how much they look like a teacher's.

critic = Critic(widths=(32, 64, 128))
variables = critic.init(key, heatmaps)
scores, features = critic.apply(variables, heatmaps)
(scores, features), changed = critic.apply(variables, heatmaps, update_stats=True, mutable=["batch_stats"])
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from lmkd.models.heads import FINAL_STDDEV
from lmkd.models.layers import Conv

SLOPE = 0.2  # of LeakyReLU below 0, as in DCGAN and the spectral-norm paper's networks (field: 0.1 to 0.2)


class Critic(nn.Module):
    """A CNN on heatmaps: 2x2 patches, then 2x2 average pooling and a 3x3 convolution for each further width.

    Each width halves the grid, so (32, 64, 128) takes 64x64 cells to 8x8 and 8x8 to 1x1; an odd grid is filled up with zeros
    at the far side. The patches are one matrix product and the 3x3 convolutions have stride 1: XLA's CPU back end is slow at
    the weight gradients of strided convolutions, and slower at their second derivatives, which a gradient penalty needs.

    No batch norm: faces must not see each other, or a penalty on each face's own gradient means nothing (Gulrajani et al.
    2017, arXiv 1704.00028, section 4). Float32 throughout.

    Attributes:
      widths: channels of each layer.
      spectral_norm: divides each kernel, as a matrix [inputs, channels], by its largest singular value (Miyato et al. 2018,
        arXiv 1802.05957, equation 8), by one power iteration a call. Its vectors stand in the collection "batch_stats".
      map_scale: factor on the heatmaps. Peak-1 maps are mostly empty (root mean square 0.04 to 0.08), and a spectrally
        normalised layer cannot enlarge what it gets: 10 brings maps to the scale of the image's pixels, about 1.
    """

    widths: tuple[int, ...] = (32, 64, 128)
    spectral_norm: bool = True
    map_scale: float = 10.0

    @nn.compact
    def __call__(
        self,
        heatmaps: Float[Array, "b h w k"],
        image: Float[Array, "b h w 3"] | None = None,
        update_stats: bool = False,
    ) -> tuple[Float[Array, " b"], tuple[Float[Array, "b _ _ _"], ...]]:
        """Judges each face.

        Args:
          heatmaps: peak-1 maps [b, h, w, K].
          image: what the judgement is conditioned on, as `image_on_grid` returns it; None judges the maps alone.
          update_stats: keeps the power iteration's vectors (needs mutable=["batch_stats"]).

        Returns:
          Scores [b], the higher the more real, and the activations after each layer.
        """
        x = self.map_scale * heatmaps
        x = x if image is None else jnp.concatenate([x, image], axis=-1)
        features = []
        for n, width in enumerate(self.widths):
            x, size = (_patches(x), 1) if n == 0 else (_pooled(x), 3)
            layer = Conv(width, size, use_bias=True, name=f"conv_{n}")
            x = nn.leaky_relu(self._normed(layer, x, update_stats), SLOPE)
            features.append(x)
        last = Conv(1, 1, use_bias=True, kernel_init=nn.initializers.normal(FINAL_STDDEV), name="final")
        scores = self._normed(last, jnp.mean(x, axis=(1, 2), keepdims=True), update_stats)
        return scores.reshape(-1), tuple(features)

    def _normed(self, layer: nn.Module, x: Array, update_stats: bool) -> Array:
        if not self.spectral_norm:
            return layer(x)
        return nn.SpectralNorm(layer, name=f"norm_{layer.name}")(x, update_stats=update_stats)


def image_on_grid(image: Shaped[Array, "b s s 3"], grid: tuple[int, int]) -> Float[Array, "b h w 3"]:
    """Shrinks RGB crops of 0..255 to a heatmap grid (height, width) with antialiasing and brings them to [-1, 1]."""
    pixels = image.astype(jnp.float32) / 127.5 - 1.0
    return jax.image.resize(pixels, (len(image), *grid, 3), "linear", antialias=True)


def _patches(x: Array) -> Array:
    """[b, h, w, c] -> [b, h/2, w/2, 4c]: nothing is lost, unlike by pooling."""
    b, h, w, c = (x := _even(x)).shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h // 2, w // 2, 4 * c)


def _pooled(x: Array) -> Array:
    """[b, h, w, c] -> [b, h/2, w/2, c], means."""
    b, h, w, c = (x := _even(x)).shape
    return jnp.mean(x.reshape(b, h // 2, 2, w // 2, 2, c), axis=(2, 4))


def _even(x: Array) -> Array:
    h, w = x.shape[1:3]
    return jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0))) if h % 2 or w % 2 else x
