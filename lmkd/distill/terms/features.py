"""Terms on feature maps themselves: hints through a regressor, maps aligned tap by tap, and graphs of cosine similarity.

    HintRegression(student_tap="stage4", teacher_tap="stage4")
    FeatureAligned(taps=("deconv1", "deconv2", "deconv3"))
    PatchSimilarity(taps=("deconv1", "deconv2", "deconv3"))

Taps are named in `distill.taps`. A teacher's map is brought to the student's grid, antialiased. All arithmetic is float32.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmkd.core.errors import report_together
from lmkd.distill import taps
from lmkd.distill.base import TermInputs, TermOutput, TermVariables
from lmkd.distill.taps import at_grid
from lmkd.models.layers import Conv

_FADING = 1e-6
"""Squared norm at which a position's direction fades to nothing: an empty one (after ReLU) has none, and no wild gradient."""


@dataclasses.dataclass(frozen=True)
class HintRegression:
    """Hints: a regressor on a student's map predicts a teacher's map. It is an adapter, thrown away afterwards.

    A biased 1x1 convolution, whatever the numbers of channels; mean squared error over positions and channels. Deviations
    from the paper: half of the sum in the place of the mean there, and a larger kernel without padding where the grids
    differ. As phase 1 of a two-phase distillation this is the only term, and phase 2 trains the head on labels
    (`model.frozen`).

    Attributes:
      student_tap: the guided layer.
      teacher_tap: the hint; "" is the same name.
      scale: a factor.
    """

    student_tap: str = "stage4"
    teacher_tap: str = ""
    scale: float = 1.0
    source: ClassVar[str] = "Romero et al. 2015, arXiv 1412.6550 (FitNets), equation 3; as phase 1 of CKD: Shukla, Huang 2021"
    teachers: ClassVar[str] = "one"

    def init(self, key: Any, inputs: TermInputs) -> TermVariables:
        """Returns the regressor's kernel and bias."""
        student, teacher = taps.pair(inputs, self.student_tap, self.teacher_tap or self.student_tap)
        return TermVariables(adapter={"regressor": _aligner(teacher).init(key, student)["params"]})

    def loss(self, inputs: TermInputs) -> TermOutput:
        """Returns the mean over positions and channels, one value a face."""
        student, teacher = taps.pair(inputs, self.student_tap, self.teacher_tap or self.student_tap)
        predicted: Any = _aligner(teacher).apply({"params": inputs.variables.adapter["regressor"]}, student)
        return TermOutput(self.scale * _mean_square(predicted, teacher))


@dataclasses.dataclass(frozen=True)
class FeatureAligned:
    """Feature-aligned distillation: the student's maps, lifted to the teacher's channels, equal the teacher's.

    A biased 1x1 convolution a tap (adapters), mean squared error over positions and channels, summed over taps. The authors'
    code (yangyangkiki/mobilefan) has the means and the sum; its convolutions are followed by batch norm and ReLU, ours are not.

    Attributes:
      taps: of the student.
      teacher_taps: of the teacher, in the same order; () is the same names.
    """

    taps: tuple[str, ...] = ("deconv1", "deconv2", "deconv3")
    teacher_taps: tuple[str, ...] = ()
    source: ClassVar[str] = "Zhao et al. 2019, arXiv 1908.03839 (MobileFAN), feature-aligned distillation"
    teachers: ClassVar[str] = "one"

    def __post_init__(self):
        report_together(taps.problems(self.taps, self.teacher_taps), "FeatureAligned cannot be built")

    def init(self, key: Any, inputs: TermInputs) -> TermVariables:
        """Returns the convolutions' kernels and biases by tap."""
        adapter = {}
        for n, (tap, student, teacher) in enumerate(taps.pairs(inputs, self.taps, self.teacher_taps)):
            adapter[taps.key_of(tap)] = _aligner(teacher).init(jax.random.fold_in(key, n), student)["params"]
        return TermVariables(adapter=adapter)

    def loss(self, inputs: TermInputs) -> TermOutput:
        """Returns the sum over taps of the means over positions and channels, one value a face."""
        values: Any = 0.0
        for tap, student, teacher in taps.pairs(inputs, self.taps, self.teacher_taps):
            aligned: Any = _aligner(teacher).apply({"params": inputs.variables.adapter[taps.key_of(tap)]}, student)
            values = values + _mean_square(aligned, teacher)
        return TermOutput(values)


@dataclasses.dataclass(frozen=True)
class PatchSimilarity:
    """Feature-similarity distillation: which positions of a map resemble each other, in the student as in the teacher.

    A map's graph is the cosine similarity of every pair of its positions; mean squared error of the two graphs, summed over
    taps. The channels may differ in number and nothing is learned beside.

    Attributes:
      taps: of the student.
      teacher_taps: of the teacher, in the same order; () is the same names.
    """

    taps: tuple[str, ...] = ("deconv1", "deconv2", "deconv3")
    teacher_taps: tuple[str, ...] = ()
    source: ClassVar[str] = "Zhao et al. 2019, arXiv 1908.03839 (MobileFAN), feature-similarity distillation"
    teachers: ClassVar[str] = "one"

    def __post_init__(self):
        report_together(taps.problems(self.taps, self.teacher_taps), "PatchSimilarity cannot be built")

    def loss(self, inputs: TermInputs) -> TermOutput:
        """Returns the sum over taps of the graphs' mean squared difference, 0 to 4 each, one value a face."""
        values: Any = 0.0
        for _, student, teacher in taps.pairs(inputs, self.taps, self.teacher_taps):
            values = values + graph_distance(student, at_grid(teacher, student.shape[1:3]))
        return TermOutput(values)


def graph_distance(student: Float[Array, "b h w c"], teacher: Float[Array, "b h w c2"]) -> Float[Array, " b"]:
    """Mean squared difference of two maps' cosine similarities over all pairs of positions.

    With S and T the unit vectors [positions, channels], |S S' - T T'|^2 = |S' S|^2 + |T' T|^2 - 2 |S' T|^2 (Frobenius):
    products of channels by channels in the place of graphs of 4096 x 4096 positions. The price is rounding of some 1e-7.
    """
    positions = student.shape[1] * student.shape[2]
    s, t = (_directions(x).reshape(x.shape[0], positions, x.shape[3]) for x in (student, teacher))
    squares = [_square_of_product(a, b) for a, b in ((s, s), (t, t), (s, t))]
    return jnp.maximum(squares[0] + squares[1] - 2 * squares[2], 0.0) / positions**2


def _square_of_product(a: Array, b: Array) -> Array:
    product = jnp.einsum("bnc,bnd->bcd", a, b, precision=jax.lax.Precision.HIGHEST)
    return jnp.sum(jnp.square(product), axis=(1, 2))


def _directions(maps: Array) -> Array:
    return maps * jax.lax.rsqrt(jnp.sum(jnp.square(maps), axis=-1, keepdims=True) + _FADING)


def _aligner(teacher: Array) -> Conv:
    return Conv(teacher.shape[-1], size=1, use_bias=True)


def _mean_square(student: Array, teacher: Array) -> Array:
    """Mean squared difference over positions and channels [b], on the student's grid."""
    return jnp.mean(jnp.square(student - at_grid(teacher, student.shape[1:3])), axis=(1, 2, 3))
