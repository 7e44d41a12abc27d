"""Timing things side by side: interleaved rounds, medians with their spread, one aligned table.

    timings = timed([Part("ours", "the step as it trains", call), Part("theirs", ...)], rounds=30)
    print(table(("part", "median ms"), [(t.name, f"{t.median_ms:.1f}") for t in timings]))

Machines drift: other jobs come and go, clocks rise and fall. Interleaved rounds give each part its share of every moment, so
that ratios of parts hold where their milliseconds would not.
"""

import time
from collections.abc import Callable, Sequence
from statistics import median, quantiles
from typing import Any, NamedTuple

import jax


class Part(NamedTuple):
    """One of the things that are timed; `call` does it once and returns the arrays to wait for."""

    name: str
    what: str
    call: Callable[[], Any]


class Timing(NamedTuple):
    """What a part took: its first call, compilation included, in seconds; then each round's call in milliseconds."""

    name: str
    what: str
    first_call_s: float
    rounds_ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        """The median over rounds."""
        return median(self.rounds_ms)

    @property
    def quartiles_ms(self) -> tuple[float, float]:
        """The first and the third quartile over rounds."""
        return quartiles(self.rounds_ms)

    def spread(self) -> str:
        """The quartiles as a table's cell, in milliseconds."""
        low, high = self.quartiles_ms
        return f"{low:.1f} to {high:.1f}"

    def figures(self) -> dict[str, Any]:
        """Everything, for the JSON file."""
        return {**self._asdict(), "median_ms": self.median_ms, "quartiles_ms": self.quartiles_ms}


class Topic(NamedTuple):
    """What a topic found: its title, what it was measured on, its table, and every figure for the JSON file."""

    title: str
    conditions: dict[str, Any]
    table: str
    figures: dict[str, Any]


def timed(
    parts: Sequence[Part],
    *,
    rounds: int,
    progress: Callable[[str], None] = lambda text: None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Timing]:
    """Calls every part once in each round and returns their timings, in the order given.

    The first call stands apart, and a second one is not timed. Each round begins with another part: none always finds the
    caches as the same other one has left them.

    Args:
      parts: at least one.
      rounds: at least 1.
      progress: told what goes on.
      clock: seconds.
    """

    def seconds(part: Part) -> float:
        begun = clock()
        jax.block_until_ready(part.call())
        return clock() - begun

    first = []
    for n, part in enumerate(parts):
        progress(f"compiling {n + 1} of {len(parts)}: {part.name}")
        first.append(seconds(part))
    for part in parts:
        jax.block_until_ready(part.call())
    found: list[list[float]] = [[] for _ in parts]
    progress(f"{rounds} rounds of {len(parts)} parts")
    for begin in range(rounds):
        for n in range(len(parts)):
            chosen = (begin + n) % len(parts)
            found[chosen].append(1e3 * seconds(parts[chosen]))
    return [Timing(p.name, p.what, s, tuple(ms)) for p, s, ms in zip(parts, first, found, strict=True)]


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The first and the third quartile; a single value is both."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, high


def ratio(values: Sequence[float]) -> str:
    """The median of ratios taken round by round, with quartiles, as a table's cell: what slows a whole round is in none."""
    low, high = quartiles(values)
    return f"{median(values):.2f} ({low:.2f} to {high:.2f})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table with aligned columns: the first two to the left, numbers to the right."""
    widths = [max(3, *(len(row[n]) for row in (header, *rows))) for n in range(len(header))]
    left = (0, 1)

    def line(cells: Sequence[str]) -> str:
        padded = (c.ljust(w) if n in left else c.rjust(w) for n, (c, w) in enumerate(zip(cells, widths, strict=True)))
        return f"| {' | '.join(padded)} |"

    rule = ("-" * w if n in left else "-" * (w - 1) + ":" for n, w in enumerate(widths))
    return "\n".join([line(header), f"| {' | '.join(rule)} |", *map(line, rows)])
