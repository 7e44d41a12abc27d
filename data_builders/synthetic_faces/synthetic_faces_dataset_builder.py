"""TFDS builder of drawn faces: needs no download, gives exact points.

import lmkd.data_builders.synthetic_faces.synthetic_faces_dataset_builder
tfds.builder("synthetic_faces/quickstart", file_format="array_record").download_and_prepare()
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from lmkd.core import schemes
from lmkd.core.schemes import WFLW98
from lmkd.data_builders import common
from lmkd.data_builders.synthetic_faces import parameters
from lmkd.data_builders.synthetic_faces.drawing import draw_records

LICENCE = "drawn by lmkd, Apache-2.0"
_FIRST_INDEX = {"train": 0, "validation": 10_000_000, "test": 20_000_000}  # of the stream: no face is in two splits


@dataclasses.dataclass(kw_only=True, eq=False)
class SyntheticFacesConfig(tfds.core.BuilderConfig):
    """A set of drawn faces.

    Attributes:
      size_px: side of the pictures.
      counts: split -> number of faces; splits are "train", "validation", "test".
      scheme: "wflw98" or "300w68" (a subset of the same points).
      seed: the stream of faces. Configs of one seed share their faces, whatever their size and scheme.
    """

    size_px: int = 128
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    scheme: str = WFLW98.name
    seed: int = 0


def _configs() -> list[SyntheticFacesConfig]:
    sizes = (
        ("quickstart", 128, (2400, 200, 300)),
        ("tiny", 96, (48, 16, 16)),
        ("full", 256, (20000, 1000, 2000)),
    )
    return [
        SyntheticFacesConfig(
            name=name + suffix,
            description=f"{sum(counts)} faces of {size} px with {scheme} points",
            size_px=size,
            counts=dict(zip(_FIRST_INDEX, counts, strict=True)),
            scheme=scheme,
        )
        for name, size, counts in sizes
        for suffix, scheme in (("", "wflw98"), ("_68", "300w68"))
    ]


class Builder(tfds.core.GeneratorBasedBuilder):
    """Faces drawn by the renderer beside this file.

    Attributes:
      workers: processes that draw; None for one a core. The files are the same for any number.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}
    BUILDER_CONFIGS: ClassVar[list[SyntheticFacesConfig]] = _configs()
    pkg_dir_path = epath.Path(__file__).parent  # TFDS would look below `lmkd/`, where a checkout has no data_builders
    workers: int | None = None

    def __init__(self, *, file_format: Any = "array_record", **kwargs: Any):
        super().__init__(file_format=file_format, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        config, scheme = self.builder_config, schemes.get(self.builder_config.scheme)
        return self.dataset_info_from_configs(
            features=common.record_features(scheme, parameters.FLAGS),
            metadata=common.record_metadata(
                scheme=scheme,
                flags=parameters.FLAGS,
                published=config.counts,
                found=config.counts,
                licence=LICENCE,
            ),
            license=LICENCE,
            disable_shuffling=True,  # every face is drawn on its own: the order carries nothing
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager  # nothing to download
        return {s: self._generate_examples(s, n) for s, n in self.builder_config.counts.items() if n}

    def _generate_examples(self, split: str, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
        config = self.builder_config
        chosen = list(WFLW98.subset_indices(config.scheme))
        indices = range(_FIRST_INDEX[split], _FIRST_INDEX[split] + count)
        for number, record in enumerate(draw_records(config.seed, indices, config.size_px, self.workers)):
            key = f"{split}_{number:06d}"
            yield (
                key,
                {
                    "key": key,
                    "image": record.jpeg,
                    "landmarks_px": record.landmarks98_px[chosen],
                    "visible": np.ones(len(chosen), np.float32),
                    "rectangle_px": record.rectangle_px,
                    "subset": record.subset,
                    "person": "",
                },
            )
