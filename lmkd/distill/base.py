"""What a term gets and gives back.

A term is a frozen dataclass of options with

    loss(inputs: TermInputs) -> TermOutput
    source: str          (class attribute: paper and equation)
    teachers: str        (class attribute: "none", "one" or "several" of them are looked at)

and, where it owns variables (an adapter, a critic),

    init(key, inputs) -> TermVariables         (shapes matter, values are drawn anew: models.initialise)
    critic_loss(inputs) -> TermOutput          (the critic's own objective)

and, where it looks at teachers and yet needs labels,

    silent_without_labels: bool                (a face whose points do not count has the value 0)

All are pure. Values are one a face, unweighted and unmasked: weights, schedules, masks, sums and stop-gradients belong to the
recipe. Everything that a term sees stands on the student's grid and in the student's pixels.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp

from lmkd.models.landmarker import Outputs

TEACHERS = ("none", "one", "several")


class TermVariables(NamedTuple):
    """What a term owns, each a pytree, {} for nothing.

    Attributes:
      adapter: parameters trained with the student's objective.
      critic: parameters trained with the term's `critic_loss`.
      state: what is not trained (running statistics, spectral norms' vectors).
    """

    adapter: Any = {}
    critic: Any = {}
    state: Any = {}


class TermInputs(NamedTuple):
    """What a term may look at.

    Attributes:
      student: the trained network's `Outputs` on this batch.
      teachers: name -> `Outputs` of a frozen teacher on the very same crops: the term's own choice of teachers, in its
        order. Heatmaps stand on the student's grid, points in the student's pixels; taps keep their size.
      batch: the device's share of the batch (`core.batch`), seen at the student's size.
      targets: true heatmaps f32 [b, h, w, k] on the student's grid, peak 1 at the sub-pixel centre.
      counts: f32 [b, k], 1 where a point is visible and inside the crop.
      stride: the student's pixels a heatmap cell.
      key: a PRNG key of this term and step alone.
      variables: the term's own.
    """

    student: Outputs
    batch: Mapping[str, Any]
    targets: Any
    counts: Any
    stride: float
    key: Any
    teachers: Mapping[str, Outputs] = {}
    variables: TermVariables = TermVariables()

    @property
    def teacher(self) -> Outputs:
        """The only teacher of a term that looks at one."""
        (only,) = self.teachers.values()
        return only


class TermOutput(NamedTuple):
    """What a term gives back.

    Attributes:
      values: f32 [b], one a face.
      state: the term's new `TermVariables.state`; None leaves it as it is.
      logs: name -> f32 [b], figures to log beside the loss, averaged over faces ("real_accuracy").
    """

    values: Any
    state: Any = None
    logs: Mapping[str, Any] = {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfPoints:
    """What the terms have in common that hold a teacher's points, or maps of them, against the student's.

    Attributes:
      all_points: also points that do not count, being unlabelled or outside of the crop: the teacher may know them.
    """

    all_points: bool = False

    @property
    def silent_without_labels(self) -> bool:
        """Whether a face whose points do not count has the value 0."""
        return not self.all_points

    def counted(self, inputs: TermInputs) -> Any:
        """1 where this term sees a point, f32 [b, k]."""
        return jnp.ones_like(inputs.counts) if self.all_points else inputs.counts


@runtime_checkable
class Term(Protocol):
    """The protocol of a term without variables."""

    source: str
    teachers: str

    def loss(self, inputs: TermInputs) -> TermOutput:
        """Returns one value a face."""
        ...


@runtime_checkable
class OwnsVariables(Protocol):
    """A term with variables of its own."""

    def init(self, key: Any, inputs: TermInputs) -> TermVariables:
        """Returns first variables for inputs of these shapes."""
        ...


@runtime_checkable
class HasCritic(OwnsVariables, Protocol):
    """A term whose critic has an objective of its own."""

    def critic_loss(self, inputs: TermInputs) -> TermOutput:
        """Returns the critic's loss, one value a face."""
        ...
