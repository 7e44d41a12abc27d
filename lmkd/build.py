"""Config -> objects with named arguments. Below this module nobody sees a config."""

import functools
import gc
import json
import os
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from lmkd import config as configs
from lmkd import kept_configs, pretrained
from lmkd.core import plugins, schemes
from lmkd.core.errors import UserError, unknown
from lmkd.data import pipeline, preparation, reading, transforms
from lmkd.data.corruptions import Corruption
from lmkd.models import initialise, landmarker, layers, readout
from lmkd.ops import heatmaps
from lmkd.training import checkpoints, optimisers, parallel, state

# Python's default is 700. A large network's trace is millions of objects that all stay, and looking them through again and
# again took a fifth of its time.
OBJECTS_BETWEEN_COLLECTIONS = 10_000
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

    @property
    def stage(self) -> ConfigDict:
        """The config of the stage that trained it."""
        return self.config.stage[self.meta["stage"]]

    @property
    def image_px(self) -> int:
        """Side of its input."""
        return image_px(self.stage, self.config)

    @property
    def step(self) -> int | None:
        """The training step, None where unknown."""
        return int(self.folder.name) if self.folder.name.isdigit() else self.meta.get("exported", {}).get("step")

    def in_float32(self) -> "Loaded":
        """The same network with float32 as its compute type, whatever the machine's is."""
        config = self.config.copy_and_resolve_references()
        config.runtime.dtype = "float32"
        return self._replace(model=model(self.stage, config, self.scheme), config=config)

    @property
    def decoder(self) -> str:
        """What reads its points off its heatmaps; "" where it gives points by itself."""
        return decoder(self.stage, self.config) if isinstance(self.model.readout, readout.Heatmaps) else ""

    def read_by(self, name: str) -> "Loaded":
        """The same network, its points read off its heatmaps by another function of `lmkd.ops.heatmaps`.

        Raises:
          UserError: there is no such decoder, or the network gives points and no heatmaps.
        """
        check_decoder(name)
        if not self.decoder:
            raise UserError(f"--decoder={name}: {self.folder} gives points, no heatmaps that they could be read from")
        config = self.config.copy_and_resolve_references()
        stage = config.stage[self.meta["stage"]]
        stage.model.decoder = name
        return self._replace(model=model(stage, config, self.scheme), config=config)


def prepare_device(config: ConfigDict) -> None:
    """Switches the persistent compilation cache on, as the config says, and lets Python trace large networks undisturbed."""
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
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
    lists = [(part, key) for _, part, key in configs.split_lists(config, config.stages)]
    for name, config_name, _ in (reading.parse(split) for part, key in lists for split in part[key]):
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
    for part, key in lists:
        parts = map(reading.parse, part[key])
        part[key] = tuple(f"{name}/{pinned[name, config_name]}:{split}" for name, config_name, split in parts)


def records(config: ConfigDict, splits: tuple[str, ...]) -> reading.Records:
    """Opens splits as the config sees them."""
    return reading.open_splits(splits, data_dir=config.data.data_dir or None, scheme=config.scheme)


def training_records(config: ConfigDict, stage: ConfigDict) -> reading.Records:
    """Opens what a stage learns from: its own splits or else the experiment's, then its faces without labels."""
    return reading.open_splits(
        stage.train.splits or config.data.train,
        unlabelled=stage.train.unlabelled,
        data_dir=config.data.data_dir or None,
        scheme=config.scheme,
    )


def model(stage: ConfigDict, config: ConfigDict, scheme: schemes.Scheme, *, axis_name: str | None = None):
    """Builds a stage's landmarker. `axis_name` synchronises its batch norms while training."""
    dtype = compute_dtype(config)
    norm = layers.batch_norm(momentum=stage.train.norm_momentum, axis_name=axis_name, dtype=dtype)
    shared = {"dtype": dtype, "norm": norm}
    backbone, head = _network(stage.model.backbone, "backbone"), _network(stage.model.head, "head")
    sigma = sigma_cells(stage, config)
    return landmarker.Landmarker(
        backbone=backbone(**stage.model.backbone_options, **shared),
        head=head(num_points=scheme.num_points, **stage.model.head_options, **shared),
        readout=head.readout.of(
            sigma_cells=sigma,
            decode=functools.partial(getattr(heatmaps, decoder(stage, config)), sigma_cells=sigma),
            softmax=stage.model.heatmap_activation == "softmax",
        ),
        colour=stage.model.colour,
        frozen=tuple(stage.model.frozen),
        dtype=dtype,
    )


def _network(name: str, kind: str) -> Any:
    """The class of that name. A checkpoint's config may be a stranger's: nothing but a network's class is called."""
    found = plugins.resolve("lmkd.models", name, kind=kind)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise UserError(f"{kind} {name!r} is no flax.linen.Module")
    return found


def decoder(stage: ConfigDict, config: ConfigDict) -> str:
    """What reads a stage's points off its heatmaps: its own decoder, or else that of the experiment."""
    return stage.model.decoder or config.heatmap.decoder


def check_decoder(name: str) -> None:
    """Raises UserError where `lmkd.ops.heatmaps` has no decoder of this name."""
    if name not in heatmaps.ROUND_TRIP_CELLS:
        raise unknown("decoder", name, heatmaps.ROUND_TRIP_CELLS, "--decoder")


def image_px(stage: ConfigDict, config: ConfigDict) -> int:
    """Side of a stage's input: its own, or else that of the experiment."""
    return stage.model.image_px or config.data.image_px


def sigma_cells(stage: ConfigDict, config: ConfigDict) -> float:
    """Sigma of a stage's targets, in its heatmaps' cells: its own, or else that of the experiment."""
    return stage.model.sigma_cells or config.heatmap.sigma_cells


def compute_dtype(config: ConfigDict) -> Any:
    """The compute type: bfloat16 on accelerators where the config leaves it open."""
    name = config.runtime.dtype
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name).type


def optimizers(stage: ConfigDict, steps: Callable[[str], int]) -> tuple[Callable, state.Optimizers]:
    """Builds the student's learning rate and a transform for each group; `steps` turns a length into steps."""
    o, c = stage.optimizer, stage.critics
    shape = {
        "total_steps": steps(stage.train.length),
        "warmup_steps": steps(o.warmup),
        "boundaries": tuple(steps(b) for b in o.boundaries),
        "factor": o.factor,
        "final_fraction": o.final_fraction,
    }

    def transform(rate):
        return optimisers.optimiser(
            o.name, rate, weight_decay=o.weight_decay, clip_norm=o.clip_norm, momentum=o.momentum, b2=o.b2
        )

    rate = optimisers.schedule(o.schedule, learning_rate=o.learning_rate, **shape)
    adapters = optimisers.schedule(o.schedule, learning_rate=o.learning_rate * o.adapter_factor, **shape)
    critics = optimisers.optimiser(
        "adam", lambda _: c.learning_rate, weight_decay=0.0, clip_norm=c.clip_norm, momentum=c.momentum, b2=c.b2
    )
    student = optimisers.sparing(transform(rate), tuple(stage.model.frozen))
    return rate, state.Optimizers(student, transform(adapters), critics)


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


def evaluation_batches(
    config: ConfigDict,
    source: reading.Records,
    unreadable: pipeline.Unreadable,
    *,
    crop: str,
    image_px: int,
    corruption: Corruption | None = None,
):
    """Iterates once over a split, cut to `image_px` as protocol `crop` says, corrupted or not, padded to whole batches."""
    protocol = transforms.CropProtocol(crop, config.data.crop_scale)
    make = transforms.MakeFace(source.scheme, image_px, protocol, corruption=corruption)
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
    """Loads a trained landmarker from a workdir, a stage's folder or a step's folder, which an Orbax export is too;
    or a pretrained one by its name.

    Raises:
      UserError: there is none, it is damaged, of another format, or its tensors do not fit its own network.
    """
    folder = checkpoints.find_step(pretrained.resolve(path), which)
    kept = checkpoints.load_meta(folder)
    if kept.get("format") != META_FORMAT:
        raise UserError(
            f"checkpoint {folder} was written in format {kept.get('format')}, this version of lmkd reads {META_FORMAT}: "
            f"take the version that wrote it ({(kept.get('versions') or {}).get('lmkd', 'not told')}) or another checkpoint"
        )
    try:
        config = kept_configs.completed(kept_configs.from_json(json.dumps(kept["config"])))
        scheme = schemes.from_json(json.dumps(kept["scheme"]))
        net = model(config.stage[kept["stage"]], config, scheme)
        needed = initialise.shapes(net, image_px(config.stage[kept["stage"]], config))
        label = kept.get("exported", {}).get("label") or checkpoints.label(folder)
    except Exception as error:  # what is kept may be a stranger's: anything may be missing, or of another kind
        told = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        raise UserError(f"checkpoint {folder}: its `meta` describes no network that can be built: {told}") from error
    return Loaded(net, checkpoints.load(folder, needed)[0], scheme, config, kept, folder, label)


def training_data(loaded: Loaded) -> tuple[reading.Provenance, ...]:
    """What a loaded model was trained on."""
    return tuple(reading.Provenance(**p) for p in loaded.meta["training_data"])
