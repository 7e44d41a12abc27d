"""What is measured without data: networks freshly drawn, crops of noise, a batch and a step that lie on the devices.

No time depends on weights or pictures, so nothing has to be trained or prepared.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from lmkd import build, stages
from lmkd import config as configs
from lmkd.core import schemes
from lmkd.core.batch import empty_face
from lmkd.core.errors import UserError, unknown
from lmkd.data import preparation, reading
from lmkd.models import initialise
from lmkd.training import parallel

FACES = 10_000  # lengths in epochs become steps as if the data had so many; no time depends on it


def chosen(config: ConfigDict, stage: str) -> list[str]:
    """Checks a config, and returns the stages to measure: the one that --stage names, or all of config.stages.

    Raises:
      UserError: the config cannot run, or has no such stage.
    """
    configs.check(config)
    if stage and stage not in config.stages:
        raise unknown("stage", stage, config.stages, "--stage")
    return [stage] if stage else list(config.stages)


def chosen_whole(config: ConfigDict, stage: str) -> str:
    """The last of the chosen stages, checked: its batch is one piece, so that its size is what is measured.

    Raises:
      UserError: as `chosen`, or it has micro-batches.
    """
    name = chosen(config, stage)[-1]
    if config.stage[name].train.micro_batches > 1:
        raise UserError(f"config.stage.{name}.train.micro_batches: set it to 1, so that a batch is one piece")
    return name


def untrained(config: ConfigDict, stage: str, scheme: schemes.Scheme) -> build.Loaded:
    """A stage's network with freshly drawn weights, as if it had been loaded."""
    net, side = build.model(config.stage[stage], config, scheme), build.image_px(config.stage[stage], config)
    variables = initialise.initial_variables(net, side, seed=configs.seed_of(config, stage))
    return build.Loaded(net, variables, scheme, config, {"stage": stage, "training_data": []}, Path(stage), "drawn")


def drawn(config: ConfigDict, name: str) -> stages.Training:
    """Builds a stage with freshly drawn weights; a teacher that is another stage is drawn too, a path is loaded."""
    scheme, part = declared_scheme(config), config.stage[name]
    teachers = {}
    for teacher, place in sorted(part.teachers.items()):
        if place in config.stage:
            teachers[teacher] = untrained(config, place, scheme)
        else:
            teachers[teacher] = build.load(place, part.teacher_which)

    def steps(text: str) -> int:
        return configs.length_in_steps(text, faces=FACES, batch_size=part.train.batch_size, where=name)

    return stages.training(config, name, scheme, teachers, steps)


def declared_scheme(config: ConfigDict) -> schemes.Scheme:
    """The scheme of the training faces, as their builder declares it: no prepared data are opened."""
    if config.scheme:
        return schemes.get(config.scheme)
    name, config_name, _ = reading.parse(config.data.train[0])
    cls: Any = preparation.builder_class(name)
    named = [c for c in cls.BUILDER_CONFIGS if c.name == config_name] or cls.BUILDER_CONFIGS[:1]
    declared = getattr(cls, "SCHEME", None) or next((getattr(c, "scheme", None) for c in named), None)
    if declared is None:
        raise UserError(f"data set {name} has a scheme of its own in each folder; name one with --config.scheme=300w68")
    return schemes.get(declared) if isinstance(declared, str) else declared


def num_points(training: stages.Training) -> int:
    """K of the stage's network."""
    return training.net.head.num_points  # type: ignore[attr-defined]


def crops_of_noise(batch_size: int, crop_px: int, num_points: int) -> dict[str, np.ndarray]:
    """A batch of noise with points all over it, every face and point counting."""
    rng = np.random.default_rng(0)
    face = empty_face(crop_px, num_points, 0)
    batch = {name: np.repeat(value[None], batch_size, axis=0) for name, value in face.items()}
    batch["image"] = rng.integers(0, 256, batch["image"].shape, np.uint8)
    batch["landmarks_px"] = rng.uniform(0, crop_px - 1, batch["landmarks_px"].shape).astype(np.float32)
    return batch | {"visible": np.ones_like(batch["visible"]), "mask": np.ones_like(batch["mask"])}


def on_devices(tree: Any) -> Any:
    """Puts a batch where the mapped programs want it, so that no timed call moves it there."""
    leaves, structure = jax.tree.flatten(tree)
    split = parallel.split_over_devices({str(n): leaf for n, leaf in enumerate(leaves)})
    _, share_out = parallel.rows_over_devices(())
    return jax.tree.unflatten(structure, [share_out(split[str(n)]) for n in range(len(leaves))])


def stepping(step: Callable, first: Any, batch: Any) -> Callable[[], Any]:
    """Returns a call that makes one step from wherever the one before has come."""
    kept = [parallel.replicate(first)]

    def call():
        kept[0], metrics = step(kept[0], batch)
        return kept[0], metrics

    return call


class CompiledStep(NamedTuple):
    """A stage's step, compiled: `call` makes one more step; what the compiler says of it, 0 where it says nothing.

    Attributes:
      flops: floating-point operations of a step on one device.
      bytes_accessed: bytes that its operations read and write, as if nothing stayed in a cache.
      peak_bytes: state, teachers, batch and everything that is alive beside them, on one device.
    """

    call: Callable[[], Any]
    flops: float
    bytes_accessed: float
    peak_bytes: int


def compiled_step(training: stages.Training, batch_size: int) -> CompiledStep:
    """Compiles the step that trains, under `pmap`, for a batch of noise."""
    trainer = training._replace(parallel="pmap").trainer()
    batch = on_devices(crops_of_noise(batch_size, training.crop_px, num_points(training)))
    mapped: Any = trainer.mapped
    compiled = mapped.lower(*trainer.arguments(parallel.replicate(training.first), batch)).compile()
    cost, memory = compiled.cost_analysis() or {}, compiled.memory_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    sizes = ("argument_size_in_bytes", "output_size_in_bytes", "temp_size_in_bytes")
    peak = sum(getattr(memory, size, 0) for size in sizes) - getattr(memory, "alias_size_in_bytes", 0)
    call = stepping(lambda state, batch: compiled(*trainer.arguments(state, batch)), training.first, batch)
    return CompiledStep(call, float(cost.get("flops", 0.0)), float(cost.get("bytes accessed", 0.0)), int(peak))
