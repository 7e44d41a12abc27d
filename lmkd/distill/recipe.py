"""The recipe: weights, schedules, masks, stop-gradients and exact sums over terms. Any training is a recipe for THE step."""

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lmkd.distill.base import HasCritic, OwnsVariables, Term, TermInputs, TermOutput, TermVariables


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A term's weight over time, in steps.

    0 before `begin`, then linear up to `weight` over `ramp`, then times `decay_factor` after every `decay_every` steps (early
    decay: Zhou et al. 2020, arXiv 2006.01683, section 3.3; 0 never decays).
    """

    weight: float
    begin: int = 0
    ramp: int = 0
    decay_every: int = 0
    decay_factor: float = 1.0

    def at(self, step: Any) -> Any:
        """Returns the weight f32 [] of a step."""
        step = jnp.asarray(step, jnp.float32)
        weight = jnp.asarray(self.weight, jnp.float32)
        if self.begin or self.ramp:
            weight = weight * jnp.clip((step - self.begin + 1.0) / max(self.ramp, 1), 0.0, 1.0)
        if self.decay_every:
            weight = weight * self.decay_factor ** jnp.floor(step / self.decay_every)
        return weight


@dataclasses.dataclass(frozen=True)
class WeightedTerm:
    """One term of a recipe: its name, the term, its schedule, and the names of the teachers that it looks at."""

    name: str
    term: Term
    schedule: Schedule
    teachers: tuple[str, ...] = ()

    @property
    def has_critic(self) -> bool:
        """Whether the term has an objective of its own."""
        return isinstance(self.term, HasCritic)


class Sums(NamedTuple):
    """Sums over the counted faces of one device's share; means follow after one psum.

    Attributes:
      total: f32 [], what is differentiated.
      logs: name -> f32 [], unweighted sums: "loss/<term>" and the terms' own figures "<term>/<figure>".
      count: f32 [], counted faces.
    """

    total: Any
    logs: dict[str, Any]
    count: Any


Variables = Mapping[str, TermVariables]  # by term name; only terms that own any


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A sum of weighted terms. Neither its meaning nor its randomness depends on the order they are given in."""

    terms: tuple[WeightedTerm, ...]

    def __post_init__(self):
        object.__setattr__(self, "terms", tuple(sorted(self.terms, key=lambda t: t.name)))

    @property
    def names(self) -> tuple[str, ...]:
        """The terms' names, in the order of `sums`' `only`."""
        return tuple(part.name for part in self.terms)

    @property
    def with_critic(self) -> tuple[WeightedTerm, ...]:
        """The terms with critics."""
        return tuple(part for part in self.terms if part.has_critic)

    @property
    def own_variables(self) -> bool:
        """Whether any term owns variables."""
        return any(isinstance(part.term, OwnsVariables) for part in self.terms)

    def init(self, key: Any, inputs: TermInputs) -> dict[str, TermVariables]:
        """Returns the variables of every term that owns some."""
        return {
            part.name: part.term.init(self._key(part, key), _seen(part, inputs, {}))
            for part in self.terms
            if isinstance(part.term, OwnsVariables)
        }

    def sums(self, inputs: TermInputs, variables: Variables, step: Any, only: Any) -> tuple[Sums, dict[str, Any]]:
        """Adds the terms up over the faces whose mask is 1: what the student and the adapters are trained on.

        Gradients reach `inputs.student` and the adapters; teachers, critics and states are constants here.

        Args:
          inputs: with every teacher.
          variables: of the terms.
          step: int [].
          only: f32 [terms], a factor for each weight: ones, or a single one to see that term's gradient alone.

        Returns:
          Sums, and the terms' new states by name.
        """
        mask = inputs.batch["mask"]
        total, states = jnp.zeros((), jnp.float32), {}
        logs: dict[str, Any] = {}
        for n, part in enumerate(self.terms):
            own = variables.get(part.name, TermVariables())
            fixed = own._replace(critic=_constant(own.critic), state=_constant(own.state))
            found = part.term.loss(_seen(part, inputs, {part.name: fixed}, self._key(part, inputs.key)))
            logs |= _summed_logs(part, found, mask)
            if part.name in variables:
                states[part.name] = own.state if found.state is None else _constant(found.state)
            total = total + only[n] * part.schedule.at(step) * logs[f"loss/{part.name}"]
        return Sums(total, logs, jnp.sum(mask)), states

    def critic_sums(self, inputs: TermInputs, variables: Variables) -> tuple[Sums, dict[str, Any]]:
        """Adds the critics' own losses up; gradients reach the critics alone: the maps they judge are constants here.

        Each critic is its own group, so the plain sum of their losses gives each its own gradient.
        """
        mask = inputs.batch["mask"]
        inputs = inputs._replace(student=_constant(inputs.student))
        total, states = jnp.zeros((), jnp.float32), {}
        logs: dict[str, Any] = {}
        for part in self.with_critic:
            own = variables[part.name]
            fixed = own._replace(adapter=_constant(own.adapter), state=_constant(own.state))
            found = part.term.critic_loss(  # type: ignore[attr-defined]
                _seen(part, inputs, {part.name: fixed}, self._key(part, inputs.key))
            )
            new = _summed_logs(part, found, mask)
            value = new.pop(f"loss/{part.name}")
            logs |= new | {f"{part.name}/critic_loss": value}
            states[part.name] = own.state if found.state is None else _constant(found.state)
            total = total + value
        return Sums(total, logs, jnp.sum(mask)), states

    def _key(self, part: WeightedTerm, key: Any) -> Any:
        return jax.random.fold_in(key, zlib.crc32(part.name.encode()))


def _seen(part: WeightedTerm, inputs: TermInputs, variables: Variables, key: Any = None) -> TermInputs:
    """What one term sees: its own teachers, as constants, its own variables, its own key."""
    return inputs._replace(
        teachers={name: _constant(inputs.teachers[name]) for name in part.teachers},
        variables=variables.get(part.name, TermVariables()),
        key=inputs.key if key is None else key,
    )


def _summed_logs(part: WeightedTerm, found: TermOutput, mask: Any) -> dict[str, Any]:
    """Sums over faces by `where`, not by a product: padding may hold anything, NaN included."""
    figures = {f"loss/{part.name}": found.values} | {f"{part.name}/{k}": v for k, v in found.logs.items()}
    return {k: jnp.sum(jnp.where(mask > 0, v.astype(jnp.float32), 0.0)) for k, v in figures.items()}


def _constant(tree: Any) -> Any:
    return jax.tree.map(jax.lax.stop_gradient, tree)
