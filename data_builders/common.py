"""What every data builder shares: the prepared record, its metadata, and the base class of builders that read a folder.

A builder that reads a folder says what its splits and flags are and how to read the annotations; `trees.py` checks what
was read, and `FolderBuilder` writes it:

    class Builder(common.FolderBuilder):
        VERSION = tfds.core.Version("1.0.0")
        ...
        @classmethod
        def read(cls, root, findings, options): ...  # -> {split: [Face, ...]}

    tree = Builder.scan(manual_dir)          # raises ONE UserError that lists every problem
    builder = Builder(data_dir=data_dir)     # nothing is written before the whole folder is sound
    builder.tree = tree
    builder.download_and_prepare()
"""

import dataclasses
import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from lmkd.core.errors import UserError
from lmkd.core.schemes import Scheme
from lmkd.data_builders import trees

COMPLETE = "complete"


class Face(NamedTuple):
    """One annotated face, as read from a data set's files.

    Attributes:
      key: text, unique in its split.
      image: path of the encoded image, or its bytes (JPEG or PNG). Bytes are stored as they are.
      landmarks_px: float [K, 2] in pixels of the stored image (before any EXIF rotation), centre of the first pixel at
        (0, 0); NaN where a point is not annotated.
      visible: float [K], 1 where a point counts; None for 1 wherever landmarks_px is not NaN.
      rectangle_px: the data set's own face rectangle (x0, y0, x1, y1), or None.
      subset: names of the subset flags the face carries.
      person: who it is, "" where unknown.
      where: file and line, for messages.
    """

    key: str
    image: Path | bytes
    landmarks_px: np.ndarray
    visible: np.ndarray | None = None
    rectangle_px: Sequence[float] | None = None
    subset: Sequence[str] = ()
    person: str = ""
    where: str = ""


def in_share(name: str, percent: int) -> bool:
    """Says, from the name alone, whether it is among so many percent of all names: for splits that never change."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % 100 < percent


def record_features(scheme: Scheme, flags: Sequence[str]) -> tfds.features.FeaturesDict:
    """Returns the features of a prepared record (see ARCHITECTURE.md): K points of `scheme`, F = len(flags)."""
    k = scheme.num_points
    return tfds.features.FeaturesDict({
        "key": tfds.features.Text(),
        "image": tfds.features.Image(shape=(None, None, 3)),
        "landmarks_px": tfds.features.Tensor(shape=(k, 2), dtype=np.float32),
        "visible": tfds.features.Tensor(shape=(k,), dtype=np.float32),
        "rectangle_px": tfds.features.Tensor(shape=(4,), dtype=np.float32),
        "subset": tfds.features.Tensor(shape=(len(flags),), dtype=np.uint8),
        "person": tfds.features.Text(),
    })  # fmt: skip


def record_metadata(
    *,
    scheme: Scheme,
    flags: Sequence[str],
    published: Mapping[str, int] | None = None,
    found: Mapping[str, int] | None = None,
    tree_hash: str = "",
    missing: str = "",
    licence: str = "",
) -> tfds.core.MetadataDict:
    """Returns `DatasetInfo.metadata`: JSON-able, read back as a dict from metadata.json."""
    return tfds.core.MetadataDict(
        scheme=scheme.to_json(),
        subset_flags=list(flags),
        published=dict(published or {}),
        found=dict(found or {}),
        tree_hash=tree_hash,
        missing=missing,
        licence=licence,
    )


def example(face: Face, flags: Sequence[str]) -> dict[str, Any]:
    """Returns the features of one face, ready for TFDS."""
    points = np.asarray(face.landmarks_px, np.float32)
    visible = np.isfinite(points).all(axis=1) if face.visible is None else face.visible
    return {
        "key": face.key,
        "image": face.image if isinstance(face.image, bytes) else face.image.read_bytes(),
        "landmarks_px": points,
        "visible": np.asarray(visible, np.float32),
        "rectangle_px": np.asarray([np.nan] * 4 if face.rectangle_px is None else face.rectangle_px, np.float32),
        "subset": np.asarray([flag in face.subset for flag in flags], np.uint8),
        "person": face.person,
    }


@dataclasses.dataclass(kw_only=True, eq=False)
class TreeConfig(tfds.core.BuilderConfig):
    """A preparation of one folder.

    Attributes:
      partial: accept what is missing; the name must then be `partial_<first 10 hex of the folder's content hash>`.
      options: what the builder's `read` takes besides (own_faces only).
      scheme: the folder's own landmark scheme, where it is not the builder's.
    """

    partial: bool = False
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    scheme: Scheme | None = None


class FolderBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Base of the builders that read a folder of images and annotations, strictly.

    Class attributes to set: VERSION, RELEASE_NOTES, SCHEME (None where each folder has its own), FLAGS, PUBLISHED
    (split -> faces of the published set), LICENCE, HOMEPAGE; `read` to write.

    Attributes:
      tree: the checked folder to write; None: `download_and_prepare` scans `manual_dir` itself.
    """

    SCHEME: ClassVar[Scheme | None] = None
    FLAGS: ClassVar[tuple[str, ...]] = ()
    PUBLISHED: ClassVar[Mapping[str, int]] = {}
    LICENCE: ClassVar[str] = ""
    HOMEPAGE: ClassVar[str] = ""
    # True where no count is published: then every preparation, complete or not, is named by its content.
    NAMED_BY_CONTENT: ClassVar[bool] = False

    BUILDER_CONFIGS = [TreeConfig(name=COMPLETE, description="The whole data set, as published.")]
    tree: "trees.Tree | None" = None

    def __init_subclass__(cls, **kwargs: Any):
        # TFDS looks for README.md and the like below the top package, where an editable install has no such folder.
        cls.pkg_dir_path = epath.Path(inspect.getfile(cls)).parent
        super().__init_subclass__(**kwargs)

    def __init__(self, *, file_format: Any = "array_record", **kwargs: Any):
        super().__init__(file_format=file_format, **kwargs)

    @classmethod
    def read(cls, root: Path, findings: "trees.Findings", options: Mapping[str, Any]) -> dict[str, list[Face]]:
        """Reads the annotations below `root`, collecting into `findings` whatever is wrong or missing.

        Returns:
          Split -> faces. Images need not be opened here; `trees.check` does.
        """
        raise TypeError(f"{cls.__module__} does not say how its folder is read")

    @classmethod
    def scheme_of(cls, root: Path, options: Mapping[str, Any]) -> Scheme:
        """Returns the landmark scheme of the folder `root`."""
        del root, options
        assert cls.SCHEME is not None
        return cls.SCHEME

    @classmethod
    def scan(
        cls,
        root: Path | str,
        *,
        partial: bool = False,
        options: Mapping[str, Any] | None = None,
        progress: bool = False,
    ) -> "trees.Tree":
        """Reads and checks the folder `root`; writes nothing.

        Raises:
          UserError: everything that is wrong, together; with `partial`, everything but what is missing.
        """
        root, options = Path(root).expanduser(), dict(options or {})
        if not root.is_dir():
            raise UserError(f"manual_dir {root} is not a folder. {cls.MANUAL_DOWNLOAD_INSTRUCTIONS}".strip())
        scheme = cls.scheme_of(root, options)
        findings = trees.Findings(root)
        splits = cls.read(root, findings, options)
        return trees.check(splits, findings, scheme=scheme, published=cls.PUBLISHED, partial=partial, progress=progress)

    @classmethod
    def config_for(cls, tree: "trees.Tree", options: Mapping[str, Any] | None = None) -> TreeConfig:
        """Returns the config a checked folder is prepared under."""
        partial = bool(tree.missing)
        if not partial and not cls.NAMED_BY_CONTENT:
            return next(c for c in cls.BUILDER_CONFIGS if c.name == COMPLETE)
        return TreeConfig(
            name=f"{'partial' if partial else 'tree'}_{tree.tree_hash[:10]}",
            description=f"An incomplete folder: {tree.missing}" if partial else "A folder, named by its content.",
            partial=partial,
            options=dict(options or {}),
            scheme=None if cls.SCHEME else tree.scheme,
        )

    def _info(self) -> tfds.core.DatasetInfo:
        scheme = self.SCHEME or getattr(self.builder_config, "scheme", None)
        if scheme is None:
            raise UserError(f"{self.name}: each folder has its own scheme; prepare it with lmkd.prepare")
        return self.dataset_info_from_configs(
            features=record_features(scheme, self.FLAGS),
            homepage=self.HOMEPAGE or None,
            license=self.LICENCE,
            metadata=record_metadata(scheme=scheme, flags=self.FLAGS, published=self.PUBLISHED, licence=self.LICENCE),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        config = self.builder_config
        tree = self.tree or self.scan(
            self.source_folder(dl_manager), partial=config.partial, options=config.options, progress=True
        )
        expected = self.config_for(tree, config.options).name
        if expected != config.name:
            raise UserError(f"{self.name}: this folder's config is {expected!r}, not {config.name!r}: {tree.missing}")
        self.info.metadata.update(
            found={split: len(faces) for split, faces in tree.faces.items()},
            tree_hash=tree.tree_hash if expected != COMPLETE else "",
            missing=tree.missing,
        )
        return {split: self._generate_examples(faces) for split, faces in tree.faces.items()}

    def source_folder(self, dl_manager: tfds.download.DownloadManager) -> Path:
        """Returns the folder to read: `manual_dir`, unless a builder knows where to download."""
        return Path(dl_manager.manual_dir)

    def _generate_examples(self, faces: Sequence[Face]) -> Iterator[tuple[str, dict[str, Any]]]:
        for face in faces:
            yield face.key, example(face, self.FLAGS)
