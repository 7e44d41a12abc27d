"""Watches critics: one that has collapsed is reported, not silent.

watch = CriticWatch(patience_steps=200, awake_from={"adversarial": 1000})
for row in read_metrics(path):
    watch.look(row["step"], row)  # a resumed run: what was said is not said again
for message in watch.look(step, {"adversarial/real_accuracy": 1.0, "adversarial/fake_accuracy": 1.0}):
    print(message)
watch.notices()  # everything that was said, for the report
"""

from collections.abc import Mapping

_REAL, _FAKE, _GAP = "real_accuracy", "fake_accuracy", "gap"
_HEALTHY = ""
_STATES = {
    "apart": (
        "tells the teacher's maps from the student's almost without fail, so the student learns little from it: lower "
        "critics.learning_rate or critics.steps, smooth its labels, or begin the term later"
    ),
    "all real": (
        "calls every map real, so its judgement says nothing: raise critics.learning_rate or critics.steps, or begin the term "
        "earlier"
    ),
    "all fake": (
        "calls every map fake, so its judgement says nothing: raise critics.learning_rate or critics.steps, or begin the term "
        "earlier"
    ),
    "reversed": "takes the teacher's maps for the student's and the other way round: lower critics.learning_rate",
}


class CriticWatch:
    """Follows each critic's accuracy on either side and speaks when it stays at an extreme.

    A critic has collapsed when it is right nearly always on both sides (both accuracies at least `high`), or nearly never on
    one (at most `low`). It is said once, when that has lasted for `patience_steps`, and once more when the opposite has lasted
    as long: a single odd batch neither starts nor ends it. A Wasserstein critic (it logs "gap") is meant to tell the two
    apart and its gradient does not fade when it does; only the other extremes count against it.
    """

    def __init__(
        self,
        patience_steps: int = 200,
        low: float = 0.02,
        high: float = 0.98,
        *,
        awake_from: Mapping[str, int] | None = None,
    ):
        """Makes a watch that has seen nothing.

        Args:
          patience_steps: steps that an extreme must last.
          low: an accuracy at or below it is "never right".
          high: an accuracy at or above it is "always right".
          awake_from: term -> the first step that its critic learns in; rows up to it say nothing about that critic.
        """
        self._patience_steps, self._low, self._high = patience_steps, low, high
        self._awake_from = dict(awake_from or {})
        self._seen: dict[str, tuple[str, int, int]] = {}  # term -> (state it is in, since which row, newest row)
        self._said: dict[str, str] = {}  # term -> the state that was last spoken of
        self._notices: list[str] = []

    def look(self, step: int, values: Mapping[str, float]) -> list[str]:
        """Takes one row of logged metrics, in the order of steps, and returns what is to be said about it.

        Args:
          step: of the row; a row at or before the newest one is left out.
          values: metric name -> value; critics are found by "<term>/real_accuracy" and "<term>/fake_accuracy".

        Returns:
          Messages, mostly none.
        """
        messages = []
        for name in values:
            term, _, figure = name.rpartition("/")
            if figure != _REAL or f"{term}/{_FAKE}" not in values or step <= self._awake_from.get(term, -1):
                continue
            message = self._follow(term, step, self._state(term, values))
            if message:
                messages.append(message)
                self._notices.append(f"step {step}: {message}")
        return messages

    def notices(self) -> list[str]:
        """Returns everything said so far, each with its step."""
        return list(self._notices)

    def _state(self, term: str, values: Mapping[str, float]) -> str:
        real, fake = values[f"{term}/{_REAL}"], values[f"{term}/{_FAKE}"]
        if max(real, fake) <= self._low:
            return "reversed"
        if real <= self._low:
            return "all fake"
        if fake <= self._low:
            return "all real"
        apart = min(real, fake) >= self._high and f"{term}/{_GAP}" not in values
        return "apart" if apart else _HEALTHY

    def _follow(self, term: str, step: int, state: str) -> str:
        """Returns the message when `state` differs from what was last said and has lasted long enough, else ""."""
        before, since, newest = self._seen.get(term, (state, step, step - 1))
        if step <= newest:
            return ""
        since = since if state == before else step
        self._seen[term] = (state, since, step)
        said = self._said.get(term, _HEALTHY)
        if state == said or step - since < self._patience_steps:
            return ""
        self._said[term] = state
        if state == _HEALTHY:
            return f"critic {term!r} has recovered (since step {since})"
        return f"critic {term!r} has collapsed: since step {since} it {_STATES[state]}"
