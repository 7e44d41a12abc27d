"""WFLW from tiny folders in the published layout; its line parser on the published lists where they are there."""

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkd.core.errors import UserError
from lmkd.data import preparation
from lmkd.data_builders import trees
from lmkd.data_builders.wflw import wflw_dataset_builder as wflw

FLAGS = ("pose", "expression", "illumination", "makeup", "occlusion", "blur")
POINTS = np.stack([np.linspace(5, 55, 98), 30 + 20 * np.sin(np.arange(98))], axis=1)
# (image, how far the points are moved, attributes): two faces in the first test image, one attribute each somewhere.
TRAIN = [("0--Parade/p_1.jpg", 0.0, "000000"), ("0--Parade/p_2.jpg", 0.0, "110001")]
TEST = [("1--Dance/d_1.jpg", 0.0, "100100"), ("1--Dance/d_1.jpg", 1.5, "011010"), ("1--Dance/d_2.jpg", 0.0, "000001")]


def coordinates(shift: float) -> str:
    return " ".join(f"{v:.6f}" for v in (POINTS + shift).ravel())


def main_line(image, shift, attributes):
    return f"{coordinates(shift)} 3 8 58 52 {' '.join(attributes)} {image}"


def write(root, train=TRAIN, test=TEST):
    main, subsets = (root / "WFLW_annotations" / d for d in ("list_98pt_rect_attr_train_test", "list_98pt_test"))
    for folder in (main, subsets):
        folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("test", test)):
        (main / f"list_98pt_rect_attr_{name}.txt").write_text("".join(main_line(*row) + "\n" for row in rows))
    names = ("largepose", "expression", "illumination", "makeup", "occlusion", "blur")
    for bit, name in enumerate(names):
        chosen = [f"{coordinates(shift)} {image}\n" for image, shift, attributes in test if attributes[bit] == "1"]
        (subsets / f"list_98pt_test_{name}.txt").write_text("".join(chosen))
    for image, _, _ in (*train, *test):
        path = root / "WFLW_images" / image
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (60, 64, 3), np.uint8))
    return root


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.setattr(wflw.Builder, "PUBLISHED", {"train": 2, "test": 3})
    monkeypatch.setattr(wflw.Builder, "SUBSET_COUNTS", dict.fromkeys(FLAGS, 1))
    return write(tmp_path / "wflw")


def prepare(tree, tmp_path, partial=False):
    return preparation.prepare("wflw", manual_dir=tree, data_dir=tmp_path / "data", partial=partial, progress=False)


def test_complete_tree_becomes_records(tree, tmp_path):
    prepared = prepare(tree, tmp_path)
    assert prepared.found == {"train": 2, "test": 3} and prepared.config_name == "complete"
    builder = preparation.locate("wflw", data_dir=tmp_path / "data")
    assert tuple(builder.info.metadata["subset_flags"]) == FLAGS
    source = builder.as_data_source(split="test", decoders={"image": tfds.decode.SkipDecoding()})
    records = {r["key"].decode(): r for r in source}
    assert sorted(records) == ["1--Dance/d_1.jpg#0", "1--Dance/d_1.jpg#1", "1--Dance/d_2.jpg#0"]
    second = records["1--Dance/d_1.jpg#1"]
    np.testing.assert_allclose(second["landmarks_px"], POINTS + 1.5, atol=1e-5)  # 0-based already
    np.testing.assert_array_equal(second["rectangle_px"], np.float32([3, 8, 58, 52]))
    np.testing.assert_array_equal(second["subset"], np.uint8([0, 1, 1, 0, 1, 0]))


def test_published_counts():
    assert wflw.Builder.PUBLISHED == {"train": 7500, "test": 2500}
    assert wflw.Builder.SUBSET_COUNTS == dict(zip(FLAGS, (326, 314, 698, 206, 736, 773), strict=True))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (main_line("a.jpg", 0, "000000").split(" ", 1)[1], "206 fields where 207 are needed"),
        (main_line("a.jpg", 0, "000000").replace("5.000000", "nan", 1), "field 1 is nan"),
        (main_line("a.jpg", 0, "000000").replace("5.000000", "five", 1), "field 1 is no number: 'five'"),
        (main_line("a.jpg", 0, "000200"), "attributes must be 0 or 1"),
    ],
)
def test_malformed_lines(line, says):
    parsed, wrong = wflw.parse_line(line, rect_attr=True)
    assert parsed is None and says in wrong


@settings(deadline=None, max_examples=30)
@given(
    points=st.lists(st.floats(-100, 2000), min_size=196, max_size=196),
    bits=st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_line_round_trip(points, bits):
    text = " ".join([*(f"{v:.6f}" for v in points), "1 2 3 4", *("1" if b else "0" for b in bits), "x/y_1.jpg"])
    line, wrong = wflw.parse_line(text, rect_attr=True)
    assert wrong == "" and line.image == "x/y_1.jpg" and line.rectangle_px == (1, 2, 3, 4)
    np.testing.assert_allclose(line.points_px.ravel(), points, atol=1e-6)
    assert line.attributes == tuple(f for f, b in zip(FLAGS, bits, strict=True) if b)


def test_all_problems_come_together_and_nothing_is_left_behind(tree, tmp_path):
    lists = tree / "WFLW_annotations"
    main = lists / "list_98pt_rect_attr_train_test"
    with open(main / "list_98pt_rect_attr_train.txt", "a") as f:
        f.write(main_line(*TRAIN[1]) + "\n")  # a face twice
        f.write("1 2 3 name.jpg\n")
    (tree / "WFLW_images" / TRAIN[0][0]).unlink()
    # Blur's list names the pose face instead of the blurred one.
    (lists / "list_98pt_test/list_98pt_test_blur.txt").write_text(f"{coordinates(0.0)} 1--Dance/d_1.jpg\n")
    (lists / "list_98pt_test/list_98pt_test_makeup.txt").write_text(f"{coordinates(0.9)} 1--Dance/d_1.jpg\n")
    (lists / "list_98pt_test/list_98pt_test_largepose.txt").unlink()
    with pytest.raises(UserError) as error:
        prepare(tree, tmp_path)
    train, test = (f"WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_{s}.txt" for s in ("train", "test"))
    for expected in (
        f"{train}:3: repeats the face of {train}:2",
        f"{train}:4: 4 fields where 207 are needed",
        f"{train}:1: image WFLW_images/0--Parade/p_1.jpg is missing",
        f"list_98pt_test_blur.txt:1: attribute blur is 0 for this face in {test}:1",
        f"{test}:3: attribute blur is 1, but the face is not in",
        "list_98pt_test_makeup.txt:1: this face of 1--Dance/d_1.jpg is not in the test list",
        "list_98pt_test_largepose.txt: annotation file not there",
        "split train: 1 of 2 faces",
    ):
        assert expected in str(error.value)
    assert not (tmp_path / "data").exists()


def test_partial_forgives_missing_images_and_lists_but_no_disagreement(tree, tmp_path):
    (tree / "WFLW_images" / TRAIN[0][0]).unlink()
    subset = tree / "WFLW_annotations/list_98pt_test/list_98pt_test_largepose.txt"
    subset.unlink()
    prepared = prepare(tree, tmp_path, partial=True)
    assert prepared.found == {"train": 1, "test": 3}
    assert "split train: 1 of 2 faces" in prepared.missing and "largepose" in prepared.missing
    subset.write_text(f"{coordinates(0.0)} 1--Dance/d_2.jpg\n")
    with pytest.raises(UserError, match="attribute pose is 0"):
        prepare(tree, tmp_path, partial=True)


def test_the_published_subset_lists_parse(real_data):
    findings = trees.Findings(real_data)
    for _, (name, count) in wflw.SUBSETS.items():
        path = real_data / "wflw_annotations" / f"list_98pt_test_{name}.txt"
        lines = [line for _, line in wflw.read_list(path, findings, rect_attr=False)]
        assert len(lines) == count
        first = path.read_text().split(None, 4)[:4]
        np.testing.assert_array_equal(lines[0].points_px[:2].ravel(), np.float64(first))
        assert all(line.image.endswith(".jpg") and line.rectangle_px is None for line in lines)
    assert findings.problems == [] and not findings.absent
