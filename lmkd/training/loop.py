"""The loop of one stage: steps, logs, validations, checkpoints, and leaving cleanly."""

import contextlib
import dataclasses
import functools
import math
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from lmkd.core.errors import UserError
from lmkd.training import hosts, parallel
from lmkd.training.checkpoints import Checkpoints, Unsaved
from lmkd.training.logs import MetricLog, Progress, read_metrics
from lmkd.training.state import TrainState, inference_variables
from lmkd.training.watch import CriticWatch
from lmkd.training.watchdog import Watchdog

ASK_OTHERS_STEPS = 5


class Interrupted(Exception):
    """The run was asked to stop; it saved, and `signal_number` says by what."""

    def __init__(self, signal_number: int, step: int):
        super().__init__(f"stopped by {signal.Signals(signal_number).name} after step {step}; the state is saved")
        self.signal_number = signal_number


@dataclasses.dataclass(frozen=True)
class LoopOptions:
    """Lengths of a stage, in optimiser steps; `micro_batches` as in `StepOptions`, `batch_size` in faces.

    `share_steps`: how often each term's share of the gradient is measured; 0 never. `stall_seconds`: the watchdog's patience;
    0 keeps none. `go_on_unsaved`: a checkpoint that cannot be written is told and left out, instead of ending the run.
    """

    total_steps: int
    log_steps: int
    validate_steps: int
    save_steps: int
    batch_size: int
    micro_batches: int = 1
    share_steps: int = 0
    stall_seconds: float = 0.0
    go_on_unsaved: bool = False


class Diverged(UserError):
    """A loss became NaN or infinite; `step` is when."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class StopRequest:
    """Turns the first SIGINT or SIGTERM into a request that the loop reads; a second one ends the run at once."""

    def __init__(self):
        self.signal_number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: Any) -> None:
        if self.signal_number is not None:
            raise KeyboardInterrupt
        self.signal_number = number
        print(f"\n{signal.Signals(number).name}: saving after this step, then leaving (again: leave at once)", flush=True)


def run(
    *,
    name: str,
    folder: Path,
    state: TrainState,
    train_step: Callable,
    iterator: Any,
    validate: Callable[[Mapping[str, Any]], float] | None,
    meta: Mapping[str, Any],
    options: LoopOptions,
    notes: Callable[[], dict[str, float]] = dict,
    watch: CriticWatch | None = None,
) -> TrainState:
    """Trains one stage from its newest checkpoint, or from `state`, to its last step, and returns the final state.

    The order of operations matters: metrics are checked before anything is saved, so that a checkpoint is never written
    from a loss that is not finite; and the iterator is saved after the step that used its last batch. `notes` gives figures
    from outside the step (unreadable records so far) to log with each row. `watch` looks for critics that have collapsed. A
    `train_step` that has `shares` is asked for them every `share_steps`.

    Raises:
      Interrupted: asked to stop; the state is saved.
      Diverged: a loss became NaN or infinite; the message has the step, the term and the last good checkpoint.
      UserError: no gradient reaches the student, or a checkpoint could not be written.
    """
    with Watchdog(options.stall_seconds) as dog, contextlib.closing(Checkpoints(folder)) as checkpoints:
        if checkpoints.latest_step() is not None:
            state = checkpoints.restore(state, iterator)
        try:
            return _steps(
                dog, checkpoints, name=name, folder=folder, state=state, train_step=train_step, iterator=iterator,
                validate=validate, meta=meta, options=options, notes=notes, watch=watch,
            )  # fmt: skip
        except jax.errors.JaxRuntimeError as error:
            hosts.leave_if_peer_lost(error)
            raise


def _steps(
    dog: Watchdog, checkpoints: Checkpoints, *, name, folder, state, train_step, iterator, validate, meta, options, notes, watch
) -> TrainState:
    """The steps that are left, each logged, validated and saved as its number asks."""
    step = int(state.step)
    log = MetricLog(folder, start_step=step, writes=hosts.is_writer())
    for row in read_metrics(log.path) if watch else []:
        watch.look(row["step"], row)  # type: ignore[union-attr]  # what was said before the stop is not said again
    progress = Progress(
        stage=name, start_step=step, total_steps=options.total_steps, batch_size=options.batch_size, shown=hosts.is_writer()
    )
    pending: list[tuple[int, Any]] = []
    nme, clock, shares = None, time.monotonic(), {}
    try:
        with StopRequest() as stop:
            while step < options.total_steps:
                batch = parallel.split_over_devices(next(iterator), parts=options.micro_batches)
                if options.share_steps and step % options.share_steps == 0:
                    shares = train_step.shares(state, batch)  # type: ignore[attr-defined]
                state, metrics = train_step(state, batch)
                if jax.default_backend() == "cpu":
                    # Many steps queued on CPU devices can deadlock their collectives; there is nothing to overlap anyway.
                    jax.block_until_ready(metrics)
                step += 1
                dog.alive(f"step {step} of stage {name}")
                pending.append((step, metrics))
                progress.update()
                stopping = _asked_to_stop(stop, step)
                last = step == options.total_steps
                due_validation = validate is not None and (last or step % options.validate_steps == 0)
                due_save = last or due_validation or step % options.save_steps == 0 or stopping is not None
                if due_save or step % options.log_steps == 0:
                    values = _checked(pending, checkpoints, folder)
                    seconds = time.monotonic() - clock
                    values["faces_per_second"] = len(pending) * options.batch_size / max(seconds, 1e-9)
                    pending = []
                    # Who asked to stop does not want to wait for a validation, unless it is the last one.
                    scored = due_validation and (last or stopping is None)
                    if scored:
                        nme = values["validation/nme"] = validate(inference_variables(state))  # type: ignore[misc]
                        dog.alive(f"the validation after step {step} of stage {name}")
                    log.write(step, values | shares | notes())
                    shares = {}
                    for message in watch.look(step, values) if watch else []:
                        progress.say(f"{name}, step {step}: {message}")
                    progress.show(values["loss"], nme)
                    if due_save:
                        save = functools.partial(
                            checkpoints.save, state, iterator, meta, validation_nme=nme if scored else None
                        )
                        _save(checkpoints, save, options, final=last or stopping is not None, say=progress.say)
                        dog.alive(f"the save after step {step} of stage {name}")
                    clock = time.monotonic()
                if stopping is not None:
                    raise Interrupted(stopping, step)
    finally:
        progress.close()
        log.close()
    return state


def _asked_to_stop(stop: StopRequest, step: int) -> int | None:
    """The number of the signal that asks for a stop. It is read once a step: one that comes later belongs to a later step.

    Several processes ask each other now and then, so that all of them stop after the same step.
    """
    if jax.process_count() > 1 and step % ASK_OTHERS_STEPS:
        return None
    return hosts.any_process(stop.signal_number or 0) or None


def _save(checkpoints: Checkpoints, save: Callable[[], None], options: LoopOptions, *, final: bool, say: Callable) -> None:
    """Saves in the background, the last time to the end; where the run may go on without a checkpoint, a failure is a line."""

    def told(work: Callable[[], None], may_go_on: bool) -> None:
        try:
            work()
        except Unsaved as error:
            if not may_go_on:
                raise UserError(f"{error} Mend that and run the same command again.") from error
            say(f"{error} Training goes on, as train.on_save_error says.")

    told(checkpoints.wait, options.go_on_unsaved)  # for the save before this one
    told(save, options.go_on_unsaved and not final)
    if final:
        told(checkpoints.wait, False)


def _checked(pending: list[tuple[int, Any]], checkpoints: Checkpoints, folder: Path) -> dict[str, float]:
    """Fetches the metrics since the last look, stops at the first that is not finite, and returns their means."""
    fetched = [(step, {k: float(v) for k, v in jax.device_get(metrics).items()}) for step, metrics in pending]
    for step, values in fetched:
        bad = [k for k, v in values.items() if not math.isfinite(v)]
        if bad:
            checkpoints.wait()
            good = checkpoints.latest_step()
            kept = f"the last good checkpoint is step {good} in {folder}/checkpoints" if good else "none was saved yet"
            terms = [b for b in bad if b.startswith("loss/")] or bad
            raise Diverged(
                f"training stopped at step {step}: {', '.join(terms)} became NaN or infinite; {kept}. Lower the learning "
                "rate, clip the gradient (optimizer.clip_norm), look at the term's weight, or let the run go back by itself "
                "(train.retries).",
                step,
            )
    if all(values["grad_norm"] == 0.0 != values["loss"] for _, values in fetched):
        losses = ", ".join(sorted(name for name in fetched[0][1] if name.startswith("loss/")))
        raise UserError(
            f"nothing is learnt: up to step {fetched[-1][0]} the loss ({losses}) has a gradient of exactly 0 for the student. "
            "Is every part of it frozen (model.frozen), or are the terms on points a heatmap student's, which have no gradient?"
        )
    names = fetched[0][1]
    return {name: sum(values[name] for _, values in fetched) / len(fetched) for name in names}
