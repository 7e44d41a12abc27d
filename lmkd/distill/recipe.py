"""The recipe: weights, schedules, masks and exact sums over terms. Training anything is a recipe for the one train step."""

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lmkd.distill.base import Term, TermInputs


@dataclasses.dataclass(frozen=True)
class WeightedTerm:
    """One term of a recipe: its name, the term, its weight as a function of the step."""

    name: str
    term: Term
    weight: Callable[[Any], Any]


class RecipeSums(NamedTuple):
    """Sums over the counted faces of one device's share; means follow after one psum.

    Attributes:
      total: f32 [], the weighted sum that is differentiated.
      terms: name -> f32 [], unweighted sums.
      count: f32 [], counted faces.
    """

    total: Any
    terms: dict[str, Any]
    count: Any


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A sum of weighted terms. Its meaning does not depend on the order they are given in."""

    terms: tuple[WeightedTerm, ...]

    def __post_init__(self):
        object.__setattr__(self, "terms", tuple(sorted(self.terms, key=lambda t: t.name)))

    def sums(self, inputs: TermInputs, step: Any) -> RecipeSums:
        """Adds the terms up over the faces whose mask is 1.

        A masked face is taken out by `where`, not by a product: padding may hold anything, NaN included.
        """
        mask = inputs.batch["mask"]
        total, by_name = jnp.zeros((), jnp.float32), {}
        for part in self.terms:
            key = jax.random.fold_in(inputs.key, zlib.crc32(part.name.encode()))
            values = part.term.loss(inputs._replace(key=key)).values.astype(jnp.float32)
            by_name[part.name] = jnp.sum(jnp.where(mask > 0, values, 0.0))
            total = total + part.weight(step) * by_name[part.name]
        return RecipeSums(total, by_name, jnp.sum(mask))


def ramped(weight: float, *, begin_step: int, ramp_steps: int) -> Callable[[Any], Any]:
    """Returns step -> weight: 0 before `begin_step`, then linear up to `weight` over `ramp_steps`, then constant."""

    def at(step):
        done = (jnp.asarray(step, jnp.float32) - begin_step + 1.0) / max(ramp_steps, 1)
        return weight * jnp.clip(done, 0.0, 1.0)

    return (lambda step: jnp.asarray(weight, jnp.float32)) if begin_step == ramp_steps == 0 else at
