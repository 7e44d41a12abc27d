"""The weights that a stage starts from: drawn, published, pruned from a trained network, or taken over from one."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from lmkd import build
from lmkd.core.errors import UserError, report_together
from lmkd.models import initialise, landmarker, pruning, weights
from lmkd.models.hrnet import HRNet


def first_variables(
    net: landmarker.Landmarker, part: ConfigDict, image_px: int, seed: int, teachers: Mapping[str, build.Loaded]
) -> dict[str, Any]:
    """Returns the network's variables before the first step, as NumPy arrays.

    Args:
      net: the stage's network.
      part: the stage's config: model.weights, model.prune_from and model.start_from are followed in this order.
      image_px: side of its input.
      seed: of what is drawn.
      teachers: by name; `prune_from` and `start_from` name one.

    Raises:
      UserError: weights that do not fit.
    """
    variables: Mapping[str, Any] = initialise.initial_variables(net, image_px, seed=seed)
    if part.model.weights:
        published = weights.load_state_dict(part.model.weights)
        variables = weights.convert(
            published, variables, weights.published_names(net.backbone), backbone_only=part.model.weights_backbone_only
        )
    if part.model.prune_from:
        variables = _pruned(part.model.prune_from, teachers[part.model.prune_from], net, variables)
    if part.model.start_from:
        variables = _taken_over(part.model, teachers[part.model.start_from], variables)
    return jax.tree.map(np.asarray, dict(variables))


def _pruned(name: str, teacher: build.Loaded, net: landmarker.Landmarker, variables: Mapping) -> Mapping:
    source, student = teacher.model.backbone, net.backbone
    if not (isinstance(source, HRNet) and isinstance(student, HRNet)):
        raise UserError(f"model.prune_from={name}: only an HRNet can be pruned into an HRNet")
    pruned = pruning.prune(teacher.variables, dict(variables), source=source, student=student)
    if pruned.kept_as_drawn:
        print(f"pruned from {name}; drawn, since it lacks them: {', '.join(pruned.kept_as_drawn)}")
    return pruned.variables


def _taken_over(model: ConfigDict, teacher: build.Loaded, variables: Mapping) -> dict[str, Any]:
    """The teacher's parameters and statistics of model.start_parts, the rest as it was."""
    old, new = (traverse_util.flatten_dict(dict(v)) for v in (teacher.variables, variables))
    wanted = {path: leaf for path, leaf in new.items() if path[1] in model.start_parts}
    where = f"model.start_from={model.start_from} ({teacher.folder}) does not fit: model.start_parts={tuple(model.start_parts)}"
    if misfits := list(_misfits(wanted, old)):
        report_together([*_other_settings(model, teacher.stage.model), *misfits], where, limit=12)
    return traverse_util.unflatten_dict({**new, **{path: old[path] for path in wanted}})


def _other_settings(model: ConfigDict, theirs: ConfigDict) -> Iterator[str]:
    """What the parts are made of there and here, where that differs: a hundred wrong shapes may come of one option."""
    if "backbone" in model.start_parts and theirs.colour != model.colour:
        yield f"model.colour: {theirs.colour} there, {model.colour} here"
    for part in model.start_parts:
        if theirs[part] != model[part]:
            yield f"model.{part}: {theirs[part]} there, {model[part]} here"
            continue
        there, here = (dict(m[f"{part}_options"]) for m in (theirs, model))
        for key in sorted(there.keys() & here.keys()):  # an option that is older than one of them shapes no weight
            if there[key] != here[key]:
                yield f"model.{part}_options.{key}: {there[key]} there, {here[key]} here"


def _misfits(wanted: Mapping, old: Mapping) -> Iterator[str]:
    for path, leaf in wanted.items():
        name = "/".join(path[1:])
        if path not in old:
            yield f"missing there: {name}"
        elif np.shape(old[path]) != np.shape(leaf):
            yield f"misshapen: {name} is {list(np.shape(old[path]))}, here {list(np.shape(leaf))}"
