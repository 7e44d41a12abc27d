"""Each term's share of the student's gradient: a term that has hardly any is in the recipe's text, not in its result."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from lmkd.training import parallel


class Trainer:
    """The mapped step with its constant arguments bound.

        trainer = Trainer(step, frozen=teachers' variables, terms=recipe.names)
        state, metrics = trainer(state, batch)
        shares = trainer.shares(state, batch)           # {"share/heatmap": 0.7, "share/channel": 0.3}

    The shares come from the very program that trains, run once for each term with the other terms' weights at 0, on a copy of
    the state: nothing more is compiled, and weights, schedules and masks are those of the step.
    """

    def __init__(self, step: Callable, *, frozen: Mapping[str, Any], terms: tuple[str, ...], kind: str = "pmap"):
        self.mapped = parallel.map_train_step(step, kind)
        self._frozen = parallel.replicate(dict(frozen))
        self._terms = terms
        self._all = parallel.replicate(np.ones(len(terms), np.float32))
        self._copy = jax.jit(lambda tree: jax.tree.map(jax.numpy.copy, tree))

    def __call__(self, state: Any, batch: Any) -> tuple[Any, Any]:
        """Makes one step; `state` is donated."""
        return self.mapped(*self.arguments(state, batch))

    def arguments(self, state: Any, batch: Any) -> tuple[Any, ...]:
        """What the mapped step takes for one step."""
        return state, batch, self._frozen, self._all

    def shares(self, state: Any, batch: Any) -> dict[str, float]:
        """Returns "share/<term>": the norm of the student's gradient under that term alone, over the sum of such norms."""
        norms = {}
        for n, name in enumerate(self._terms):
            only = parallel.replicate(np.eye(len(self._terms), dtype=np.float32)[n])
            _, metrics = self.mapped(self._copy(state), batch, self._frozen, only)
            norms[name] = float(jax.device_get(metrics["grad_norm"]))
        total = sum(norms.values())
        return {f"share/{name}": norm / total if total else 0.0 for name, norm in norms.items()}
