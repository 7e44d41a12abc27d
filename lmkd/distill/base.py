"""What a term gets and gives back.

A term is a frozen dataclass of options with

    loss(inputs: TermInputs) -> TermOutput
    source: str     (class attribute: paper and equation)

Values are one a face, unweighted and unmasked: weights, schedules, masks and sums belong to the recipe.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

from lmkd.models.landmarker import Outputs


class TermInputs(NamedTuple):
    """What a term may look at.

    Attributes:
      student: the trained network's `Outputs` on this batch.
      batch: the device's share of the batch (`core.batch`).
      targets: true heatmaps f32 [b, h, w, k] on the student's grid, peak 1 at the sub-pixel centre.
      counts: f32 [b, k], 1 where a point is visible and inside the crop.
      stride: crop pixels a heatmap cell.
      key: a PRNG key of this term and step alone.
    """

    student: Outputs
    batch: dict[str, Any]
    targets: Any
    counts: Any
    stride: float
    key: Any


class TermOutput(NamedTuple):
    """What a term gives back: `values` f32 [b], one a face."""

    values: Any


@runtime_checkable
class Term(Protocol):
    """The protocol of a term."""

    source: str

    def loss(self, inputs: TermInputs) -> TermOutput:
        """Returns one value a face."""
        ...
