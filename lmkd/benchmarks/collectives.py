"""What a step sends between devices: bytes and numbers of its collectives, from the traced program; nothing is compiled.

Two kinds stand apart: sums inside the networks (synchronised batch norms: small and many, on the way of the forward and
backward pass) and sums after them (gradients, metrics: large and few). A ring moves 2 (n - 1) / n times an array's bytes
through each of n devices; the table gives the arrays' bytes.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.extend.core
import numpy as np
from ml_collections import ConfigDict

from lmkd.benchmarks.drawn import chosen, crops_of_noise, drawn, num_points
from lmkd.benchmarks.rounds import Topic, table
from lmkd.training import parallel

COLLECTIVES = (
    "psum",
    "psum2",
    "psum_invariant",
    "all_gather",
    "all_gather_invariant",
    "pmax",
    "pmin",
    "ppermute",
    "all_to_all",
)


class Sent(NamedTuple):
    """A kind's collectives in one step: how many arrays, and their bytes."""

    arrays: int
    bytes: int


def run(config: ConfigDict, *, stage: str, rounds: int, progress: Callable[[str], None] = lambda text: None) -> Topic:
    """Counts what each stage's step sends.

    Args:
      config: an experiment.
      stage: one stage's name; "" takes all.
      rounds: unused, nothing is timed.
      progress: told what goes on.

    Raises:
      UserError: the config cannot run, or has no such stage.
    """
    found = {}
    for name in chosen(config, stage):
        progress(f"tracing stage {name}")
        found[name] = of_stage(config, name)
    header = ("stage", "parameters", "norms' arrays", "norms' kB", "gradients' arrays", "gradients' MB")
    lines = []
    for name, (parameters, inside, after) in found.items():
        of_norms = (f"{inside.arrays}", f"{inside.bytes / 1e3:.1f}")
        lines.append((name, f"{parameters:,}", *of_norms, f"{after.arrays}", f"{after.bytes / 1e6:.2f}"))
    figures = {n: {"parameters": p, "norms": i._asdict(), "gradients": a._asdict()} for n, (p, i, a) in found.items()}
    conditions = {"batch_size": "any: nothing that is sent grows with it", "devices": "the same for any number above 1"}
    return Topic("what a step sends between devices", conditions, table(header, lines), {"stages": figures})


def of_stage(config: ConfigDict, name: str) -> tuple[int, Sent, Sent]:
    """Returns (parameters, what the networks' norms send, what else is sent) in one step of a stage."""
    training = drawn(config, name)
    batch = crops_of_noise(config.stage[name].train.batch_size, training.crop_px, num_points(training))
    # As one of two devices, however many there are here: a single one sends nothing.
    traced = jax.make_jaxpr(training.train_step(), axis_env=[(parallel.AXIS, 2)])(
        *training.trainer().arguments(training.first, batch)
    )
    inside: list[Any] = []
    after: list[Any] = []
    for scope, variable in collectives(traced.jaxpr):
        (inside if "Landmarker" in scope else after).append(variable.aval)
    parameters = sum(int(np.prod(p.shape)) for p in jax.tree.leaves(training.first.params))
    return parameters, _sent(inside), _sent(after)


def collectives(jaxpr: Any, scope: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (scope of names, variable) of every array that a program's collectives send, those of inner programs too.

    A loop's are counted once; the step has none around its collectives but for micro-batches.
    """
    for equation in jaxpr.eqns:
        here = f"{scope}/{equation.source_info.name_stack}"
        if equation.primitive.name in COLLECTIVES:
            yield from ((here, variable) for variable in equation.invars if hasattr(variable, "aval"))
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from collectives(inner, here)


def _sent(arrays: list[Any]) -> Sent:
    return Sent(len(arrays), sum(int(np.prod(a.shape)) * a.dtype.itemsize for a in arrays))
