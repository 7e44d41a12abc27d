"""YouTube Faces from a tiny archive in the published layout: splits, people, alpha PNG, download."""

import functools
import http.server
import threading
import zipfile

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from lmkd.core.errors import UserError
from lmkd.data import preparation
from lmkd.data_builders.youtube_faces68 import youtube_faces68_dataset_builder as youtube

PEOPLE = ["Ada_King", "Bo", "Cy_van_Dyk", "Di", "Ed", "Flo", "Gus", "Hal", "Ida", "Jo", "Kay", "Lu"]
POINTS = np.stack([np.arange(68) % 50 + 2, np.arange(68) % 37 + 3], axis=1)
TRAIN = [f"{person}_{frame}0.jpg" for person in PEOPLE for frame in (1, 2)]
TEST = [f"{person}_30.jpg" for person in PEOPLE[:5]]
ALPHA = "Bo_10.jpg"


def row(name, points=POINTS):
    return ",".join([name, *(f"{v:.1f}" for v in np.ravel(points))])


def write(root):
    header = "," + ",".join(map(str, range(136)))
    rng = np.random.default_rng(0)
    for folder, names in (("training", TRAIN), ("test", TEST)):
        (root / folder).mkdir(parents=True)
        (root / f"{folder}_frames_keypoints.csv").write_text("\n".join([header, *map(row, names), ""]))
        for name in names:
            image = rng.integers(0, 256, (50, 60, 4 if name == ALPHA else 3), np.uint8)
            data = cv2.imencode(".png" if name == ALPHA else ".jpg", image)[1]
            (root / folder / name).write_bytes(data.tobytes())
    (root / "test/Nobody_00.jpg").write_bytes(b"a frame without a line is not annotated")
    return root


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.setattr(youtube.Builder, "PUBLISHED", {"train": len(TRAIN), "test": len(TEST)})
    return write(tmp_path / "faces")


def records(builder, split):
    source = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    return {r["key"].decode(): r for r in source}


def test_published_counts():
    assert youtube.Builder.PUBLISHED == {"train": 3462, "test": 770}


def test_complete_tree_becomes_records(tree, tmp_path):
    prepared = preparation.prepare("youtube_faces68", manual_dir=tree, data_dir=tmp_path, progress=False)
    assert prepared.config_name == "complete"
    builder = preparation.locate("youtube_faces68", data_dir=tmp_path)
    train = records(builder, "train")
    assert sorted(train) == sorted(TRAIN) and sorted(records(builder, "test")) == sorted(TEST)
    alpha = train[ALPHA]
    assert alpha["image"] == (tree / "training" / ALPHA).read_bytes() and alpha["image"].startswith(b"\x89PNG")
    assert alpha["person"] == b"Bo" and train["Cy_van_Dyk_10.jpg"]["person"] == b"Cy_van_Dyk"
    np.testing.assert_array_equal(alpha["landmarks_px"], POINTS)  # 0-based as published
    assert alpha["subset"].shape == (0,)


def test_split_by_person_is_disjoint_deterministic_and_complete(tree, tmp_path):
    preparation.prepare("youtube_faces68", manual_dir=tree, data_dir=tmp_path, progress=False)
    builder = preparation.locate("youtube_faces68", data_dir=tmp_path)
    one, other = records(builder, "train_people"), records(builder, "validation_people")
    assert sorted([*one, *other]) == sorted(TRAIN)
    people = [{r["person"] for r in part.values()} for part in (one, other)]
    assert people[0] and people[1] and not people[0] & people[1]
    # First 64 bits of `printf NAME | sha256sum`, modulo 100: Bo 49, Luis_Fonsi 62, and Hugo 13, below 15.
    assert [youtube.for_validation(name) for name in ("Bo", "Luis_Fonsi", "Hugo")] == [False, False, True]
    names = [f"person {i}" for i in range(2000)]
    assert 0.12 < np.mean([youtube.for_validation(name) for name in names]) < 0.18


def test_all_problems_come_together_and_nothing_is_left_behind(tree, tmp_path):
    path = tree / "training_frames_keypoints.csv"
    lines = path.read_text().splitlines()
    lines[2] = lines[2].rsplit(",", 1)[0]
    lines[3] = lines[3].rsplit(",", 1)[0] + ",nan"
    lines[5] = lines[4]
    lines[7] = row(TRAIN[6], POINTS + [0, 900])
    path.write_text("\n".join(lines))
    (tree / "test" / TEST[0]).unlink()
    with pytest.raises(UserError) as error:
        preparation.prepare("youtube_faces68", manual_dir=tree, data_dir=tmp_path / "data", progress=False)
    name = path.name
    for expected in (
        f"{name}:3: 136 fields where 137 are needed",
        f"{name}:4: field 137 is nan",
        f"{name}:6: repeats {TRAIN[3]!r} of {name}:5",
        f"{name}:8: point 36 at (38.0, 939.0) is",
        f"test_frames_keypoints.csv:2: image test/{TEST[0]} is missing",
        f"split train: {len(TRAIN) - 2} of {len(TRAIN)} faces",
    ):
        assert expected in str(error.value)
    assert not (tmp_path / "data").exists()


def test_partial_counts_against_the_published(tree, tmp_path):
    (tree / "training" / TRAIN[0]).unlink()
    prepared = preparation.prepare("youtube_faces68", manual_dir=tree, data_dir=tmp_path, partial=True, progress=False)
    assert prepared.found["train"] == len(TRAIN) - 1 and prepared.published["train"] == len(TRAIN)
    assert f"split train: {len(TRAIN) - 1} of {len(TRAIN)} faces" in prepared.missing
    assert "train_people" not in prepared.published  # nobody published a split by person


@pytest.fixture
def server(tmp_path):
    """An http server of one folder."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    folder = tmp_path / "www"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def test_archive_is_downloaded_where_there_is_no_manual_dir(tree, tmp_path, server, monkeypatch):
    folder, url = server
    with zipfile.ZipFile(folder / "train-test-data.zip", "w") as archive:
        for path in sorted(p for p in tree.rglob("*") if p.is_file()):
            archive.write(path, f"data/{path.relative_to(tree)}")
    monkeypatch.setattr(youtube.Builder, "URL", f"{url}/train-test-data.zip")
    prepared = preparation.prepare("youtube_faces68", data_dir=tmp_path / "data", progress=False)
    assert prepared.found["train"] == len(TRAIN) and prepared.config_name == "complete"


def test_broken_archive_is_one_clear_message(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK, but no zip")
    with pytest.raises(UserError, match="no sound zip archive"):
        youtube.unpack(tmp_path / "a.zip")


def test_the_real_archive_by_person(real_data):
    tree = youtube.Builder.scan(real_data / "youtube_faces68", partial=True)
    assert {s: len(f) for s, f in tree.faces.items() if s in ("train", "test")} == {"train": 2973, "test": 662}
    people = {s: {f.person for f in faces} for s, faces in tree.faces.items()}
    assert not people["train_people"] & people["validation_people"]
    assert len(people["train"]) == 297


def test_an_archive_never_writes_outside_its_folder(tmp_path, monkeypatch):
    for stray in ("../escaped.csv", "/tmp/escaped_absolute.csv", "a/../../escaped.csv"):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
            packed.writestr("training/a.jpg", b"x")
            packed.writestr(stray, b"x")
        with pytest.raises(UserError, match="would write outside its folder"):
            youtube.unpack(tmp_path / "a.zip")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a", bytes(1 << 20))
    monkeypatch.setattr(youtube, "MOST_BYTES", 1 << 19)
    with pytest.raises(UserError, match="unpacks to"):
        youtube.unpack(tmp_path / "b.zip")
