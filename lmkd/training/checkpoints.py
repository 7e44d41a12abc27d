"""Orbax checkpoints of a stage: the latest and the best kept, written in the background, data iterator inside.

    <stage folder>/checkpoints/<step>/{model,train,meta,iterator,checksums}

`model` holds what predicts (parameters and statistics, averaged where an average is kept), `train` the rest of the state,
`meta` the stage's description (config, landmark scheme, versions), so that a path is enough to load a model, `checksums` a
CRC-32 of each tensor: what is read is compared with it. A damaged step is refused, and a sound one beside it named.
"""

import contextlib
import functools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from grain.checkpoint import CheckpointSave
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from lmkd.core.errors import UserError, unknown
from lmkd.distill.base import TermVariables
from lmkd.training import parallel, soundness, stored, vectors
from lmkd.training import state as states

WHICH = ("best", "latest")
METRIC = "validation_nme"  # lower is better; BestN(reverse=True) keeps the lowest


class Unsaved(UserError):
    """The checkpoint of `step` could not be written."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class Checkpoints:
    """Saves and restores one stage's checkpoints."""

    def __init__(self, folder: Path, *, keep_latest: int = 1, asynchronous: bool = True):
        self.folder = folder.absolute() / "checkpoints"
        self._keep_latest, self._asynchronous = keep_latest, asynchronous
        self._writing = 0
        _scores(self.folder)  # Orbax reads them too, and says less of a damaged one
        self._manager = self._opened()

    def _opened(self) -> ocp.CheckpointManager:
        policy = AnyPreservationPolicy(
            [
                LatestN(self._keep_latest),
                BestN(get_metric_fn=lambda m: m[METRIC], reverse=True, n=1, keep_checkpoints_without_metrics=False),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy,
            best_fn=lambda m: m[METRIC],  # without it Orbax writes no metrics to disk; the policy decides what stays
            best_mode="min",
            enable_async_checkpointing=self._asynchronous,
            cleanup_tmp_directories=True,  # what a killed run left half-written
        )
        return ocp.CheckpointManager(self.folder, options=options)

    def save(self, state: states.TrainState, iterator: Any, meta: Mapping[str, Any], *, validation_nme: float | None) -> None:
        """Saves in the background; a step that is already there is left as it is.

        Raises:
          Unsaved: this checkpoint could not be begun, or the one before it, not waited for, could not be written.
        """
        step, state = int(state.step), parallel.shared(state)
        if step in self._manager.all_steps():
            return
        model, train = states.inference_variables(state), _training_part(state)
        items = {
            "model": ocp.args.StandardSave(model),
            "train": ocp.args.StandardSave(train),
            "checksums": ocp.args.JsonSave({"model": soundness.checksums(model), "train": soundness.checksums(train)}),
            "meta": ocp.args.JsonSave(dict(meta)),
            "iterator": CheckpointSave(iterator),
        }
        metrics = None if validation_nme is None else {METRIC: validation_nme}
        self.wait()
        self._writing = step
        with self._told_if_unsaved():
            self._manager.save(step, args=ocp.args.Composite(**items), metrics=metrics, force=True)

    def latest_step(self) -> int | None:
        """The newest complete checkpoint's step, or None."""
        return self._manager.latest_step()

    def restore(self, like: states.TrainState, iterator: Any) -> states.TrainState:
        """Restores the newest checkpoint into a state shaped `like`; sets the data iterator to where it was.

        One from before the optimisers' moments were vectors is read as it is, and its moments joined.

        Raises:
          UserError: there is none, it is damaged, or its tensors are not those of `like`; the message names the tensors, and
            an earlier checkpoint that is whole.
        """
        step = self._manager.latest_step()
        if step is None:
            raise UserError(f"no checkpoint to go on from under {self.folder}")
        folder = _folder_of(self.folder, step)
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, parallel.shared(like))
        with stored.offering_another(folder, ("model", "train")):
            stored.json_item(folder, "meta")
            older = states.with_moments(shapes, vectors.shapes_in_trees)
            is_older = _keeps_moments_of(folder, older)
            shapes = older if is_older else shapes
            wanted = {"model": states.inference_variables(shapes), "train": _training_part(shapes)}
            for part in wanted:
                stored.index(folder, part, wanted[part])
            items = {part: ocp.args.StandardRestore(wanted[part]) for part in wanted}
            read = functools.partial(self._manager.restore, step, args=ocp.args.Composite(**items))
            back = stored.reading(folder, tuple(wanted), read)
            stored.check_values(folder, {part: back[part] for part in wanted})
            _set_iterator(iterator, folder)
        state = parallel.on_this_host(_joined(back["train"], back["model"], averaged=like.ema is not None))
        return states.with_moments(state, vectors.gathered) if is_older else state

    def wait(self) -> None:
        """Waits until what is being written is on disk.

        Raises:
          Unsaved: it could not be written.
        """
        with self._told_if_unsaved():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _told_if_unsaved(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                self._manager.close()
            self._manager = self._opened()  # one that has failed once refuses to go on
            steps, _ = _steps(self.folder)
            raise Unsaved(
                f"the checkpoint of step {self._writing} could not be written ({_first_cause(error)}); "
                + (f"that of step {steps[-1]} stands" if steps else "there is none before it")
                + f", in {self.folder}. Is the disk full, or not to be written to?",
                self._writing,
            ) from error

    def close(self) -> None:
        """Waits and releases the writer."""
        self._manager.close()


def _first_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]


def _set_iterator(iterator: Any, step_folder: Path) -> None:
    """Sets an iterator to where it was. Its state counts global batches, so any host's serves, however many there are now."""
    kept = sorted((step_folder / "iterator").glob("process_*-of-*.json"))
    if not kept:
        raise stored.Damaged(step_folder, ["`iterator`, which says which faces come next, is missing"])
    before = stored.json_item(step_folder, "iterator", kept[0].name)
    try:
        iterator.set_state(before)
    except (KeyError, TypeError, ValueError) as error:
        raise stored.Damaged(step_folder, [f"`iterator` is no state of this data iterator ({error})"]) from error


def find_step(path: Path, which: str = "best") -> Path:
    """Returns the folder of one checkpoint step from a step's folder, a stage's folder or a workdir.

    Of a workdir with several stages it is the last one that the kept config names: what the experiment is for.

    Raises:
      UserError: nothing there, or several stages to choose from; the message names what is there.
    """
    if which not in WHICH:
        raise unknown("choice of checkpoint", which, WHICH, "--which")
    path = path.absolute()
    if (path / "model").is_dir() and (path / "meta").is_dir():
        return path
    folder = path if path.name == "checkpoints" else path / "checkpoints"
    if not folder.is_dir():
        stages = sorted(p.parent for p in path.glob("*/checkpoints") if p.is_dir()) if path.is_dir() else []
        if len(stages) == 1:
            return find_step(stages[0], which)
        last = _last_stage(path)
        if last in [s.name for s in stages]:
            return find_step(path / last, which)
        if len(stages) > 1:
            names = ", ".join(s.name for s in stages)
            raise UserError(f"{path} holds several stages ({names}): name one, such as {stages[-1]}")
        raise UserError(
            f"{path} holds no checkpoint: expected a workdir, a stage's folder or a step's folder of `python -m lmkd.main`"
        )
    steps, best = _steps(folder)
    if not steps:
        raise UserError(f"{folder} holds no complete checkpoint")
    return _folder_of(folder, best if which == "best" and best is not None else steps[-1])


def _folder_of(folder: Path, step: int) -> Path:
    return next(p for p in folder.iterdir() if re.fullmatch(rf"0*{step}", p.name))


def _last_stage(workdir: Path) -> str:
    """The last stage that the kept config names; "" where there is none that can be read."""
    try:
        return str(json.loads((workdir / "config.json").read_text())["stages"][-1])
    except (OSError, ValueError, LookupError, TypeError):  # one stage is then named by the person
        return ""


def label(step_folder: Path) -> str:
    """Says what a step's folder is among its neighbours: "best" (a validation chose it), "last", or "step N"."""
    try:
        steps, best = _steps(step_folder.parent) if step_folder.parent.name == "checkpoints" else ([], None)
    except UserError:  # a neighbour is damaged
        steps, best = [], None
    known = {str(best): "best"} | ({str(steps[-1]): "last"} if steps and steps[-1] != best else {})
    return known.get(step_folder.name.lstrip("0"), f"step {step_folder.name}")


def _steps(folder: Path) -> tuple[list[int], int | None]:
    """The complete steps, sorted, and the one with the lowest validation error, where any was validated."""
    scores = _scores(folder)
    with ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(read_only=True)) as manager:
        steps = sorted(manager.all_steps())
    scored = {step: value for step, value in scores.items() if step in steps}
    return steps, min(scored, key=scored.__getitem__) if scored else None


def _scores(folder: Path) -> dict[int, float]:
    """The validation errors of the steps that have one. Raises UserError where one cannot be read."""
    found = {}
    for step_folder in folder.iterdir() if folder.is_dir() else ():
        if step_folder.name.isdigit() and (step_folder / "metrics").is_dir():
            with stored.offering_another(step_folder, ("model", "train")):
                value = stored.json_item(step_folder, "metrics", "metrics").get(METRIC)
                if not isinstance(value, int | float):
                    raise stored.Damaged(step_folder, [f"`metrics` has no number {METRIC}"])
            found[int(step_folder.name)] = float(value)
    return found


def load(step_folder: Path, needed: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns (inference variables as NumPy arrays, meta) of one step's folder; nothing else is read. Half floats are widened.

    Args:
      step_folder: of one step.
      needed: variables of the network that is to have them, or their shapes: others are refused before they are read.

    Raises:
      UserError: damaged, of another network, or larger than `soundness.MOST_BYTES`; the message names the tensors, and a
        step beside this one that is whole.
    """
    with stored.offering_another(step_folder, ("model",)):
        kept, meta = dict(stored.tensors(step_folder, "model", needed)), stored.json_item(step_folder, "meta")
    return jax.tree.map(lambda x: x.astype(np.float32) if x.dtype == np.float16 else x, kept), meta


def load_terms(step_folder: Path) -> dict[str, TermVariables]:
    """Returns what the terms own (adapters, critics, states) at one step, by the term's name, as NumPy arrays."""
    with ocp.PyTreeCheckpointer() as reader:
        shapes = reader.metadata(step_folder / "train").item_metadata.tree["terms"]
        like = {"terms": jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), shapes)}
        plain = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
        wanted = ocp.args.PyTreeRestore(item=like, restore_args=plain, partial_restore=True)
        terms = reader.restore(step_folder / "train", args=wanted)["terms"]
    return {name: TermVariables(**own) for name, own in terms.items()}


def load_meta(step_folder: Path) -> dict[str, Any]:
    """Returns what one step's folder says of itself. Raises UserError where that is not there or cannot be read."""
    with stored.offering_another(step_folder, ("model",)):
        return stored.json_item(step_folder, "meta")


def _keeps_moments_of(step_folder: Path, shapes: states.TrainState) -> bool:
    kept = soundness.shapes(stored.index(step_folder, "train")["opt_state"])
    return not soundness.differences(kept, soundness.shapes(shapes.opt_state))


def _training_part(state: states.TrainState) -> dict[str, Any]:
    part = {"step": state.step, "terms": state.terms, "opt_state": state.opt_state, "key": state.key}
    if state.ema is not None:
        part |= {"params": state.params, "batch_stats": state.batch_stats}
    return part


def _joined(train: dict[str, Any], model: dict[str, Any], *, averaged: bool) -> states.TrainState:
    current = train if averaged else model
    return states.TrainState(
        step=train["step"],
        params=current["params"],
        batch_stats=current["batch_stats"],
        terms=train["terms"],
        opt_state=train["opt_state"],
        ema={"params": model["params"], "batch_stats": model["batch_stats"]} if averaged else None,
        key=train["key"],
    )
