"""One checkpoint step on disk, read part by part; refused, with what is wrong and another step, where it is damaged.

with offering_another(step_folder, ("model",)):
    variables = tensors(step_folder, "model", needed)       # needed: the network's variables, or their shapes
"""

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from lmkd.core.errors import UserError
from lmkd.training import soundness

MOST_TOLD = 12  # differing tensors that a message names before it counts the rest


class Damaged(UserError):
    """A step whose files are not whole."""

    def __init__(self, step_folder: Path, problems: Sequence[str]):
        super().__init__(_listed(f"checkpoint {step_folder} is damaged", problems))


def _listed(heading: str, problems: Sequence[str]) -> str:
    more = [f"... and {len(problems) - MOST_TOLD} more"] if len(problems) > MOST_TOLD else []
    return "\n  - ".join([f"{heading}:", *problems[:MOST_TOLD], *more])


@contextlib.contextmanager
def offering_another(step_folder: Path, parts: Sequence[str]) -> Iterator[None]:
    """Adds to what is said of a damaged step which one beside it is whole in these parts: the last before, else the next."""
    try:
        yield
        return
    except Damaged as error:
        damaged = str(error)
    number = int(step_folder.name) if step_folder.name.isdigit() else -1
    others = [p for p in step_folder.parent.iterdir() if p.name.isdigit() and p != step_folder] if number >= 0 else []
    for other in sorted(others, key=lambda p: (int(p.name) > number, abs(int(p.name) - number))):
        try:
            json_item(other, "meta")
            for part in parts:
                tensors(other, part)
        except UserError:
            continue
        there = f"Step {other.name} beside it is whole: name its folder, {other}"
        if int(other.name) < number:
            there += f"; to go on training from it, remove {step_folder} first"
        raise UserError(f"{damaged}\n{there}.")
    raise UserError(f"{damaged}\nNo other checkpoint beside it is whole: take a copy of it, or train anew in another folder.")


def json_item(step_folder: Path, item: str, file: str = "metadata") -> dict[str, Any]:
    """Reads a JSON item of a step."""
    try:
        found = json.loads((step_folder / item / file).read_text(encoding="utf-8"))
    except OSError:
        raise Damaged(step_folder, [f"`{item}` is missing"]) from None
    except (ValueError, RecursionError) as error:
        raise Damaged(step_folder, [f"`{item}` is no JSON ({error})"]) from None
    if not isinstance(found, dict):
        raise Damaged(step_folder, [f"`{item}` is no JSON object"])
    return found


def tensors(step_folder: Path, part: str, needed: Mapping[str, Any] | None = None) -> Any:
    """Reads a part's tensors as NumPy arrays, checked against `needed` shapes before and their checksums after."""
    tree = index(step_folder, part, needed)
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=_one_device()), tree)
    with ocp.StandardCheckpointer() as reader:
        found = reading(step_folder, (part,), lambda: reader.restore(step_folder / part, like))
    check_values(step_folder, {part: found})
    return found


def index(step_folder: Path, part: str, needed: Mapping[str, Any] | None = None) -> Any:
    """Returns what a part's index says of its tensors, as a tree, once it is neither damaged nor too large nor another's."""
    try:
        with ocp.StandardCheckpointer() as reader:
            tree = reader.metadata(step_folder / part).item_metadata.tree
        stored = soundness.shapes(tree)
    except Exception:  # whatever a damaged index takes Orbax to
        raise Damaged(step_folder, [f"the list of the tensors of `{part}` is missing or cannot be read"]) from None
    if (size := soundness.size_bytes(stored)) > soundness.MOST_BYTES:
        raise UserError(
            f"checkpoint {step_folder}: the tensors of `{part}` claim {size / 2**30:.0f} GiB, more than the "
            f"{soundness.MOST_BYTES / 2**30:.0f} GiB that are read"
        )
    problems = soundness.differences(stored, soundness.shapes(needed)) if needed is not None else []
    if problems:
        raise UserError(
            _listed(f"checkpoint {step_folder} is of another network: its tensors are not those that are needed", problems)
            + "\nTake the architecture, scheme and version of lmkd that it was saved with, or another checkpoint."
        )
    return tree


def reading(step_folder: Path, parts: Sequence[str], read: Callable[[], Any]) -> Any:
    """Reads by `read`; where it fails, names the tensors that cannot be read."""
    found, told = soundness.attempt(read)
    if not told:
        return found
    problems = [f"cannot be read: {part}/{name}" for part in parts for name in _unreadable(step_folder, part)]
    raise Damaged(step_folder, problems or [f"it cannot be read ({told})"])


def _unreadable(step_folder: Path, part: str) -> list[str]:
    """Names the tensors of a part that cannot be read, each tried alone."""
    tree, bad = index(step_folder, part), []
    leaves, structure = jax.tree.flatten(tree)
    names = list(soundness.shapes(tree))
    with ocp.PyTreeCheckpointer() as reader:
        for n, leaf in enumerate(leaves):
            alone: list[Any] = [ocp.PLACEHOLDER] * len(leaves)
            alone[n] = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
            item = jax.tree.unflatten(structure, alone)
            plain = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
            wanted = ocp.args.PyTreeRestore(item=item, restore_args=plain)
            if soundness.attempt(functools.partial(reader.restore, step_folder / part, args=wanted))[1]:
                bad.append(names[n])
    return bad


def check_values(step_folder: Path, parts: Mapping[str, Any]) -> None:
    """Compares tensors with the checksums that were saved with them; checkpoints from before there were any have none."""
    if (step_folder / "checksums").is_dir():
        kept = json_item(step_folder, "checksums")
        if not all(isinstance(kept.get(part), dict) for part in parts):
            raise Damaged(step_folder, ["`checksums` lacks some"])
        found = [f"{part}/{name}" for part, tree in parts.items() for name in soundness.changed(tree, kept[part])]
        if found:
            raise Damaged(step_folder, [f"changed since it was saved: {name}" for name in found])


def _one_device() -> jax.sharding.Sharding:
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
