"""A user's own folder: four formats give the same faces, three ways to split, and every problem is named."""

import json

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from lmkd.core import schemes
from lmkd.core.errors import UserError
from lmkd.data import preparation
from lmkd.data_builders.own_faces import own_faces_dataset_builder as own_faces

SCHEME = {"name": "three", "points": 3, "flip_pairs": [[0, 1]], "normalisers": {"eyes": [[0], [1]]}}
NAMES = [f"set/pic {i}.jpg" for i in range(4)]
POINTS = np.array([[5.0, 8.5], [22.25, 8.0], [14.0, 20.0]])


def points(number: int) -> np.ndarray:
    return POINTS + number


def write_images(root, names=NAMES):
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image = np.random.default_rng(number).integers(0, 256, (30, 40, 3), np.uint8)
        (root / name).write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
    (root / "scheme.json").write_text(json.dumps(SCHEME))


def write_pts(root, names=NAMES):
    for number, name in enumerate(names):
        (root / name).with_suffix(".pts").write_text("".join(f"{x + 1} {y + 1}\n" for x, y in points(number)))


def write_csv(root, names=NAMES):
    lines = ["image,y0,x0,x1,y1,x2,y2,person"]  # columns in another order
    for number, name in enumerate(names):
        (x0, y0), (x1, y1), (x2, y2) = points(number)
        lines.append(f"{name},{y0},{x0},{x1},{y1},{x2},{y2},Person {number}")
    (root / "faces.csv").write_text("\n".join(lines) + "\n")


def write_coco(root, names=NAMES):
    def annotation(number):
        keypoints = [v for x, y in points(number) for v in (x, y, 2)]
        return {"id": number, "image_id": 70 + number, "keypoints": keypoints, "bbox": [4, 6, 20, 18]}

    annotations = [annotation(i) for i in range(len(names))]
    annotations.append({"id": 99, "image_id": 70, "keypoints": [0] * 9, "bbox": [0, 0, 5, 5]})  # a box without points
    images = [{"id": 70 + i, "file_name": name} for i, name in enumerate(names)]
    (root / "coco.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))


def write_dlib(root, names=NAMES):
    lines = ["<dataset><images>"]
    for number, name in enumerate(names):
        parts = "".join(f"<part name='{i:02d}' x='{x}' y='{y}'/>" for i, (x, y) in enumerate(points(number)))
        lines += [f"<image file='{name}'>", f"<box left='4' top='6' width='20' height='18'>{parts}</box></image>"]
    (root / "faces.xml").write_text("\n".join([*lines, "</images></dataset>"]))


WRITERS = {"pts": write_pts, "csv": write_csv, "coco": write_coco, "dlib": write_dlib}


@pytest.fixture
def tree(tmp_path):
    write_images(tmp_path / "own")
    return tmp_path / "own"


def prepare(tree, tmp_path, partial=False, **options):
    return preparation.prepare(
        "own_faces", manual_dir=tree, data_dir=tmp_path / "data", partial=partial, options=options, progress=False
    )


def records(prepared, split):
    builder = preparation.locate("own_faces", prepared.config_name, prepared.path.parents[2])
    source = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    return {r["key"].decode(): r for r in source}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_the_same_faces(tree, tmp_path, kind):
    WRITERS[kind](tree)
    prepared = prepare(tree, tmp_path, test_fraction=0.0)
    assert prepared.config_name.startswith("tree_") and prepared.found == {"train": 4} and not prepared.published
    found = records(prepared, "train")
    assert sorted(found) == [f"{name}#0" for name in NAMES]
    for number, name in enumerate(NAMES):
        record = found[f"{name}#0"]
        np.testing.assert_allclose(record["landmarks_px"], points(number), atol=1e-5)
        assert record["visible"].tolist() == [1, 1, 1]
        assert record["image"] == (tree / name).read_bytes()
        assert record["person"].decode() == (f"Person {number}" if kind == "csv" else "")
        rectangle = [4, 6, 24, 24] if kind in ("coco", "dlib") else [np.nan] * 4
        np.testing.assert_array_equal(record["rectangle_px"], np.float32(rectangle))


def test_the_scheme_travels_with_the_data(tree, tmp_path):
    write_pts(tree)
    prepared = prepare(tree, tmp_path)
    info = preparation.locate("own_faces", data_dir=tmp_path / "data").info
    scheme = schemes.from_json(info.metadata["scheme"])
    assert scheme.name == "three" and scheme.flip == (1, 0, 2) and scheme.default_normaliser == "eyes"
    assert info.features["landmarks_px"].shape == (3, 2) and prepared.found == {"train": 4}  # a tenth of 4 is none


def test_points_declared_as_not_annotated_are_nan_and_not_visible(tree, tmp_path):
    expected = {"csv": None, "coco": None, "dlib": None}
    for kind in expected:
        folder = tmp_path / kind
        write_images(folder, NAMES[:1])
        WRITERS[kind](folder, NAMES[:1])
        edits = {
            "csv": ("faces.csv", ",22.25,8.0,", ",,,"),
            "coco": ("coco.json", "22.25, 8.0, 2", "0, 0, 0"),
            "dlib": ("faces.xml", "<part name='01' x='22.25' y='8.0'/>", ""),
        }
        name, old, new = edits[kind]
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))
        (record,) = records(prepare(folder, tmp_path, test_fraction=0.0), "train").values()
        assert record["visible"].tolist() == [1, 0, 1]
        np.testing.assert_allclose(record["landmarks_px"][[0, 2]], POINTS[[0, 2]])
        assert np.isnan(record["landmarks_px"][1]).all()


def test_two_faces_of_one_image_get_their_own_keys(tree, tmp_path):
    write_csv(tree)
    with open(tree / "faces.csv", "a") as f:
        f.write(f"{NAMES[0]},3,4,15,5,9,16,Person 9\n")
    found = records(prepare(tree, tmp_path, test_fraction=0.0), "train")
    np.testing.assert_allclose(found[f"{NAMES[0]}#1"]["landmarks_px"], [[4, 3], [15, 5], [9, 16]])
    assert len(found) == 5


def test_split_by_lists(tree, tmp_path):
    write_pts(tree)
    (tree / "train.txt").write_text(f"# mine\n{NAMES[0]}\n{NAMES[2]}  # good light\n\n")
    (tree / "test.txt").write_text(f"{NAMES[1]}\n{NAMES[3]}\n")
    prepared = prepare(tree, tmp_path)
    assert sorted(records(prepared, "test")) == [f"{NAMES[1]}#0", f"{NAMES[3]}#0"]
    (tree / "test.txt").write_text(f"{NAMES[0]}\n{NAMES[1]}\nset/none.jpg\n")
    with pytest.raises(UserError) as error:
        prepare(tree, tmp_path)
    for expected in (
        f"test.txt:1: {NAMES[0]} stands in train.txt:2 already",
        "test.txt:3: no annotated face of set/none.jpg",
        f"{NAMES[3].replace('.jpg', '.pts')}: {NAMES[3]} is in none of train.txt, test.txt",
    ):
        assert expected in str(error.value)


def test_split_by_folders(tmp_path):
    names = ["train/a.jpg", "train/b.jpg", "validation/a.jpg", "images/test/c.jpg"]
    write_images(tmp_path / "own", names)
    write_pts(tmp_path / "own", names)
    assert prepare(tmp_path / "own", tmp_path).found == {"train": 2, "validation": 1, "test": 1}


def test_split_by_seed_and_fraction_keeps_people_together(tmp_path):
    names = [f"{i:02d}.jpg" for i in range(20)]
    write_images(tmp_path / "own", names)
    lines = ["image,x0,y0,x1,y1,x2,y2,person"]
    for i, name in enumerate(names):
        lines.append(f"{name},{','.join(str(v) for v in (POINTS + i / 10).ravel())},person {i // 2}")
    (tmp_path / "own/faces.csv").write_text("\n".join(lines))

    def split(**options):
        prepared = prepare(tmp_path / "own", tmp_path, test_fraction=0.3, **options)
        return prepared, {s: {r["person"] for r in records(prepared, s).values()} for s in prepared.found}

    first, people = split(seed=0)
    assert first.found == {"train": 14, "test": 6}  # 3 of 10 people
    assert not people["train"] & people["test"]
    assert split(seed=0)[0].reused
    other, other_people = split(seed=1)
    assert other.config_name != first.config_name and other_people["test"] != people["test"]


def test_all_problems_come_together_and_nothing_is_left_behind(tree, tmp_path):
    write_csv(tree)
    lines = (tree / "faces.csv").read_text().splitlines()
    lines[1] = lines[1].replace("22.25", "nan")
    lines[2] += ",more"
    lines[3] = lines[3].replace(NAMES[2], "set/none.jpg")
    lines.append(lines[4])
    (tree / "faces.csv").write_text("\n".join(lines))
    with pytest.raises(UserError) as error:
        prepare(tree, tmp_path)
    for expected in (
        "faces.csv:2: x1 is nan",
        "faces.csv:3: 9 fields where the header has 8",
        "faces.csv:4: image set/none.jpg is missing",
        "faces.csv:6: repeats the face of faces.csv:5",
    ):
        assert expected in str(error.value)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        ("faces.csv", "image,y0", "image,yo", "faces.csv:1: unknown column 'yo'. Did you mean 'y"),
        ("faces.csv", "image,y0", "image,yo", "faces.csv:1: columns missing: y0"),
        ("coco.json", '"image_id": 71', '"image_id": 5', "coco.json: annotation 1: image_id 5 is not among"),
        ("coco.json", "8.5, 2, 22.25", "8.5, 22.25", "coco.json: annotation 0: 8 keypoint numbers where 9"),
        ("coco.json", "22.25", "NaN", "coco.json: annotation 0: field 4 is nan"),
        ("coco.json", '"images"', "images", "coco.json:1: is no JSON"),
        ("coco.json", '"images"', '"pictures"', "coco.json: is no COCO file"),
        ("faces.xml", "name='02'", "name='03'", "faces.xml: image 'set/pic 0.jpg', box 1: part '03' is no point"),
        ("faces.xml", "name='02'", "name='01'", "box 1: part '01': stands there twice"),
        ("faces.xml", "x='22.25'", "x='nan'", "part '01': field 1 is nan"),
        ("faces.xml", "</box></image>", "</image>", "faces.xml:3: is no XML"),
    ],
)
def test_malformed_annotations(tree, tmp_path, name, old, new, says):
    {"faces.csv": write_csv, "coco.json": write_coco, "faces.xml": write_dlib}[name](tree)
    text = (tree / name).read_text()
    assert old in text
    (tree / name).write_text(text.replace(old, new))
    with pytest.raises(UserError) as error:
        prepare(tree, tmp_path)
    assert says in str(error.value)


def test_formats_are_not_guessed_among_several(tree, tmp_path):
    with pytest.raises(UserError, match="holds no annotations"):
        prepare(tree, tmp_path)
    write_csv(tree)
    write_pts(tree)
    with pytest.raises(UserError, match=r"several formats \(pts, csv\): say --own_annotations"):
        prepare(tree, tmp_path)
    assert prepare(tree, tmp_path, annotations="csv").config_name != prepare(tree, tmp_path, annotations="pts").config_name
    with pytest.raises(UserError, match="holds no dlib annotations"):
        prepare(tree, tmp_path, annotations="dlib")


def test_partial_forgives_images_without_annotation(tree, tmp_path):
    write_pts(tree)
    (tree / NAMES[1]).with_suffix(".pts").unlink()
    with pytest.raises(UserError, match="pic 1.jpg has no .pts file"):
        prepare(tree, tmp_path)
    prepared = prepare(tree, tmp_path, partial=True)
    assert prepared.config_name.startswith("partial_") and sum(prepared.found.values()) == 3
    assert "pic 1.jpg has no .pts file" in prepared.missing


def test_scheme_problems_are_told(tree, tmp_path):
    write_pts(tree)
    (tree / "scheme.json").write_text('{"points": 3, "flip_pairs": [[0, 7]]}')
    with pytest.raises(UserError, match=r"scheme.json: flip pair \(0, 7\) is outside 0..2"):
        prepare(tree, tmp_path)
    (tree / "scheme.json").write_text('{"points": 3,')
    with pytest.raises(UserError, match="scheme.json:1: is no JSON"):
        prepare(tree, tmp_path)
    (tree / "scheme.json").unlink()
    with pytest.raises(UserError, match="no scheme file .*scheme.json"):
        prepare(tree, tmp_path)
    with pytest.raises(UserError, match="unknown option of own_faces 'sede'.*Did you mean 'seed'"):
        prepare(tree, tmp_path, sede=1)


def test_a_builder_without_a_folder_says_how_to_get_one(tmp_path):
    with pytest.raises(UserError, match="lmkd.prepare"):
        own_faces.Builder(data_dir=tmp_path)
