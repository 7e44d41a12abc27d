"""What a report is made of: results, provenance, everything on the page."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lmkd.core import schemes
from lmkd.core.schemes import Scheme
from lmkd.evaluation.faces import FacePicture
from lmkd.evaluation.robustness import Robustness
from lmkd.evaluation.rows import FaceRows, take_points
from lmkd.evaluation.scores import Scores


class Result(NamedTuple):
    """One checkpoint on one set of faces.

    Attributes:
      name: the faces ("the300w:common").
      checkpoint: "best" or "last".
      crop_protocol: "landmarks", "rectangle", ...; it moves an NME by as much as most methods do.
      normaliser: what errors were divided by.
      scores: of `rows`.
      rows: one row a face, in `scheme`.
      scheme: the rows' landmark scheme.
      flags: names of the rows' subset flags.
      provenance: what stands beside every score ("trained on 2012 of 3148 images of the300w").
      flip_test: whether predictions were averaged with those of the mirrored crop.
      step: the checkpoint's training step, None where unknown.
      decoder: what read the points off heatmaps, "" where nothing did or nothing is known.
    """

    name: str
    checkpoint: str
    crop_protocol: str
    normaliser: str
    scores: Scores
    rows: FaceRows
    scheme: Scheme
    flags: Sequence[str]
    provenance: str
    flip_test: bool = False
    step: int | None = None
    decoder: str = ""


class DatasetProvenance(NamedTuple):
    """Where a split came from.

    Attributes:
      name, config, split: of the prepared data set.
      found: faces that were prepared.
      published: faces that the authors published; None where nothing is stated.
      missing: what the prepared tree lacks, in words; "" for nothing.
      licence: of the data.
    """

    name: str
    config: str
    split: str
    found: int
    published: int | None
    missing: str
    licence: str


class ReportContent(NamedTuple):
    """All that a report shows.

    Attributes:
      title: of the page.
      command: the command line that makes this run again.
      results: the first one with checkpoint "best" (else the first) makes the headline.
      history: lines of `metrics.jsonl`: "step", "loss/<term>", "validation/nme" (in %).
      faces: pictures of the headline's faces; None (`--no_faces`) leaves every picture of a face out.
      cost: table of parameters and MACs: rows of cells, the header first; or text that is aligned already.
      config_json: the run's whole config.
      versions: package or machine fact -> version.
      datasets: where every split came from.
      notices: what a reader must not miss ("12 records skipped").
      robustness: what the robustness suite found, one for each split and crop.
      comparisons: methods against a baseline (`comparison.Comparison`), one for each split and crop.
      quoted: whether published figures of the data sets that were scored stand beside ours (`published`).
    """

    title: str
    command: str
    results: Sequence[Result]
    history: Sequence[Mapping[str, Any]]
    faces: Sequence[FacePicture] | None
    cost: Sequence[Sequence[object]] | str
    config_json: str
    versions: Mapping[str, str]
    datasets: Sequence[DatasetProvenance]
    notices: Sequence[str] = ()
    robustness: Sequence[Robustness] = ()
    comparisons: Sequence[Any] = ()  # Comparison is made of results, which are defined here
    quoted: bool = False


def headline(results: Sequence[Result]) -> Result | None:
    """Returns the result that a report opens with: the first, or the "best" checkpoint of that network on that split."""
    first = results[0] if results else None
    return next((r for r in results if first and r.checkpoint.split()[-1:] == ["best"] and r.name == first.name), first)


def scored_points(result: Result) -> tuple[FaceRows, Scheme]:
    """The rows and the scheme that the scores are about: a sub-scheme's points where the scores name one."""
    target = result.scores.scheme
    if target == result.scheme.name:
        return result.rows, result.scheme
    return take_points(result.rows, result.scheme.subset_indices(target)), schemes.get(target)
