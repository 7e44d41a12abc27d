"""The strict checks: images, points, keys, counts, the content hash."""

import cv2
import numpy as np
import pytest
from small_faces import png_that_claims

from lmkd.core import schemes
from lmkd.core.errors import UserError
from lmkd.data_builders import common, trees

SCHEME = schemes.from_json('{"points": 3, "name": "three"}')
POINTS = np.array([[2.0, 3.0], [20.0, 3.0], [10.0, 18.0]])


def encoded(suffix: str = ".jpg", *, width: int = 32, height: int = 24, seed: int = 0) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.imencode(suffix, noise)[1].tobytes()


def face(tmp_path, name="a.jpg", points=POINTS, **more):
    return common.Face(name, tmp_path / name, np.asarray(points, float), where=f"list.txt:{name}", **more)


def test_sound_images_give_their_size():
    for suffix in (".jpg", ".png"):
        assert trees.decoded_size(encoded(suffix)) == ((32, 24), "")


def test_exif_rotation_does_not_swap_the_sides():
    exif = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"
    data = encoded()
    rotated = data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]
    assert cv2.imdecode(np.frombuffer(rotated, np.uint8), cv2.IMREAD_COLOR).shape[:2] == (32, 24)  # the tag is honoured
    assert trees.decoded_size(rotated) == ((32, 24), "")


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_truncated_images_are_damaged(suffix):
    data = encoded(suffix, width=200, height=200)
    for kept in (len(data) // 3, len(data) - 100, len(data) - 1):
        size, problem = trees.decoded_size(data[:kept])
        assert size == (0, 0) and "damaged" in problem


@pytest.mark.parametrize(
    ("data", "says"), [(b"", "empty file"), (b"GIF89a...", "neither JPEG nor PNG"), (b"\xff\xd8\xff\xe0abc", "damaged")]
)
def test_other_data_is_refused(data, says):
    assert says in trees.decoded_size(data)[1]


def test_a_bomb_is_refused_before_it_is_decoded():
    assert trees.decoded_size(png_that_claims(60_000, 60_000)) == ((0, 0), "60000 x 60000 pixels, more than 100 megapixels")


def test_points_outside_the_image_by_more_than_two_faces_are_refused(tmp_path):
    # Middle 80 % of x: from 10 + 0.2 * 10 to 30 - 0.2 * 10, so the face is 16 px and 32 px outside is accepted.
    points = np.array([[10.0, 5.0], [20.0, 5.0], [30.0, 5.0]])
    assert trees.face_problems(face(tmp_path, points=points), (31, 24), SCHEME) == []
    assert trees.face_problems(face(tmp_path, points=points - [20 + 21.5, 0]), (31, 24), SCHEME) == []
    (problem,) = trees.face_problems(face(tmp_path, points=points - [20 + 23.5, 0]), (31, 24), SCHEME)
    assert "list.txt:a.jpg: point 0 at (-33.5, 5.0) is 33 px outside the image (31 x 24)" in problem


def test_one_wild_point_cannot_stretch_its_own_bound(tmp_path):
    many = schemes.from_json('{"points": 20}')
    points = np.stack([np.linspace(2, 20, 20), np.linspace(3, 15, 20)], axis=1)
    points[7] = (9000.0, 5.0)
    (problem,) = trees.face_problems(face(tmp_path, points=points), (32, 24), many)
    assert "point 7" in problem


def test_bad_faces_are_named(tmp_path):
    nan = POINTS.copy()
    nan[1, 0] = np.nan
    cases = {
        "2 points where scheme three has 3": face(tmp_path, points=POINTS[:2]),
        "NaN or infinite coordinates at point 1": face(tmp_path, points=nan),
        "all points are the same": face(tmp_path, points=np.ones((3, 2))),
        "rectangle (9, 0, 5, 5) is empty": face(tmp_path, rectangle_px=(9, 0, 5, 5)),
        "no point is annotated": face(tmp_path, visible=np.zeros(3)),
    }
    for says, bad in cases.items():
        (problem,) = trees.face_problems(bad, (32, 24), SCHEME)
        assert says in problem
    assert trees.face_problems(face(tmp_path, points=nan, visible=np.array([1, 0, 1])), (32, 24), SCHEME) == []


def test_everything_is_reported_together_and_missing_things_are_forgiven_apart(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded())
    (tmp_path / "cut.png").write_bytes(encoded(".png")[:300])
    (tmp_path / "nan.jpg").write_bytes(encoded())
    faces = [
        face(tmp_path),
        face(tmp_path),
        face(tmp_path, "cut.png"),
        face(tmp_path, "nan.jpg", np.full((3, 2), np.nan), visible=np.ones(3)),
        face(tmp_path, "gone.jpg"),
    ]

    def check(partial):
        findings = trees.Findings(tmp_path)
        findings.problem(tmp_path / "x.txt", "as read")
        trees.check({"train": faces}, findings, scheme=SCHEME, published={"train": 9}, partial=partial)

    wrong = ["x.txt: as read", "cut.png: damaged image", "list.txt:nan.jpg: NaN", "list.txt:a.jpg: repeats 'a.jpg'"]
    missing = ["split train: 4 of 9 faces", "list.txt:gone.jpg: image gone.jpg is missing"]
    with pytest.raises(UserError) as strict:
        check(partial=False)
    assert all(text in str(strict.value) for text in wrong + missing) and "6 problems" in str(strict.value)
    with pytest.raises(UserError) as partial:
        check(partial=True)
    assert all(text in str(partial.value) for text in wrong) and "4 problems" in str(partial.value)


def test_more_faces_than_published_are_not_forgiven(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded())
    with pytest.raises(UserError, match="split train: 1 faces, more than the 0 published"):
        trees.check({"train": [face(tmp_path)]}, trees.Findings(tmp_path), scheme=SCHEME, published={"train": 0}, partial=True)


def test_an_empty_tree_is_an_error_even_if_partial(tmp_path):
    with pytest.raises(UserError, match="nothing to prepare"):
        trees.check({"train": []}, trees.Findings(tmp_path), scheme=SCHEME, published={"train": 2}, partial=True)


def test_the_hash_follows_names_and_bytes_of_images_and_annotations(tmp_path):
    def tree_hash(name="a.jpg", image=0, note="x", salt=""):
        root = tmp_path / f"{name}{image}{note}{salt}"
        root.mkdir()
        (root / name).write_bytes(encoded(seed=image))
        (root / "list.txt").write_text(note)
        findings = trees.Findings(root, salt=salt)
        findings.read_text(root / "list.txt")
        return trees.check({"t": [face(root, name)]}, findings, scheme=SCHEME, published={}, partial=False).tree_hash

    hashes = [tree_hash(), tree_hash("b.jpg"), tree_hash(image=1), tree_hash(note="y"), tree_hash(salt="s")]
    assert len(set(hashes)) == 5
    other_place = tmp_path / "other"
    other_place.mkdir()
    (other_place / "a.jpg").write_bytes(encoded())
    (other_place / "list.txt").write_text("x")
    findings = trees.Findings(other_place)
    findings.read_text(other_place / "list.txt")
    again = trees.check({"t": [face(other_place)]}, findings, scheme=SCHEME, published={}, partial=False)
    assert again.tree_hash == hashes[0]


def test_faces_of_one_image_are_numbered_and_a_repeated_one_is_noted(tmp_path):
    findings = trees.Findings(tmp_path)
    faces = [face(tmp_path), face(tmp_path, "b.jpg"), face(tmp_path, points=POINTS + 1), face(tmp_path)]
    assert [f.key for f in trees.number_faces(faces, findings)] == ["a.jpg#0", "b.jpg#0", "a.jpg#1"]
    assert findings.problems == ["list.txt:a.jpg: repeats the face of list.txt:a.jpg"]


def test_example_has_the_features_of_a_prepared_record(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded())
    points = POINTS.copy()
    points[2] = np.nan
    record = common.example(face(tmp_path, points=points, subset=("late",), person="Ada"), ("early", "late"))
    assert record["image"] == encoded() and record["person"] == "Ada" and record["key"] == "a.jpg"
    np.testing.assert_array_equal(record["visible"], np.float32([1, 1, 0]))
    np.testing.assert_array_equal(record["subset"], np.uint8([0, 1]))
    assert np.isnan(record["rectangle_px"]).all() and record["landmarks_px"].dtype == np.float32
    assert set(record) == set(common.record_features(SCHEME, ("early", "late")))
