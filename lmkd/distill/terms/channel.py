"""Terms on the channels of feature maps: channel-distribution KL, pooled channel attention, spatial attention maps.

    ChannelKL(tap="features", temperature=4.0)                       # on features
    ChannelKL(tap="heatmaps", temperature=0.1)                       # on heatmaps of peak 1
    ChannelAttention(taps=("stage2.0", "stage3.0", "features"))
    AttentionMaps(taps=("stage2.0", "stage3.0", "features"))

Taps are named in `distill.taps`. All arithmetic is float32.
"""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmkd.core.errors import UserError, report_together, unknown
from lmkd.distill import taps
from lmkd.distill.base import OfPoints, TermInputs, TermOutput, TermVariables
from lmkd.distill.taps import OF_POINTS, at_grid
from lmkd.models.layers import Conv
from lmkd.ops import across, losses

ADAPT = ("auto", "always", "never")
STATISTICS = ("mean", "mean_variance")


@dataclasses.dataclass(frozen=True)
class ChannelKL(OfPoints):
    """Channel-distribution KL: where in the image a channel is active, teacher against student.

    Softmax over positions in each channel at `temperature`, T^2 KL(teacher || student), summed over positions, averaged over
    channels. The teacher's maps are brought to the student's grid, antialiased.

    On heatmaps the temperature decides all: a map of peak 1 is all but uniform at T of 1 or more (sigma 2 on 64 x 64 cells:
    the cells above 0.1 hold 1.6 % of the softmax at T = 4, 2.2 % at T = 1, 94 % at T = 0.1), so the term teaches nothing
    there. Take 0.05 to 0.1 for "heatmaps" and for the "logits" of a linear head, which are heatmaps too; features, and logits
    under `heatmap_activation="softmax"`, have the range that the paper's 4 is meant for.

    Attributes:
      tap: of the student: a feature map, "heatmaps" or "logits".
      teacher_tap: of the teacher; "" is the same name.
      temperature: T.
      adapt: whether a learned 1x1 convolution lifts the student's channels to the teacher's number: "auto" where the numbers
        differ, "always", "never". It has no bias: a number added to a channel leaves the softmax as it is.
      all_points: on "heatmaps" and "logits", channels are points; with False those that do not count are left out.
    """

    tap: str = "features"
    teacher_tap: str = ""
    temperature: float = 4.0
    adapt: str = "auto"
    source: ClassVar[str] = "Shu et al. 2021, arXiv 2011.13256, equations 3 to 5"
    teachers: ClassVar[str] = "one"

    def __post_init__(self):
        problems = [] if self.temperature > 0 else [f"temperature: needs more than 0, got {self.temperature!r}"]
        if self.adapt not in ADAPT:
            problems.append(str(unknown("way to adapt", self.adapt, ADAPT)))
        report_together(problems, "ChannelKL cannot be built")

    def init(self, key: Any, inputs: TermInputs) -> TermVariables:
        """Returns the 1x1 convolution's kernel, or nothing where none is needed."""
        student, teacher = self._maps(inputs)
        if not self._lifts(student, teacher):
            return TermVariables()
        lift = Conv(teacher.shape[-1], size=1)
        return TermVariables(adapter={"lift": lift.init(key, student)["params"]})

    def loss(self, inputs: TermInputs) -> TermOutput:
        """Returns T^2 KL in nats, mean over channels, one value a face."""
        student, teacher = self._maps(inputs)
        if self._lifts(student, teacher):
            student = Conv(teacher.shape[-1], size=1).apply({"params": inputs.variables.adapter["lift"]}, student)
        teacher = at_grid(teacher, student.shape[1:3])
        values = losses.channel_divergence(student, teacher, temperature=self.temperature)
        if self.tap in OF_POINTS:
            return TermOutput(losses.mean_over_points(values, self.counted(inputs)))
        return TermOutput(jnp.mean(values, axis=1))

    @property
    def silent_without_labels(self) -> bool:
        """Whether a face whose points do not count has the value 0: its channels are points, and these left out."""
        return self.tap in OF_POINTS and not self.all_points

    def _maps(self, inputs):
        return taps.pair(inputs, self.tap, self.teacher_tap or self.tap)

    def _lifts(self, student, teacher):
        ours, theirs = student.shape[-1], teacher.shape[-1]
        if self.adapt == "never" and ours != theirs:
            raise UserError(
                f"ChannelKL: tap {self.tap!r} has {ours} channels in the student and {theirs} in the teacher "
                f"({self.teacher_tap or self.tap!r}), and adapt='never' leaves them so. Give adapt='auto'."
            )
        return self.adapt == "always" or ours != theirs


@dataclasses.dataclass(frozen=True)
class ChannelAttention:
    """Channel attention ("Channel Distillation"): how active each channel is, as its mean over positions.

    Mean squared error over channels between the pooled statistics of teacher and student, summed over taps. The student's
    maps pass a connector at each tap, 1x1 convolution - batch norm - ReLU, also where the numbers of channels agree, as in the
    authors' code (zhouzaida/channel-distillation, models/channel_distillation.py). Grids need not agree: they are pooled away.
    Pooled heatmaps hardly differ from face to face (a Gaussian's sum is the same wherever it stands): take feature maps.

    The paper's early decay of the weight is the schedule's (`decay_every`, `decay_factor`).

    Attributes:
      taps: of the student.
      teacher_taps: of the teacher, in the same order; () is the same names.
      statistics: "mean"; "mean_variance" adds the mean squared error of the variances over positions (ours).
      connectors: False compares the student's own channels, which must then be as many as the teacher's.
      axis_name: the axis of the parallel map that the step runs under (`training.parallel.AXIS`), over which the connectors'
        batch norms gather their sums; None outside of one.
    """

    taps: tuple[str, ...] = ("stage2.0", "stage3.0", "stage4.0")
    teacher_taps: tuple[str, ...] = ()
    statistics: str = "mean"
    connectors: bool = True
    axis_name: str | None = "batch"
    source: ClassVar[str] = "Zhou et al. 2020, arXiv 2006.01683, section 3.1 (channel distillation)"
    teachers: ClassVar[str] = "one"

    def __post_init__(self):
        problems = taps.problems(self.taps, self.teacher_taps)
        if self.statistics not in STATISTICS:
            problems.append(str(unknown("statistics", self.statistics, STATISTICS)))
        report_together(problems, "ChannelAttention cannot be built")

    def init(self, key: Any, inputs: TermInputs) -> TermVariables:
        """Returns the connectors' parameters by tap; nothing without connectors."""
        if not self.connectors:
            return TermVariables()
        adapter = {}
        for n, (tap, student, teacher) in enumerate(taps.pairs(inputs, self.taps, self.teacher_taps)):
            connector = _Connector(teacher.shape[-1], self.axis_name)
            adapter[taps.key_of(tap)] = connector.init(jax.random.fold_in(key, n), student, inputs.batch["mask"])["params"]
        return TermVariables(adapter=adapter)

    def loss(self, inputs: TermInputs) -> TermOutput:
        """Returns the sum over taps of the mean squared error over channels, one value a face."""
        values: Any = 0.0
        for tap, own_map, teacher in taps.pairs(inputs, self.taps, self.teacher_taps):
            student: Any = own_map
            if self.connectors:
                own = {"params": inputs.variables.adapter[taps.key_of(tap)]}
                student = _Connector(teacher.shape[-1], self.axis_name).apply(own, student, inputs.batch["mask"])
            elif student.shape[-1] != teacher.shape[-1]:
                raise UserError(
                    f"ChannelAttention: tap {tap!r} has {student.shape[-1]} channels in the student and {teacher.shape[-1]} "
                    "in the teacher. Give connectors=True, or taps with as many channels."
                )
            values = values + jnp.mean(jnp.square(jnp.mean(student, (1, 2)) - jnp.mean(teacher, (1, 2))), axis=1)
            if self.statistics == "mean_variance":
                values = values + jnp.mean(jnp.square(jnp.var(student, (1, 2)) - jnp.var(teacher, (1, 2))), axis=1)
        return TermOutput(values)


@dataclasses.dataclass(frozen=True)
class AttentionMaps:
    """Attention transfer: where a layer is active at all, as the sum over channels of |A|^power.

    Distance of the two maps, each flattened and divided by its Euclidean norm, summed over taps: the paper's Euclidean norm,
    not the mean of squares of the authors' code (that is its square over the number of positions). The channels may differ in
    number; a teacher's map is brought to the student's grid. No network's scale matters, and nothing is learned beside.

    Attributes:
      taps: of the student.
      teacher_taps: of the teacher, in the same order; () is the same names.
      power: p of the sum; the paper's is 2.
    """

    taps: tuple[str, ...] = ("stage2.0", "stage3.0", "stage4.0")
    teacher_taps: tuple[str, ...] = ()
    power: float = 2
    source: ClassVar[str] = "Zagoruyko, Komodakis 2017, arXiv 1612.03928, equation 2 (activation-based, p = 2)"
    teachers: ClassVar[str] = "one"

    def __post_init__(self):
        problems = taps.problems(self.taps, self.teacher_taps)
        if self.power < 1:
            problems.append(f"power: needs at least 1, got {self.power!r}")
        report_together(problems, "AttentionMaps cannot be built")

    def loss(self, inputs: TermInputs) -> TermOutput:
        """Returns the sum over taps of the maps' distance, from 0 to sqrt(2) each, one value a face."""
        values: Any = 0.0
        for _, student, teacher in taps.pairs(inputs, self.taps, self.teacher_taps):
            ours, theirs = (losses.attention_map(x, power=self.power) for x in (student, teacher))
            values = values + losses.attention_distance(ours, at_grid(theirs, ours.shape[1:3]))
        return TermOutput(values)


class _Connector(nn.Module):
    """1x1 convolution - batch norm - ReLU, by the statistics of the counted faces of this step on every device.

    Sums over counted faces, one psum: the same for any split of the faces over devices, and padding has no say. There are no
    running statistics: the connector is thrown away with the training, and nothing else would read them.

    Attributes:
      channels: to reach.
      axis_name: of the parallel map; None sums over this device alone. Not used by `init`, which runs outside of the map.
    """

    channels: int
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], mask: Float[Array, " b"]) -> Float[Array, "b h w c2"]:
        x = Conv(self.channels, size=1, name="conv")(x)
        scale = self.param("scale", nn.initializers.ones, (self.channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,), jnp.float32)
        counted = jnp.where(mask.reshape(-1, 1, 1, 1) > 0, x, 0.0)
        sums = [
            jnp.sum(counted, (0, 1, 2)),
            jnp.sum(jnp.square(counted), (0, 1, 2)),
            jnp.sum(mask > 0) * x.shape[1] * x.shape[2],
        ]
        if not self.is_initializing():
            sums = across.total(sums, self.axis_name)
        count = jnp.maximum(sums[2], 1)
        mean = sums[0] / count
        variance = jnp.maximum(sums[1] / count - jnp.square(mean), 0.0)
        factor = scale * jax.lax.rsqrt(variance + 1e-5)
        return nn.relu(x * factor.reshape(1, 1, 1, -1) + (bias - mean * factor).reshape(1, 1, 1, -1))
