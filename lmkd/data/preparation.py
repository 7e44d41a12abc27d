"""Preparing data sets as ArrayRecord, and finding what is prepared.

    prepared = prepare("the300w", manual_dir="~/300w", partial=True)
    builder = locate("the300w")                      # needs neither manual_dir nor TensorFlow
    source = builder.as_data_source(split="train", decoders={"image": tfds.decode.SkipDecoding()})

A data set lies in DATA_DIR/NAME/CONFIG/VERSION. A complete one has the config `complete`; a partial one carries the
content hash of its folder, `partial_<10 hex>`, so that no older preparation is taken for it.
"""

import contextlib
import importlib
import io
import pkgutil
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds
from absl import logging

from lmkd.core import schemes
from lmkd.core.errors import UserError, report_together, unknown

PACKAGE = "lmkd.data_builders"
METADATA = ("scheme", "subset_flags", "published", "missing", "licence")  # what is read of a preparation's description


class Prepared(NamedTuple):
    """A prepared data set.

    Attributes:
      name: the data set.
      config_name: its config ("complete", "partial_<hash>", "tree_<hash>", or one that the data set names).
      path: the version's folder, for `tfds.builder_from_directory`.
      found: split -> faces.
      published: split -> faces of the published set (splits without a published count are left out).
      missing: what a partial folder lacks, in words; "" for a complete one.
      reused: True where it was prepared already.
    """

    name: str
    config_name: str
    path: Path
    found: dict[str, int]
    published: dict[str, int]
    missing: str
    reused: bool


def names() -> list[str]:
    """Returns the data sets that can be prepared."""
    package = importlib.import_module(PACKAGE)
    return sorted(info.name for info in pkgutil.iter_modules(package.__path__) if info.ispkg)


def builder_class(name: str) -> type[tfds.core.GeneratorBasedBuilder]:
    """Returns the TFDS builder class of the data set `name`.

    Raises:
      UserError: no such data set.
    """
    if name not in names():
        raise unknown("data set", name, names())
    return importlib.import_module(f"{PACKAGE}.{name}.{name}_dataset_builder").Builder


def prepare(
    name: str,
    *,
    data_dir: str | Path | None = None,
    manual_dir: str | Path | None = None,
    partial: bool = False,
    config_name: str | None = None,
    options: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Prepared:
    """Prepares a data set, unless it is prepared already.

    Args:
      name: the data set.
      data_dir: where prepared data sets live; None for TFDS's own default.
      manual_dir: the folder with the data set's files. A complete preparation is reused without reading it.
      partial: accept an incomplete folder. It is read again each time, to see whether it has changed.
      config_name: a config of a data set that names its own (synthetic_faces).
      options: what the builder takes besides (own_faces).
      progress: show bars, on a terminal.

    Raises:
      UserError: everything that is wrong with the request or the folder; nothing is left in `data_dir` then.
    """
    cls, root = builder_class(name), _root(data_dir)
    if not hasattr(cls, "scan"):
        return _prepare_drawn(cls, root, config_name, progress)
    if config_name and config_name != "complete":
        raise UserError(f"{name}/{config_name}: the config of this data set is named by its content; leave it out")
    if not (partial or cls.NAMED_BY_CONTENT):
        if _is_prepared(path := _version_dir(root, cls, "complete")):
            return _described(cls, path, reused=True)
    if manual_dir is None:
        if not hasattr(cls, "URL"):
            raise UserError(f"{name} needs --manual_dir. {cls.MANUAL_DOWNLOAD_INSTRUCTIONS or ''}".strip())
        if partial:
            raise UserError(f"{name}: --partial is for a folder; give --manual_dir")
        return _write(cls, root, "complete", download_dir=root / "downloads", progress=progress)
    tree = cls.scan(manual_dir, partial=partial, options=options, progress=progress and sys.stderr.isatty())
    config = cls.config_for(tree, options)
    if _is_prepared(path := _version_dir(root, cls, config.name)):
        return _described(cls, path, reused=True)
    return _write(cls, root, config, tree=tree, progress=progress)


def locate(name: str, config_name: str | None = None, data_dir: str | Path | None = None) -> tfds.core.DatasetBuilder:
    """Returns a builder, ready for `as_data_source`, of a prepared data set.

    Args:
      name: the data set, or "NAME/CONFIG".
      config_name: None for the complete preparation, or else the only other one there is.
      data_dir: as for `prepare`.

    Raises:
      UserError: not prepared (the message has the command that prepares it), or several to choose from.
    """
    name, _, in_name = name.partition("/")
    config_name = config_name or in_name or None
    cls, root = builder_class(name), _root(data_dir)
    prepared = [p.name for p in sorted((root / name).glob("*")) if _is_prepared(_version_dir(root, cls, p.name))]
    wanted = config_name or _default_config(cls)
    if wanted in prepared:
        return _opened(_version_dir(root, cls, wanted))
    others = prepared if config_name is None and hasattr(cls, "scan") else []
    if len(others) == 1:
        return _opened(_version_dir(root, cls, others[0]))
    if others:
        raise UserError(
            f"data set {name!r} has several preparations in {root / name}: {', '.join(others)}. "
            f"Name one, such as {name}/{others[0]!s}."
        )
    there = f" Prepared there: {', '.join(f'{name}/{p}' for p in prepared)}." if prepared else ""
    raise UserError(
        f"data set {name + (f'/{config_name}' if config_name else '')!r} (version {cls.VERSION}) is not prepared in "
        f"{root}.{there} Prepare it with:\n  {command(name, config_name, data_dir)}"
    )


def command(name: str, config_name: str | None = None, data_dir: str | Path | None = None) -> str:
    """Returns the command line that prepares a data set."""
    cls = builder_class(name)
    folder, named = hasattr(cls, "scan"), config_name and not hasattr(cls, "scan")
    parts = [f"python -m lmkd.prepare --dataset={name}{f'/{config_name}' if named else ''}"]
    parts += ["--manual_dir=FOLDER"] if folder and not hasattr(cls, "URL") else []
    parts += ["--manual_dir=FOLDER --partial"] if folder and hasattr(cls, "URL") and config_name else []
    parts += ["--partial"] if folder and not hasattr(cls, "URL") and (config_name or "").startswith("partial") else []
    return " ".join(parts + ([f"--data_dir={data_dir}"] if data_dir else []))


def damaged(path: Any) -> str:
    """Returns what to say of a prepared data set whose files in `path` are damaged, and how to mend it."""
    return f"the prepared data set in {path} is damaged; remove that folder and prepare it again with `python -m lmkd.prepare`"


def _opened(path: Path) -> tfds.core.DatasetBuilder:
    """Opens a preparation and checks that its description is whole."""
    try:
        builder = tfds.builder_from_directory(path)
        meta = builder.info.metadata
        problems = [f"metadata.json has no {key}" for key in METADATA if key not in meta]
        if not problems:
            points = builder.info.features["landmarks_px"].shape[0]
            if points != (named := schemes.from_json(meta["scheme"]).num_points):
                problems = [f"features.json has {points} points, the scheme {named}"]
    except Exception as error:  # TFDS, protobuf and JSON each have errors of their own for what is no description
        problems = [f"its description cannot be read: {type(error).__name__}: {str(error)[:300]}"]
    report_together(problems, damaged(path))
    return builder


def _root(data_dir: str | Path | None) -> Path:
    return Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()


def _version_dir(root: Path, cls: Any, config_name: str) -> Path:
    return root / cls.name / config_name / str(cls.VERSION)


def _is_prepared(path: Path) -> bool:
    return (path / "dataset_info.json").is_file()


def _default_config(cls: Any) -> str:
    configs = [config.name for config in cls.BUILDER_CONFIGS]
    return cls.DEFAULT_BUILDER_CONFIG_NAME or (configs[0] if configs else "complete")


def _prepare_drawn(cls: Any, root: Path, config_name: str | None, progress: bool) -> Prepared:
    """Prepares a data set that needs no folder."""
    wanted = config_name or _default_config(cls)
    if wanted not in cls.builder_configs:
        raise unknown(f"config of {cls.name}", wanted, cls.builder_configs)
    if _is_prepared(path := _version_dir(root, cls, wanted)):
        return _described(cls, path, reused=True)
    return _write(cls, root, wanted, progress=progress)


def _write(
    cls: Any, root: Path, config: Any, *, tree: Any = None, download_dir: Path | None = None, progress: bool
) -> Prepared:
    """Writes one preparation; where that fails, `root` is as it was, but for what others have put there since."""
    path = _version_dir(root, cls, config if isinstance(config, str) else config.name)
    before = {p for p in (root, root / cls.name, path.parent) if p.exists()}
    with _quiet_tfds(progress), contextlib.ExitStack() as stack:
        # TFDS makes a download folder whether it downloads or not.
        downloads = download_dir or stack.enter_context(tempfile.TemporaryDirectory())
        try:
            builder = cls(config=config, data_dir=root, file_format="array_record")
            if tree is not None:
                builder.tree = tree
            builder.download_and_prepare(download_dir=downloads)
        except BaseException as error:
            if isinstance(error, OSError) and _is_prepared(path):  # another process was faster
                return _described(cls, path, reused=True)
            # TFDS has taken away its own unfinished folder.
            _remove_empty([made for made in (path.parent, root / cls.name, root) if made not in before])
            raise
    return _described(cls, path, reused=False)


def _remove_empty(folders: list[Path]) -> None:
    """Removes the folders that hold nothing, or TFDS's note of a default config alone; the innermost comes first."""
    for folder in folders:
        with contextlib.suppress(OSError):
            if [inside.name for inside in folder.iterdir()] == [".config"]:
                shutil.rmtree(folder / ".config")
            folder.rmdir()


def _described(cls: Any, path: Path, *, reused: bool) -> Prepared:
    info = _opened(path).info
    return Prepared(
        name=cls.name,
        config_name=path.parent.name,
        path=path,
        found={split: part.num_examples for split, part in info.splits.items()},
        published=dict(info.metadata["published"]),
        missing=info.metadata["missing"],
        reused=reused,
    )


@contextlib.contextmanager
def _quiet_tfds(progress: bool) -> Iterator[None]:
    """Keeps TFDS's banners off stdout and its bars to terminals."""
    bars, level = progress and sys.stderr.isatty(), logging.get_verbosity()
    tfds.display_progress_bar(enable=bars)
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)
        tfds.enable_progress_bar()
