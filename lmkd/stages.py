"""One stage of an experiment, built: its network, its teachers, its recipe, its data, ready for `training.loop.run`."""

import functools
import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from lmkd import build, kept_configs, pretrained, starting
from lmkd import config as configs
from lmkd.core import plugins
from lmkd.core.batch import empty_face
from lmkd.core.errors import UserError, report_together
from lmkd.core.schemes import Scheme
from lmkd.data import pipeline, reading, smoothing, transforms
from lmkd.distill.base import TermInputs, TermVariables
from lmkd.distill.recipe import Recipe, Schedule, WeightedTerm
from lmkd.distill.teachers import Teacher, look, seen_at
from lmkd.models import initialise, landmarker
from lmkd.training import checkpoints, loop, parallel, shares, state, step, watch


class Stage(NamedTuple):
    """One stage, ready to train: what `training.loop.run` wants, and what the report tells of it."""

    net: landmarker.Landmarker
    image_px: int
    scheme: Scheme
    arguments: dict[str, Any]
    unreadable: pipeline.Unreadable
    watch: watch.CriticWatch
    provenance: tuple[reading.Provenance, ...]


class Training(NamedTuple):
    """What a stage trains and how, without its data.

    Attributes:
      net: the network; `options.image_px` is the side of its input.
      crop_px: side of the crops that the step gets.
      recipe, rate, optimizers, options: what `step.make_train_step` takes.
      networks, frozen: the teachers that a term looks at and their variables, by name.
      first: the state before the first step, of NumPy arrays as far as it was drawn.
      parallel: the parallel map, one of `parallel.KINDS`.
    """

    net: landmarker.Landmarker
    crop_px: int
    recipe: Recipe
    rate: Callable
    optimizers: state.Optimizers
    options: step.StepOptions
    networks: dict[str, Teacher]
    frozen: dict[str, Any]
    first: state.TrainState
    parallel: str = "pmap"

    def train_step(self) -> Callable[..., Any]:
        """THE step, of one device among those of `parallel.AXIS`."""
        return step.make_train_step(self.net, self.recipe, self.optimizers, self.rate, self.options, self.networks)

    def trainer(self) -> shares.Trainer:
        """The step mapped over devices, with the teachers bound."""
        return shares.Trainer(self.train_step(), frozen=self.frozen, terms=self.recipe.names, kind=self.parallel)


Sources = Mapping[str, build.Loaded]  # teachers by their name in the stage


def load_teachers(config: ConfigDict, name: str, workdir: Path) -> dict[str, build.Loaded]:
    """Loads a stage's teachers: stages of this experiment from `workdir`, or any path of a trained model.

    Raises:
      UserError: one is missing or does not fit the stage; all problems in one message.
    """
    part, problems, found = config.stage[name], [], {}
    for teacher, place in sorted(part.teachers.items()):
        where = f"config.stage.{name}.teachers.{teacher}={place}"
        if place in config.stage and not (workdir / place / "finished.json").is_file():
            others = ", ".join(config.stages)
            problems.append(
                f"{where}: stage {place} is not finished in {workdir}. Train it first (--config.stages={place}, the same "
                f"--workdir), or put it before {name} in config.stages ({others}), or name a trained model's folder."
            )
            continue
        try:
            path = workdir / place if place in config.stage else pretrained.resolve(place)
            found[teacher] = _loaded(checkpoints.find_step(path, part.teacher_which))
        except UserError as error:
            problems.append(f"{where}: {error}")
    report_together(problems, f"stage {name} lacks teachers")
    return found


@functools.lru_cache(maxsize=4)  # the students of an ablation share their teachers
def _loaded(step_folder: Path) -> build.Loaded:
    return build.load(step_folder)


def check_fit(config: ConfigDict, name: str, scheme: Scheme, teachers: Sources) -> None:
    """Refuses teachers that do not see or draw what the stage's network does.

    Raises:
      UserError: another scheme, crop or heatmap geometry; all in one message.
    """
    part, problems = config.stage[name], []
    share = build.sigma_cells(part, config) / build.image_px(part, config)
    for teacher, loaded in teachers.items():
        where = f"teacher {teacher} ({loaded.folder})"
        if loaded.scheme.to_json() != scheme.to_json():
            problems.append(
                f"{where} predicts scheme {loaded.scheme.name!r} ({loaded.scheme.num_points} points), the data are in "
                f"{scheme.name!r} ({scheme.num_points} points). Set config.scheme, or take a teacher of that scheme."
            )
        for key in ("crop", "crop_scale"):
            if loaded.config.data[key] != config.data[key]:
                problems.append(f"{where}: data.{key} was {loaded.config.data[key]!r}, here it is {config.data[key]!r}")
        theirs = build.sigma_cells(loaded.stage, loaded.config) / loaded.image_px
        if abs(theirs / share - 1) > 0.01:
            fitting = theirs * build.image_px(part, config)
            problems.append(
                f"{where} draws Gaussians of sigma {100 * theirs:.3g} % of the crop ({loaded.image_px} px), this stage's "
                f"targets have {100 * share:.3g} %. Set config.stage.{name}.model.sigma_cells={fitting:.4g}."
            )
    report_together(problems, f"a teacher does not fit stage {name}")


def identities(teachers: Sources) -> dict[str, dict[str, Any]]:
    """Says which weights each teacher has: where they came from, their step, and a checksum of every parameter."""
    return {
        name: {"folder": str(loaded.folder), "step": loaded.folder.name, "checksum": checksum(loaded.variables)}
        for name, loaded in teachers.items()
    }


def changed_teachers(folder: Path, teachers: Sources) -> list[str]:
    """Lists the teachers whose weights are not those that the stage in `folder` was trained under, as far as it was."""
    finished = folder / "finished.json"
    if finished.is_file():
        before = json.loads(finished.read_text()).get("teachers", {})
    else:
        try:
            before = checkpoints.load_meta(checkpoints.find_step(folder, "latest")).get("teachers", {})
        except UserError:
            return []
    now = identities(teachers)
    return [
        f"teacher {name}: {kept['checksum']} (step {kept['step']}) -> {now[name]['checksum']} (step {now[name]['step']})"
        for name, kept in sorted(before.items())
        if name in now and now[name]["checksum"] != kept["checksum"]
    ]


def checksum(variables: Any) -> str:
    """A CRC-32 over names and values of a pytree of dicts; equal weights have equal ones."""
    total = 0
    for path, value in jax.tree_util.tree_leaves_with_path(variables):
        total = zlib.crc32(jax.tree_util.keystr(path).encode(), total)
        total = zlib.crc32(np.ascontiguousarray(value).tobytes(), total)
    return f"{total:08x}"


def recipe(part: ConfigDict, steps: Callable[[str], int]) -> Recipe:
    """Builds a stage's recipe; `steps` turns a length into steps."""
    terms = []
    for name, term in part.terms.items():
        built = plugins.resolve("lmkd.distill.terms", term.type)(**term.options)
        when = Schedule(
            weight=float(term.weight),
            begin=steps(term.schedule.begin),
            ramp=steps(term.schedule.ramp),
            decay_every=steps(term.schedule.decay_every),
            decay_factor=float(term.schedule.decay_factor),
        )
        terms.append(WeightedTerm(name, built, when, configs.teachers_of(part, term, built)))
    return Recipe(tuple(terms))


def stage(config: ConfigDict, name: str, folder: Path, validate_with: Any, teachers: Sources) -> Stage:
    """Builds the objects of one stage.

    Args:
      config: a checked config.
      name: one of config.stages.
      folder: the stage's folder.
      validate_with: (net, image_px, scheme) -> (variables -> NME in %).
      teachers: `load_teachers`'.
    """
    part = config.stage[name]
    train = part.train
    source = build.training_records(config, part)

    def steps(text: str) -> int:
        return configs.length_in_steps(text, faces=len(source), batch_size=train.batch_size, where=name)

    built = training(config, name, source.scheme, teachers, steps)
    side, terms = built.options.image_px, built.recipe
    unreadable = pipeline.Unreadable(config.data.on_unreadable)
    watched = watch.CriticWatch(steps(part.critics.patience), awake_from={t.name: t.schedule.begin for t in terms.with_critic})
    arguments = {
        "name": name,
        "folder": folder,
        "state": parallel.replicate(built.first),
        "train_step": built.trainer(),
        "iterator": training_batches(config, name, source, unreadable, built.crop_px),
        "validate": validate_with(built.net, side, source.scheme) if config.data.validation and part.scored else None,
        "meta": meta(config, name, source, teachers),
        "options": loop.LoopOptions(
            total_steps=steps(train.length),
            log_steps=steps(train.log_every),
            validate_steps=steps(train.validate_every),
            save_steps=steps(train.save_every),
            stall_seconds=config.runtime.stall_seconds,
            go_on_unsaved=train.on_save_error == "go_on",
            batch_size=train.batch_size,
            micro_batches=train.micro_batches,
            share_steps=steps(train.shares_every) if len(terms.terms) > 1 else 0,
        ),
        "notes": lambda: {"unreadable_records": len(found)} if (found := unreadable.keys()) else {},
        "watch": watched,
    }
    return Stage(built.net, side, source.scheme, arguments, unreadable, watched, source.provenance)


def training(config: ConfigDict, name: str, scheme: Scheme, teachers: Sources, steps: Callable[[str], int]) -> Training:
    """Builds what a stage trains and how; no data set is opened. `steps` turns a length into steps.

    Raises:
      UserError: a teacher does not fit, or the batch does not divide over the devices.
    """
    check_fit(config, name, scheme, teachers)
    part, train = config.stage[name], config.stage[name].train
    _divides(train.batch_size, train.micro_batches)
    terms = recipe(part, steps)
    speaking = {teacher for term in terms.terms for teacher in term.teachers}  # the others gave first weights, and are done
    heard = {key: loaded for key, loaded in teachers.items() if key in speaking}
    seed, crop_px = configs.seed_of(config, name), crop_side(config, name, heard)
    net = build.model(part, config, scheme, axis_name=parallel.AXIS if train.sync_norm else None)
    options = step.StepOptions(
        sigma_cells=build.sigma_cells(part, config),
        image_px=build.image_px(part, config),
        micro_batches=train.micro_batches,
        ema_decay=train.ema_decay,
        local_norm=not train.sync_norm,
        critic_steps=part.critics.steps,
        attacks=step.Attacks(**train.attacks) if train.attacks.share else None,
    )
    rate, optimizers = build.optimizers(part, steps)
    networks = {key: Teacher(loaded.model, loaded.image_px) for key, loaded in heard.items()}
    frozen = {key: loaded.variables for key, loaded in heard.items()}
    variables = starting.first_variables(net, part, build.image_px(part, config), seed, teachers)
    owned = _first_term_variables(net, terms, variables, networks, frozen, scheme, options, crop_px, seed)
    first = state.create(variables, optimizers, seed=seed, ema=train.ema_decay > 0, terms=owned)
    kind = config.runtime.parallel
    return Training(net, crop_px, terms, rate, optimizers, options, networks, frozen, first, kind)


def crop_side(config: ConfigDict, name: str, teachers: Sources) -> int:
    """Side at which training crops are cut: the largest input of the stage's network and its teachers."""
    return max(build.image_px(config.stage[name], config), *(t.image_px for t in teachers.values()), 0)


def meta(config: ConfigDict, name: str, source: reading.Records, teachers: Sources) -> dict[str, Any]:
    """What a checkpoint carries, so that its path is enough to use it."""
    return {
        "format": build.META_FORMAT,
        "stage": name,
        "config": json.loads(kept_configs.to_json(config)),
        "scheme": json.loads(source.scheme.to_json()),
        "training_data": [p._asdict() for p in source.provenance],
        "teachers": identities(teachers),
        "versions": build.versions(),
    }


def training_batches(config: ConfigDict, name: str, source: reading.Records, unreadable: pipeline.Unreadable, crop_px: int):
    """Returns a stage's endless, resumable iterator over batches of `source`, cut to `crop_px`: this host's share of each."""
    return pipeline.training_batches(
        source,
        face_maker(config, name, source, unreadable, crop_px),
        batch_size=config.stage[name].train.batch_size,
        seed=configs.seed_of(config, name),
        unreadable=unreadable,
        threads=config.data.threads,
        keep_mb=config.data.keep_decoded_mb,
        host=jax.process_index(),
        hosts=jax.process_count(),
    )


def face_maker(config: ConfigDict, name: str, source: reading.Records, unreadable: pipeline.Unreadable, crop_px: int):
    """Returns what makes a stage's training faces."""
    crop, shape_model = transforms.CropProtocol(config.data.crop, config.data.crop_scale), None
    if share := config.stage[name].train.smooth_points:
        labelled = (record for record in pipeline.readable(source, unreadable) if record.labelled)
        shape_model = smoothing.fit(np.stack([record.landmarks_px for record in labelled]), share=share)
    return transforms.MakeFace(source.scheme, crop_px, crop, build.augmentation(config), shape_model=shape_model)


def _first_term_variables(
    net, terms: Recipe, variables, networks, frozen, scheme: Scheme, options: step.StepOptions, crop_px: int, seed: int
) -> dict[str, TermVariables]:
    """Draws the variables of the terms.

    Every loss is traced on the way, so that a tap that is not there is told here; a network without teachers and critics is
    traced by its first step soon enough.
    """
    if not networks and not terms.own_variables:
        return {}

    def one_face(variables, frozen):
        face = empty_face(crop_px, scheme.num_points, 0)
        crops = {key: jnp.asarray(value)[None] for key, value in face.items()}
        return terms_see(net, networks, options, variables, frozen, crops)

    inputs = _shapes(one_face, variables, frozen)  # the networks are traced once for both of these:
    shapes = _shapes(lambda i: terms.init(jax.random.key(0), i._replace(stride=net.stride)), inputs)
    plain = initialise.drawn({name: own._asdict() for name, own in shapes.items()}, seed=seed)
    owned = {name: TermVariables(**own) for name, own in plain.items()}
    ones = np.ones(len(terms.terms), np.float32)
    _shapes(lambda i, t: terms.sums(i._replace(stride=net.stride), t, 0, ones)[0], inputs, owned)
    return owned


def terms_see(net, networks: Mapping[str, Teacher], options: step.StepOptions, variables, frozen, crops) -> TermInputs:
    """Runs the network, in evaluation mode, and its teachers on a batch of crops, and gathers what terms look at."""
    seen = seen_at(crops, options.image_px)
    outputs: Any = net.apply(variables, seen["image"], train=False)
    taught = look(networks, frozen, crops["image"], grid=outputs.heatmaps.shape[1:3], student_px=options.image_px)
    return step.term_inputs(
        outputs, seen, sigma_cells=options.sigma_cells, stride=net.stride, key=jax.random.key(0), teachers=taught
    )


def _shapes(function: Callable, *arguments: Any) -> Any:
    """Shapes of what a function returns inside the parallel map, where the axis has a name; nothing is computed."""
    mapped = jax.vmap(function, in_axes=None, axis_size=1, axis_name=parallel.AXIS)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), jax.eval_shape(mapped, *arguments))


def _divides(batch_size: int, micro_batches: int) -> None:
    parts = jax.device_count() * micro_batches
    if batch_size % parts:
        raise UserError(
            f"train.batch_size: {batch_size} does not divide over {jax.device_count()} devices with {micro_batches} "
            f"micro_batches each. Take a multiple of {parts}."
        )
