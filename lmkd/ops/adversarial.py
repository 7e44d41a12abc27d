"""Adversarial objectives as pure functions of a critic's scores, one value a face.

    objective = OBJECTIVES["hinge"]
    critics_own = objective.real(real_scores, 0.0) + objective.fake(fake_scores)
    students = objective.student(fake_scores)

"Real" is what the student should come to look like (a teacher's heatmaps), "fake" what the student draws; a high score says
"real". Scores are raw: no sigmoid stands before them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_TINY = 1e-12  # keeps the slope of a square root finite where a gradient vanishes


class Objective(NamedTuple):
    """What a critic and its opponent each minimise.

    Attributes:
      real: (scores f32 [b] of real maps, label smoothing) -> the critic's loss f32 [b] on them.
      fake: scores f32 [b] of fake maps -> the critic's loss f32 [b] on them.
      student: scores f32 [b] of fake maps -> the student's loss f32 [b].
      threshold: the score above which the critic says "real"; None where only differences of scores mean anything.
      smooths: whether `real` heeds the label smoothing.
      source: paper and equation.
    """

    real: Callable[[Any, float], Any]
    fake: Callable[[Any], Any]
    student: Callable[[Any], Any]
    threshold: float | None
    smooths: bool
    source: str


OBJECTIVES = {
    # One-sided label smoothing (Salimans et al. 2016, arXiv 1606.03498, section 3.4): real maps' target is 1 - smoothing.
    "non_saturating": Objective(
        real=lambda scores, smoothing: (1.0 - smoothing) * jax.nn.softplus(-scores) + smoothing * jax.nn.softplus(scores),
        fake=jax.nn.softplus,
        student=lambda scores: jax.nn.softplus(-scores),
        threshold=0.0,
        smooths=True,
        source="Goodfellow et al. 2014, arXiv 1406.2661, equation 1 and section 3 (maximise log D(G(z)))",
    ),
    "least_squares": Objective(
        real=lambda scores, smoothing: 0.5 * jnp.square(scores - (1.0 - smoothing)),
        fake=lambda scores: 0.5 * jnp.square(scores),
        student=lambda scores: 0.5 * jnp.square(scores - 1.0),
        threshold=0.5,
        smooths=True,
        source="Mao et al. 2017, arXiv 1611.04076, equation 9 (a = 0, b = c = 1)",
    ),
    "hinge": Objective(
        real=lambda scores, smoothing: jax.nn.relu(1.0 - scores),
        fake=lambda scores: jax.nn.relu(1.0 + scores),
        student=lambda scores: -scores,
        threshold=0.0,
        smooths=False,
        source="Lim, Ye 2017, arXiv 1705.02894; Miyato et al. 2018, arXiv 1802.05957, equations 16 and 17",
    ),
    "wasserstein": Objective(
        real=lambda scores, smoothing: -scores,
        fake=lambda scores: scores,
        student=lambda scores: -scores,
        threshold=None,
        smooths=False,
        source="Gulrajani et al. 2017, arXiv 1704.00028, equation 3",
    ),
}


def interpolates(key: Any, real: Float[Array, "b h w k"], fake: Float[Array, "b h w k"]) -> Float[Array, "b h w k"]:
    """Draws one point on the line between each face's real and fake maps, uniformly (Gulrajani et al. 2017, section 4)."""
    share = jax.random.uniform(key, (len(real), 1, 1, 1), real.dtype)
    return share * real + (1.0 - share) * fake


def gradient_norms(score: Callable[[Any], Any], maps: Float[Array, "b h w k"]) -> Float[Array, " b"]:
    """Returns the 2-norm of each face's gradient of its own score by its own maps; faces must not see each other."""
    gradient = jax.grad(lambda m: jnp.sum(score(m)))(maps)
    return jnp.sqrt(jnp.sum(jnp.square(gradient), axis=(1, 2, 3)) + _TINY)


def midpoint(real: Float[Array, " b"], fake: Float[Array, " b"], mask: Float[Array, " b"]) -> Float[Array, ""]:
    """Returns the score half-way between the mean real and the mean fake score of the faces whose mask is 1."""
    both = jnp.where(mask > 0, real + fake, 0.0)
    return 0.5 * jnp.sum(both) / jnp.maximum(jnp.sum(mask), 1.0)


def accuracies(real: Float[Array, " b"], fake: Float[Array, " b"], threshold: Any) -> dict[str, Float[Array, " b"]]:
    """Returns 1 where the critic is right, else 0: a score above the threshold says "real", any other says "fake"."""
    return {
        "real_accuracy": (real > threshold).astype(jnp.float32),
        "fake_accuracy": (fake <= threshold).astype(jnp.float32),
    }


def feature_distance(real: tuple[Any, ...], fake: tuple[Any, ...]) -> Float[Array, " b"]:
    """Sums the mean absolute difference of each layer's activations (Wang et al. 2018, arXiv 1711.11585, equation 4).

    Face by face, as pix2pixHD pairs its images; Salimans et al. 2016 compare the means of batches instead.
    """
    layers = [jnp.mean(jnp.abs(a - b), axis=(1, 2, 3)) for a, b in zip(real, fake, strict=True)]
    return jnp.sum(jnp.stack(layers), axis=0)
