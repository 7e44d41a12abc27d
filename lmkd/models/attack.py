"""Projected gradient descent on the input: the nearby picture on which a landmarker errs most.

    attacked = pgd(lambda image: model.apply(variables, image).heatmaps, image, landmarks_px, visible,
                   epsilon=4.0, steps=10, stride=model.stride, key=key)

Madry, Makelov, Schmidt, Tsipras, Vladu, "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018 (arXiv
1706.06083): the inner maximum of equation 2.1 over an L-infinity ball, by the projected gradient steps of its section 2.1.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from lmkd.ops.heatmaps import px_from_cells
from lmkd.ops.losses import mean_over_points

# Of the softmax over positions, in units of a map's own range (1 for a clean map of peak 1). A Gaussian of sigma cells
# becomes one of sigma sqrt(T): at 0.1 a peak outweighs 64 x 64 empty cells eight times, and its neighbours still have a
# tenth of its weight, so that gradients reach the peak's flanks and the rest of the map. At 0.02 they vanish, at 1 the
# mean of the grid is all that is left.
TEMPERATURE = 0.1


def pgd(
    predict_heatmaps: Callable[[Array], Array],
    image_f32: Float[Array, "b s s 3"],
    landmarks_px: Float[Array, "b k 2"],
    visible: Float[Array, "b k"],
    *,
    epsilon: ArrayLike,
    steps: ArrayLike,
    step_size: ArrayLike | None = None,
    stride: float,
    key: Any,
    random_start: bool = True,
) -> Float[Array, "b s s 3"]:
    """Looks for the picture within `epsilon` of each face whose decoded points lie furthest from the true ones.

    Each step moves every pixel by `step_size` along the sign of the gradient of `point_distance_px`, and back into the
    ball and 0..255. The strongest picture seen is kept for each face, the clean one among them (deviation: the paper
    returns the last), so that the objective never falls as steps are added and never lies below the clean picture's.

    One loop body is compiled, and one forward pass besides. `epsilon`, `steps` and `step_size` may be traced. In training,
    call it outside the function that is differentiated.

    Args:
      predict_heatmaps: images float32 [b, s, s, 3], 0..255 -> heatmaps [b, h, w, k], in evaluation mode, so that faces do
        not depend on each other.
      image_f32: RGB crops, 0..255.
      landmarks_px: true points (x, y) in crop pixels.
      visible: 1 where a point counts, else 0; a face without any comes back as it was.
      epsilon: radius of the ball, in 1/255 of full scale.
      steps: gradient steps; 0 returns the clean picture, or the random start where that is worse.
      step_size: in the unit of `epsilon`; 2.5 epsilon / steps by default (the paper takes 2.5 epsilon / 100 for 100 steps).
      stride: crop pixels a heatmap cell.
      key: of the random start.
      random_start: begins at a uniform draw from the ball, not at the clean picture.

    Returns:
      Attacked pictures, float32, not rounded to whole levels, within `epsilon` of `image_f32` and within 0..255.
    """
    image = jax.lax.stop_gradient(image_f32)
    lowest, highest = jnp.maximum(image - epsilon, 0.0), jnp.minimum(image + epsilon, 255.0)
    move = 2.5 * epsilon / jnp.maximum(steps, 1) if step_size is None else step_size

    def objective(candidate: Array) -> Array:
        return point_distance_px(predict_heatmaps(candidate), landmarks_px, visible, stride=stride)

    def total(candidate: Array) -> tuple[Array, Array]:
        distance_px = objective(candidate)
        return distance_px.sum(), distance_px

    def step(_: Any, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        candidate, best, best_px = carry
        (_, distance_px), gradient = jax.value_and_grad(total, has_aux=True)(candidate)
        best, best_px = _stronger(candidate, distance_px, best, best_px)
        return jnp.clip(candidate + move * jnp.sign(gradient), lowest, highest), best, best_px

    start = image
    if random_start:
        start = jnp.clip(image + epsilon * jax.random.uniform(key, image.shape, minval=-1.0, maxval=1.0), lowest, highest)
    nothing_yet = jnp.full(image.shape[:1], -jnp.inf)
    last, best, best_px = jax.lax.fori_loop(0, steps, step, (start, image, nothing_yet))
    # The clean and the last picture, in a loop of their own: the network is in the program once more, not twice.
    clean_px, last_px = jax.lax.map(objective, jnp.stack([image, last]))
    best, best_px = _stronger(best, best_px, image, clean_px)
    best, _ = _stronger(last, last_px, best, best_px)
    return jax.lax.stop_gradient(best)


def point_distance_px(
    heatmaps: Float[Array, "b h w k"], landmarks_px: Float[Array, "b k 2"], visible: Float[Array, "b k"], *, stride: float
) -> Float[Array, " b"]:
    """Returns the mean distance, over visible points, from true points to softly decoded ones: differentiable everywhere."""
    gap = soft_points_px(heatmaps, stride=stride) - landmarks_px
    # The root of a small sum, not of 0: its slope at 0 is infinite, and infinite times 0 is NaN.
    return mean_over_points(jnp.sqrt(jnp.sum(jnp.square(gap), axis=-1) + 1e-12), visible)


def soft_points_px(
    heatmaps: Float[Array, "b h w k"], *, stride: float, temperature: float = TEMPERATURE
) -> Float[Array, "b k 2"]:
    """Decodes by the softmax's mean over all positions: an argmax with gradients everywhere.

    The temperature counts in units of each map's own range (no gradient runs through that): an attack lowers peaks, and with a
    fixed one the mean of a flattened map slides to the middle of the grid while the true decoder still finds the peak.
    """
    b, h, w, k = heatmaps.shape
    maps = heatmaps.astype(jnp.float32).reshape(b, h * w, k)
    extent = jax.lax.stop_gradient(maps.max(axis=1, keepdims=True) - maps.min(axis=1, keepdims=True))
    share = jax.nn.softmax(maps / (temperature * jnp.maximum(extent, 1e-6)), axis=1).reshape(b, h, w, k)
    x = jnp.einsum("bhwk,w->bk", share, jnp.arange(w, dtype=jnp.float32), precision=jax.lax.Precision.HIGHEST)
    y = jnp.einsum("bhwk,h->bk", share, jnp.arange(h, dtype=jnp.float32), precision=jax.lax.Precision.HIGHEST)
    return px_from_cells(jnp.stack([x, y], axis=-1), stride)


def _stronger(image: Array, distance_px: Array, other: Array, other_px: Array) -> tuple[Array, Array]:
    """Each face's picture with the larger distance; `other` where they are equal."""
    wins = distance_px > other_px
    return jnp.where(wins[:, None, None, None], image, other), jnp.where(wins, distance_px, other_px)
