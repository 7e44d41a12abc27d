"""Config -> objects with named arguments. Below this module nobody sees a config."""

import functools
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from lmkd import config as configs
from lmkd.core import plugins, schemes
from lmkd.core.errors import UserError
from lmkd.data import pipeline, preparation, reading, transforms
from lmkd.distill.recipe import Recipe, WeightedTerm, ramped
from lmkd.models import initialise, landmarker, layers, weights
from lmkd.ops import heatmaps
from lmkd.training import checkpoints, loop, optimisers, parallel, state, step

META_FORMAT = 1  # of what a checkpoint says of itself; raise it when `meta` changes its meaning


class Loaded(NamedTuple):
    """A trained landmarker from disk: the module, its variables, its scheme, and the meta it was saved with.

    `label` is "best" where a validation chose this step, "last" for the newest one, else "step N".
    """

    model: landmarker.Landmarker
    variables: dict[str, Any]
    scheme: schemes.Scheme
    config: ConfigDict
    meta: dict[str, Any]
    folder: Path
    label: str


def prepare_device(config: ConfigDict) -> None:
    """Switches the persistent compilation cache on, as the config says."""
    cache = config.runtime.compilation_cache
    if cache == "auto":  # JAX_COMPILATION_CACHE_DIR goes before the user's cache folder
        own = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lmkd" / "compiled"
        cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(own)
    if cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def prepare_data(config: ConfigDict) -> None:
    """Prepares the config's data sets that are not prepared yet and that can be: drawn ones, and ones in `manual_dirs`.

    Every split is then pinned to the preparation that is read ("the300w:train" becomes "the300w/complete:train"), so that
    the kept config says which data a run saw and a run never goes on with others.

    Raises:
      UserError: a set is missing and nothing says where its files are; the message has the command that prepares it.
    """
    pinned: dict[tuple[str, str | None], str] = {}
    data_dir = config.data.data_dir or None
    for name, config_name, _ in map(reading.parse, (*config.data.train, *config.data.validation, *config.data.test)):
        manual = config.data.manual_dirs.get(name, "")
        if (name, config_name) in pinned:
            continue
        if name == "synthetic_faces" or (manual and config_name is None):
            done = preparation.prepare(
                name,
                data_dir=data_dir,
                manual_dir=manual or None,
                partial=bool(config.data.partial and manual),
                config_name=config_name,
            )
            pinned[name, config_name] = done.config_name
        else:
            pinned[name, config_name] = preparation.locate(name, config_name, data_dir).builder_config.name
    for key in ("train", "validation", "test"):
        parts = map(reading.parse, config.data[key])
        config.data[key] = tuple(f"{name}/{pinned[name, config_name]}:{split}" for name, config_name, split in parts)


def records(config: ConfigDict, splits: tuple[str, ...]) -> reading.Records:
    """Opens splits as the config sees them."""
    return reading.open_splits(splits, data_dir=config.data.data_dir or None, scheme=config.scheme)


def model(stage: ConfigDict, config: ConfigDict, scheme: schemes.Scheme, *, axis_name: str | None = None):
    """Builds a stage's landmarker. `axis_name` synchronises its batch norms while training."""
    dtype = compute_dtype(config)
    norm = layers.batch_norm(momentum=stage.train.norm_momentum, axis_name=axis_name, dtype=dtype)
    shared = {"dtype": dtype, "norm": norm}
    backbone = plugins.resolve("lmkd.models", stage.model.backbone)
    head = plugins.resolve("lmkd.models", stage.model.head)
    sigma = config.heatmap.sigma_cells
    return landmarker.Landmarker(
        backbone=backbone(**stage.model.backbone_options, **shared),
        head=head(num_points=scheme.num_points, **stage.model.head_options, **shared),
        decode=functools.partial(getattr(heatmaps, config.heatmap.decoder), sigma_cells=sigma),
        softmax_sigma_cells=sigma if stage.model.heatmap_activation == "softmax" else None,
        dtype=dtype,
    )


def compute_dtype(config: ConfigDict) -> Any:
    """The compute type: bfloat16 on accelerators where the config leaves it open."""
    name = config.runtime.dtype
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name).type


def recipe(stage: ConfigDict, steps: Any) -> Recipe:
    """Builds a stage's recipe; `steps` turns a length into steps."""
    parts = []
    for name, term in stage.terms.items():
        built = plugins.resolve("lmkd.distill.terms", term.type)(**term.options)
        begin, ramp = steps(term.schedule.begin), steps(term.schedule.ramp)
        parts.append(WeightedTerm(name, built, ramped(float(term.weight), begin_step=begin, ramp_steps=ramp)))
    return Recipe(tuple(parts))


def augmentation(config: ConfigDict) -> transforms.Augmentation:
    """Builds the augmentation of training faces."""
    a = config.augment
    affine = transforms.Affine(a.scale, a.rotation_deg, a.rotation_p, a.shift, a.flip_p)
    c = a.colour
    return transforms.Augmentation(
        affine=affine,
        colour=transforms.Colour(c, c, c, c / 3, a.grey_p) if c or a.grey_p else None,
        blur=transforms.Blur(p=a.blur_p, noise_p=a.noise_p) if a.blur_p or a.noise_p else None,
        occlusion=transforms.Occlusion(a.occlusion_p, a.occlusion_size) if a.occlusion_p else None,
    )


def evaluation_batches(config: ConfigDict, source: reading.Records, unreadable: pipeline.Unreadable, *, crop: str):
    """Iterates once over a split, cut as protocol `crop` says, padded to whole batches."""
    make = transforms.MakeFace(source.scheme, config.data.image_px, transforms.CropProtocol(crop, config.data.crop_scale))
    devices = jax.device_count()
    return pipeline.evaluation_batches(
        source,
        make,
        batch_size=-(-config.evaluation.batch_size // devices) * devices,
        unreadable=unreadable,
        threads=config.data.threads,
        host=jax.process_index(),
        hosts=jax.process_count(),
    )


def predictor(net: landmarker.Landmarker, scheme: schemes.Scheme, *, flip_test: bool):
    """Returns (variables, batch) -> (landmarks_px [b, K, 2] in crop pixels, confidence [b, K]) over this host's devices."""
    flip = tuple(scheme.flip) if flip_test else None

    def predict(variables, image):
        return landmarker.predict(net, variables, image, flip_permutation=flip)[1:]

    mapped = parallel.map_predict(predict)

    def run(variables, batch):
        image = parallel.split_over_devices({"image": batch["image"]})["image"]
        return parallel.joined(mapped(variables, image))

    return run


class Stage(NamedTuple):
    """One stage, ready to train: what `training.loop.run` wants, and what the report tells of it."""

    net: landmarker.Landmarker
    scheme: schemes.Scheme
    arguments: dict[str, Any]
    unreadable: pipeline.Unreadable
    provenance: tuple[reading.Provenance, ...]


def stage(config: ConfigDict, name: str, folder: Path, validate_with: Any) -> Stage:
    """Builds the objects of one stage.

    Args:
      config: a checked config.
      name: one of config.stages.
      folder: the stage's folder.
      validate_with: (net, scheme, records) -> (variables -> NME in %), or None to validate nothing.
    """
    part = config.stage[name]
    train = part.train
    source = records(config, config.data.train)
    _divides(train.batch_size, train.micro_batches)

    def steps(text: str) -> int:
        return configs.length_in_steps(text, faces=len(source), batch_size=train.batch_size, where=name)

    axis = parallel.AXIS if train.sync_norm else None
    net = model(part, config, source.scheme, axis_name=axis)
    variables = _initial_variables(net, part, config)
    rate = optimisers.schedule(
        part.optimizer.schedule,
        learning_rate=part.optimizer.learning_rate,
        total_steps=steps(train.length),
        warmup_steps=steps(part.optimizer.warmup),
        boundaries=tuple(steps(b) for b in part.optimizer.boundaries),
        factor=part.optimizer.factor,
        final_fraction=part.optimizer.final_fraction,
    )
    optimizer = optimisers.optimiser(
        part.optimizer.name,
        rate,
        weight_decay=part.optimizer.weight_decay,
        clip_norm=part.optimizer.clip_norm,
        momentum=part.optimizer.momentum,
        b2=part.optimizer.b2,
    )
    options = step.StepOptions(
        sigma_cells=config.heatmap.sigma_cells,
        micro_batches=train.micro_batches,
        ema_decay=train.ema_decay,
        local_norm=not train.sync_norm,
    )
    train_step = step.make_train_step(net, recipe(part, steps), optimizer, rate, options)
    unreadable = pipeline.Unreadable(config.data.on_unreadable)
    crop = transforms.CropProtocol(config.data.crop, config.data.crop_scale)
    iterator = pipeline.training_batches(
        source,
        transforms.MakeFace(source.scheme, config.data.image_px, crop, augmentation(config)),
        batch_size=train.batch_size,
        seed=config.seed,
        unreadable=unreadable,
        threads=config.data.threads,
        host=jax.process_index(),
        hosts=jax.process_count(),
    )
    arguments = {
        "name": name,
        "folder": folder,
        "state": parallel.replicate(state.create(variables, optimizer, seed=config.seed, ema=train.ema_decay > 0)),
        "train_step": parallel.map_train_step(train_step),
        "iterator": iterator,
        "validate": validate_with(net, source.scheme) if config.data.validation else None,
        "meta": meta(config, name, source),
        "options": loop.LoopOptions(
            total_steps=steps(train.length),
            log_steps=steps(train.log_every),
            validate_steps=steps(train.validate_every),
            save_steps=steps(train.save_every),
            batch_size=train.batch_size,
            micro_batches=train.micro_batches,
        ),
        "notes": lambda: {"unreadable_records": len(found)} if (found := unreadable.keys()) else {},
    }
    return Stage(net, source.scheme, arguments, unreadable, source.provenance)


def meta(config: ConfigDict, name: str, source: reading.Records) -> dict[str, Any]:
    """What a checkpoint carries, so that its path is enough to use it."""
    return {
        "format": META_FORMAT,
        "stage": name,
        "config": json.loads(configs.to_json(config)),
        "scheme": json.loads(source.scheme.to_json()),
        "training_data": [p._asdict() for p in source.provenance],
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of what shapes a result, and the machine."""
    packages = (
        "lmkd",
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "orbax-checkpoint",
        "grain",
        "numpy",
        "opencv-python-headless",
    )
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed as a package"
    devices = jax.devices()
    found["devices"] = f"{len(devices)} x {devices[0].device_kind} ({jax.default_backend()})"
    found["machine"] = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return found


def load(path: str | Path, which: str = "best") -> Loaded:
    """Loads a trained landmarker from a workdir, a stage's folder or a step's folder; nothing else is needed."""
    folder = checkpoints.find_step(Path(path), which)
    variables, kept = checkpoints.load(folder)
    if kept.get("format") != META_FORMAT:
        raise UserError(f"{folder} was written in format {kept.get('format')}; this version reads {META_FORMAT}")
    config = configs.from_json(json.dumps(kept["config"]))
    scheme = schemes.from_json(json.dumps(kept["scheme"]))
    net = model(config.stage[kept["stage"]], config, scheme)
    return Loaded(net, variables, scheme, config, kept, folder, checkpoints.label(folder))


def training_data(loaded: Loaded) -> tuple[reading.Provenance, ...]:
    """What a loaded model was trained on."""
    return tuple(reading.Provenance(**p) for p in loaded.meta["training_data"])


def _initial_variables(net: landmarker.Landmarker, part: ConfigDict, config: ConfigDict) -> dict[str, Any]:
    variables = initialise.initial_variables(net, config.data.image_px, seed=config.seed)
    if part.model.weights:
        published = weights.load_state_dict(part.model.weights)
        variables = weights.convert(published, variables, backbone_only=part.model.weights_backbone_only)
    return jax.tree.map(np.asarray, dict(variables))


def _divides(batch_size: int, micro_batches: int) -> None:
    parts = jax.device_count() * micro_batches
    if batch_size % parts:
        raise UserError(
            f"train.batch_size: {batch_size} does not divide over {jax.device_count()} devices with {micro_batches} "
            f"micro_batches each. Take a multiple of {parts}."
        )
