"""The TFDS builder, prepared for real in a temporary folder and read back without TensorFlow."""

import hashlib

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from lmkd.core import schemes
from lmkd.core.schemes import FACE68, WFLW98
from lmkd.data_builders.synthetic_faces import drawing, parameters, render
from lmkd.data_builders.synthetic_faces.synthetic_faces_dataset_builder import Builder, SyntheticFacesConfig


def rows_of(builder: tfds.core.DatasetBuilder, split: str) -> list[dict]:
    return list(builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()}))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic_faces")
    Builder(config="tiny", data_dir=folder).download_and_prepare()
    return folder


def test_tiny_has_its_splits_and_features(data_dir):
    builder = tfds.builder("synthetic_faces/tiny", data_dir=data_dir, file_format="array_record")
    assert {s: i.num_examples for s, i in builder.info.splits.items()} == {"train": 48, "validation": 16, "test": 16}
    row = rows_of(builder, "validation")[3]
    assert set(row) == {"key", "image", "landmarks_px", "visible", "rectangle_px", "subset", "person"}
    assert row["key"] == b"validation_000003" and row["person"] == b""
    image = cv2.imdecode(np.frombuffer(row["image"], np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (96, 96, 3)
    assert row["landmarks_px"].shape == (98, 2) and row["landmarks_px"].dtype == np.float32
    assert row["visible"].tolist() == [1.0] * 98
    assert row["rectangle_px"].shape == (4,) and np.isfinite(row["rectangle_px"]).all()
    assert row["subset"].shape == (6,) and row["subset"].dtype == np.uint8


def test_rows_are_the_faces_of_the_stream_in_order(data_dir):
    builder = tfds.builder("synthetic_faces/tiny", data_dir=data_dir, file_format="array_record")
    rows = rows_of(builder, "train")
    assert [r["key"] for r in rows] == [b"train_%06d" % i for i in range(48)]
    face = render.draw_face(0, 5, 96)
    np.testing.assert_array_equal(rows[5]["landmarks_px"], face.landmarks98_px)
    np.testing.assert_array_equal(rows[5]["subset"], face.subset)
    image = cv2.imdecode(np.frombuffer(rows[5]["image"], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(image.astype(int) - face.image).mean() < 4, "RGB as drawn, within JPEG's loss"


def test_the_68_points_are_the_published_subset_of_the_98(data_dir, tmp_path):
    full = tfds.builder("synthetic_faces/tiny", data_dir=data_dir, file_format="array_record")
    config = SyntheticFacesConfig(name="few_68", size_px=96, counts={"test": 3}, scheme="300w68")
    part = Builder(config=config, data_dir=tmp_path)
    part.download_and_prepare()
    rows = rows_of(part, "test")
    assert len(rows) == 3
    for a, b in zip(rows_of(full, "test")[:3], rows, strict=True):
        assert a["key"] == b["key"] and a["image"] == b["image"]
        np.testing.assert_array_equal(a["landmarks_px"][list(WFLW98.subset_indices("300w68"))], b["landmarks_px"])
    assert schemes.from_json(part.info.metadata["scheme"]) == FACE68


def test_no_face_is_in_two_splits(data_dir):
    builder = tfds.builder("synthetic_faces/tiny", data_dir=data_dir, file_format="array_record")
    images = [r["image"] for split in ("train", "validation", "test") for r in rows_of(builder, split)]
    assert len(set(images)) == 80


def test_metadata_is_read_back_from_disk(data_dir):
    metadata = tfds.builder("synthetic_faces/tiny", data_dir=data_dir, file_format="array_record").info.metadata
    assert schemes.from_json(metadata["scheme"]) == WFLW98
    assert metadata["subset_flags"] == list(parameters.FLAGS)
    assert metadata["published"] == metadata["found"] == {"train": 48, "validation": 16, "test": 16}
    assert metadata["tree_hash"] == "" and metadata["missing"] == ""
    assert metadata["licence"] == "drawn by lmkd, Apache-2.0"


def test_files_do_not_depend_on_the_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "_WORTH_A_POOL", 1)
    monkeypatch.setattr(drawing, "_CHUNK", 2)
    config = SyntheticFacesConfig(name="few", size_px=48, counts={"train": 6}, seed=7)
    sums = []
    for workers in (1, 2):
        builder = Builder(config=config, data_dir=tmp_path / str(workers))
        builder.workers = workers
        builder.download_and_prepare()
        files = sorted(p for p in builder.data_path.iterdir() if "array_record" in p.name)
        sums.append([hashlib.sha256(p.read_bytes()).hexdigest() for p in files])
    assert sums[0] and sums[0] == sums[1]


def test_shipped_configs():
    found = {c.name: (c.size_px, tuple(c.counts.values()), c.scheme) for c in Builder.BUILDER_CONFIGS}
    assert found == {
        "quickstart": (128, (2400, 200, 300), "wflw98"),
        "quickstart_68": (128, (2400, 200, 300), "300w68"),
        "tiny": (96, (48, 16, 16), "wflw98"),
        "tiny_68": (96, (48, 16, 16), "300w68"),
        "full": (256, (20000, 1000, 2000), "wflw98"),
        "full_68": (256, (20000, 1000, 2000), "300w68"),
    }
