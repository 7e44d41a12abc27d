"""300W from tiny folders in the published layout, and from the real one where it is there."""

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from lmkd.core.errors import UserError
from lmkd.data import preparation
from lmkd.data_builders.the300w import the300w_dataset_builder as the300w

COUNTS = {
    "afw": 1,
    "helen/trainset": 2,
    "lfpw/trainset": 1,
    "helen/testset": 1,
    "lfpw/testset": 2,
    "ibug": 2,
    "Test/01_Indoor": 1,
    "Test/02_Outdoor": 1,
}
PHOTOS = ("train_photos", "validation_photos")
POINTS = np.stack([np.linspace(5, 55, 68), 30 + 20 * np.sin(np.arange(68))], axis=1)


def write_face(folder, stem, *, suffix=".jpg", header=True, points=POINTS):
    folder.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(len(stem)).integers(0, 256, (60, 64, 3), np.uint8)
    assert cv2.imwrite(str(folder / f"{stem}{suffix}"), image)
    body = "".join(f"{x + 1:.6f} {y + 1:.6f}\n" for x, y in points)
    text = f"version: 1\nn_points:  {len(points)}\n{{\n{body}}}\n" if header else body
    (folder / f"{stem}.pts").write_text(text)


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A complete folder whose published counts are `COUNTS`."""
    small = {f: (COUNTS[f], split, flags) for f, (_, split, flags) in the300w.SOURCES.items()}
    monkeypatch.setattr(the300w, "SOURCES", small)
    published = {"train": 4, "common": 3, "challenging": 2, "full": 5, "private": 2}
    monkeypatch.setattr(the300w.Builder, "PUBLISHED", published)
    root = tmp_path / "300w"
    for number, (folder, count) in enumerate(COUNTS.items()):
        for i in range(count):
            # Every stem differs; LFPW is PNG as published; iBUG has a space in a name; one folder lacks the header.
            stem = "image_092 _01" if folder == "ibug" and not i else f"image_{number}_{i}"
            suffix = ".png" if folder.startswith("lfpw") else ".jpg"
            write_face(root / folder, stem, suffix=suffix, header=folder != "helen/testset")
    return root


def test_published_counts_add_up():
    by_split = {}
    for count, split, _ in the300w.SOURCES.values():
        by_split[split] = by_split.get(split, 0) + count
    by_split["full"] = by_split["common"] + by_split["challenging"]
    assert by_split == the300w.Builder.PUBLISHED
    assert by_split == {"train": 3148, "common": 554, "challenging": 135, "full": 689, "private": 600}


def test_complete_tree_becomes_records(tree, tmp_path):
    write_face(tree / "afw", "image_0_0_mirror")  # an extra of one public copy: not in the protocol
    prepared = preparation.prepare("the300w", manual_dir=tree, data_dir=tmp_path / "data", progress=False)
    assert prepared.config_name == "complete" and prepared.missing == ""
    photos = {split: prepared.found.pop(split, 0) for split in PHOTOS}
    assert prepared.found == prepared.published == the300w.Builder.PUBLISHED
    assert sum(photos.values()) == prepared.found["train"]
    builder = preparation.locate("the300w", data_dir=tmp_path / "data")
    assert builder.info.metadata["tree_hash"] == ""
    flags = list(builder.info.metadata["subset_flags"])
    source = builder.as_data_source(split="full", decoders={"image": tfds.decode.SkipDecoding()})
    records = {r["key"].decode(): r for r in source}
    assert sorted(records) == [
        "helen/testset/image_3_0", "ibug/image_092 _01", "ibug/image_5_1", "lfpw/testset/image_4_0",
        "lfpw/testset/image_4_1",
    ]  # fmt: skip
    record = records["lfpw/testset/image_4_1"]
    np.testing.assert_allclose(record["landmarks_px"], POINTS, atol=1e-5)  # 1-based on disk, 0-based here
    np.testing.assert_allclose(records["helen/testset/image_3_0"]["landmarks_px"], POINTS, atol=1e-5)  # no header
    assert record["image"] == (tree / "lfpw/testset/image_4_1.png").read_bytes()
    assert [f for f, bit in zip(flags, record["subset"], strict=True) if bit] == ["common", "lfpw"]
    assert np.isnan(record["rectangle_px"]).all() and record["visible"].all()


def test_a_photograph_is_the_stem_without_the_number_of_the_face():
    named = {
        "afw/111076519_2": "afw/111076519",
        "helen/trainset/100040721_1": "helen/trainset/100040721",
        "lfpw/trainset/image_0001": "lfpw/trainset/image_0001",
        "afw/portrait": "afw/portrait",
    }
    assert {key: the300w.photograph_of(key) for key in named} == named


def test_no_photograph_is_trained_on_and_validated_on(tree, monkeypatch):
    monkeypatch.setitem(the300w.Builder.PUBLISHED, "train", 4 + 2 * 60)
    for number in range(60):
        write_face(tree / "afw", f"{number}_1")
        write_face(tree / "afw", f"{number}_2")
    faces = the300w.Builder.scan(tree).faces
    train, validation = ({the300w.photograph_of(f.key) for f in faces[split]} for split in PHOTOS)
    assert train and validation and not train & validation
    assert {f.key for split in PHOTOS for f in faces[split]} == {f.key for f in faces["train"]}


def test_all_problems_come_together_and_nothing_is_left_behind(tree, tmp_path):
    (tree / "afw/image_0_0.jpg").unlink()
    write_face(tree / "helen/trainset", "image_1_0", points=POINTS[:67])
    bad = (tree / "helen/trainset/image_1_1.pts").read_text().splitlines()
    bad[4] = "12.0 nan"
    bad[7] = "1 2 3"
    (tree / "helen/trainset/image_1_1.pts").write_text("\n".join(bad))
    jpeg = tree / "Test/01_Indoor/image_6_0.jpg"
    jpeg.write_bytes(jpeg.read_bytes()[:700])
    write_face(tree / "Test/02_Outdoor", "image_7_0", points=POINTS + [400, 0])
    with pytest.raises(UserError) as error:
        preparation.prepare("the300w", manual_dir=tree, data_dir=tmp_path / "data", progress=False)
    for expected in (
        "afw/image_0_0.pts: no image of that stem",
        "helen/trainset/image_1_0.pts:2: n_points is 67, not 68",
        "helen/trainset/image_1_1.pts:5: field 2 is nan",
        "helen/trainset/image_1_1.pts:8: 3 fields where a point has 2",
        "Test/01_Indoor/image_6_0.jpg: damaged image",
        "Test/02_Outdoor/image_7_0.pts: point 67 at (455.0, ",
        "helen/trainset/: 0 of 2 faces",
        "split train: 1 of 4 faces",
        "--partial",
    ):
        assert expected in str(error.value)
    assert not (tmp_path / "data").exists()


def test_partial_forgives_missing_files_only(tree, tmp_path):
    (tree / "helen/trainset/image_1_0.pts").write_text("1 2\n")
    with pytest.raises(UserError, match="1 points where 68 are needed") as error:
        preparation.prepare("the300w", manual_dir=tree, data_dir=tmp_path, partial=True, progress=False)
    assert "of 4 faces" not in str(error.value)


def test_partial_tree_names_what_is_missing_and_its_content(tree, tmp_path):
    def remove(folder):
        for path in (tree / folder).iterdir():
            path.unlink()
        (tree / folder).rmdir()

    def prepare():
        return preparation.prepare("the300w", manual_dir=tree, data_dir=tmp_path / "data", partial=True, progress=False)

    remove("ibug")
    remove("Test/01_Indoor")
    (tree / "afw/image_0_0.jpg").unlink()
    first = prepare()
    assert first.config_name.startswith("partial_") and len(first.config_name) == len("partial_") + 10
    # Without iBUG there is no `challenging`, and no `full` that would be `common` under another name.
    assert {s: n for s, n in first.found.items() if s not in PHOTOS} == {"train": 3, "common": 3, "private": 1}
    assert first.published["full"] == 5
    for words in ("ibug/: 0 of 2 faces", "split train: 3 of 4 faces", "split full: left out", "afw/image_0_0.pts"):
        assert words in first.missing
    assert prepare().reused
    write_face(tree / "Test/02_Outdoor", "image_7_0", points=POINTS + 0.5)
    second = prepare()
    assert second.config_name != first.config_name and not second.reused
    with pytest.raises(UserError, match="several preparations") as error:
        preparation.locate("the300w", data_dir=tmp_path / "data")
    assert first.config_name in str(error.value) and second.config_name in str(error.value)
    located = preparation.locate(f"the300w/{first.config_name}", data_dir=tmp_path / "data")
    assert located.info.metadata["found"] == first.found
    assert located.info.metadata["tree_hash"].startswith(first.config_name.removeprefix("partial_"))


def test_some_of_ibug_gives_a_full_that_says_it_is_not_full(tree, tmp_path):
    (tree / "ibug/image_5_1.pts").unlink()
    prepared = preparation.prepare("the300w", manual_dir=tree, data_dir=tmp_path, partial=True, progress=False)
    assert prepared.found["full"] == 4 and prepared.published["full"] == 5
    assert "split full: 4 of 5 faces" in prepared.missing


def test_partial_of_a_complete_tree_is_the_complete_one(tree, tmp_path):
    prepared = preparation.prepare("the300w", manual_dir=tree, data_dir=tmp_path, partial=True, progress=False)
    assert prepared.config_name == "complete"


def test_the_real_faces_are_2012_of_3148(real_data, tmp_path):
    prepared = preparation.prepare("the300w", manual_dir=real_data / "the300w", data_dir=tmp_path, partial=True, progress=False)
    assert prepared.found == {"train": 2012, "common": 554, "train_photos": 1792, "validation_photos": 220}
    assert "split train: 2012 of 3148 faces" in prepared.missing
    source = preparation.locate("the300w", data_dir=tmp_path).as_data_source(
        split="common", decoders={"image": tfds.decode.SkipDecoding()}
    )
    eyes = [np.linalg.norm(r["landmarks_px"][36] - r["landmarks_px"][45]) for r in (source[0], source[553])]
    assert all(20 < px < 224 for px in eyes)
