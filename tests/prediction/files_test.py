"""Files in, files out: inputs gathered and named, pictures and videos predicted on, tables written whole."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from blob_model import SCHEME, around, blob, predictor
from PIL import Image

from lmkd.core.errors import UserError
from lmkd.data import preparation, reading, transforms
from lmkd.prediction import files, images, inputs, outputs, videos
from lmkd.prediction.outputs import Face, Seen


def put(path, image) -> str:
    """Writes a picture, losslessly where the suffix allows, and returns its path as text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))
    return str(path)


def film(path, frames, fps=12.5) -> str:
    with videos.writing(path, fps, frames[0].shape[1], frames[0].shape[0]) as write:
        for frame in frames:
            write(frame)
    return str(path)


def test_folders_are_walked_and_results_get_names_of_their_own(tmp_path):
    image = blob(5, 5, size=(10, 12))
    folder, output = tmp_path / "in", tmp_path / "in" / "out"
    for name in ("a.png", "a.webp", "sub/a.PNG", "sub/b.jpg", ".hidden.png", ".cache/x.png", "out/old.png"):
        put(folder / name, image)
    (folder / "readme.txt").write_text("text")
    alone = put(tmp_path / "A.bmp", image)
    found, notes = inputs.gather([str(folder), alone, str(folder / "sub" / "b.jpg")], output)
    assert [(str(i.path.relative_to(tmp_path)), str(i.drawn), i.is_video) for i in found] == [
        ("in/a.png", "a.png", False),
        ("in/a.webp", "a-2.png", False),
        ("in/sub/a.PNG", "sub/a.png", False),
        ("in/sub/b.jpg", "sub/b.jpg", False),
        ("A.bmp", "A-3.png", False),  # names differ by more than case
    ]
    assert notes == [f"{folder}: 1 files that are neither picture nor video left out (readme.txt)"]


def test_a_picture_without_a_suffix_is_known_by_its_content(tmp_path):
    path = tmp_path / "picture"
    path.write_bytes(Path(put(tmp_path / "a.png", blob(5, 5, size=(10, 12)))).read_bytes())
    (found,), _ = inputs.gather([str(path)], tmp_path / "out")
    assert str(found.drawn) == "picture.png"


def test_wrong_inputs_are_told_together(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("text")
    inside = put(tmp_path / "out" / "a.png", blob(5, 5, size=(10, 12)))
    words = [str(tmp_path / "empty"), str(tmp_path / "gone.jpg"), str(tmp_path / "notes.txt"), inside]
    with pytest.raises(UserError) as error:
        inputs.gather(words, tmp_path / "out")
    for part in (
        "4 problems",
        "holds no picture or video",
        "gone.jpg: there is no such file",
        "notes.txt: neither",
        "choose another",
    ):
        assert part in str(error.value)


def test_pictures_are_predicted_drawn_and_told(tmp_path):
    good = put(tmp_path / "good.png", blob(210.3, 120.7))
    cut = put(tmp_path / "cut.png", blob(2.0, 100.0))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    found, _ = inputs.gather([good, str(tmp_path / "bad.png"), cut], tmp_path / "out")
    told, warned = [], []
    job = files.Job(predictor(), tmp_path / "out", boxes=[around(210, 120)], model="blob")
    skipped = files.predict(found, job, tell=told.append, warn=warned.append)
    assert [Path(path).name for path, _ in skipped] == ["bad.png"] and "cannot be read" in warned[0]
    assert told[0] == f"{good}: 1 face"
    document = json.loads(job.table.read_text())
    assert document["names"] == ["middle", "corner"] and document["model"] == "blob" and document["scheme"] == "blob"
    assert [entry["path"] for entry in document["skipped"]] == [str(tmp_path / "bad.png")]
    first = document["images"][0]
    assert (first["width"], first["height"], first["drawn"]) == (400, 300, "good.png")
    (face,) = first["faces"]
    np.testing.assert_allclose(face["landmarks_px"][0], (210.3, 120.7), atol=0.1)
    assert face["confidences"] == [0.5, 0.5] and face["cut_by_border"] is False and face["box_px"] == around(210, 120)
    drawn = images.read(tmp_path / "out" / "good.png").image
    assert drawn.shape == (300, 400, 3) and tuple(drawn[121, 210]) == (255, 225, 0)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["cut.png", "good.png", "predictions.json"]


def test_no_face_and_a_cut_face_are_told(tmp_path):
    found, _ = inputs.gather([put(tmp_path / "a.png", blob(5.0, 100.0))], tmp_path / "out")
    told = []
    files.predict(found, files.Job(predictor(), tmp_path / "out"), tell=told.append)
    files.predict(found, files.Job(predictor(), tmp_path / "out", boxes=[around(5, 100)]), tell=told.append)
    assert "no face found (--box" in told[0] and told[1].endswith(": 1 face, cut by the border")


def test_the_csv_has_a_line_a_face(tmp_path):
    found, _ = inputs.gather([put(tmp_path / "a.png", blob(60.0, 100.0) + blob(300.0, 200.0))], tmp_path / "out")
    job = files.Job(predictor(), tmp_path / "out", "csv", [around(60, 100), around(300, 200)], draw=False)
    assert files.predict(found, job, tell=lambda line: None) == []
    rows = list(csv.DictReader(job.table.read_text().splitlines()))
    assert [(row["face"], row["frame"], row["track"]) for row in rows] == [("0", "", ""), ("1", "", "")]
    places = [[float(row["x_middle"]), float(row["y_middle"])] for row in rows]
    np.testing.assert_allclose(places, [(60, 100), (300, 200)], atol=0.1)
    assert rows[1]["box_x0"] == "270.0" and rows[1]["confidence_corner"] == "0.5"
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["predictions.csv"]


def test_pictures_without_labels_become_a_data_set(tmp_path):
    """Prepared by the builder itself: points in the kept, upright pixels, a video's frames together, scheme and all."""
    turned = Image.fromarray(blob(75.0, 105.0))
    exif = turned.getexif()
    exif[0x0112] = 3  # is stored upside down
    (tmp_path / "in").mkdir()
    turned.rotate(180).save(tmp_path / "in" / "turned.png", exif=exif)
    put(tmp_path / "in" / "other.png", blob(70.0, 110.0))
    put(tmp_path / "in" / "images" / "other.png", blob(78.0, 90.0))  # a name that a data set has as well
    film(tmp_path / "in" / "clip.mp4", [blob(60.0 + 4 * n, 100.0, sigma=9, size=(240, 320)) for n in range(7)], fps=3)
    found, _ = inputs.gather([str(tmp_path / "in")], tmp_path / "out")
    job = files.Job(predictor(boxes=[around(80, 100, 120)]), tmp_path / "out", "own_faces")
    assert files.predict(found, job, tell=lambda line: None) == []
    assert sorted(p.name for p in job.folder.iterdir()) == ["drawn", "faces.csv", "images", "scheme.json"]
    given = preparation.prepare(
        "own_faces", data_dir=tmp_path / "data", manual_dir=job.folder, options={"test_fraction": 0.0}, progress=False
    )
    split = reading.open_split(f"own_faces/{given.config_name}:train", data_dir=str(tmp_path / "data"))
    records = [split[n] for n in range(len(split))]
    assert split.scheme == SCHEME
    middles = {r.key: r.landmarks_px[0] for r in records}
    assert len(middles) == 6 and {r.person for r in records} == {"", str(tmp_path / "in" / "clip.mp4")}
    np.testing.assert_allclose(middles["images/clip.mp4/000003.jpg#0"], (72, 100), atol=1.0)
    np.testing.assert_allclose(middles["images/turned.png#0"], (75, 105), atol=0.1)
    assert images.read(job.folder / "images" / "turned.png").image[105, 75].min() > 250  # upright
    np.testing.assert_allclose(middles["images/images/other.png#0"], (78, 90), atol=0.1)
    for name in ("other.png", "images/other.png"):  # without the points that are drawn beside
        stored = transforms.decode(next(r for r in records if r.key == f"images/{name}#0"))
        assert np.ptp(stored.astype(int), axis=-1).max() == 0
        assert np.ptp(images.read(job.folder / "drawn" / name).image.astype(int), axis=-1).max() > 0


def test_points_outside_the_picture_are_cut_by_the_border():
    inside = np.array([[-0.5, 0.0], [9.5, 4.5]])  # a picture of 10 x 5 pixels covers -0.5 .. 9.5 and -0.5 .. 4.5
    for points, cut in ((inside, False), (inside - [0.1, 0], True), (inside + [0, 0.1], True)):
        assert outputs.cut_by_border(Face(points, np.ones(2), np.zeros(4)), 10, 5) is cut


def test_a_table_that_is_not_finished_is_not_there(tmp_path):
    path = tmp_path / "predictions.json"
    with pytest.raises(RuntimeError), outputs.table(path, "json", model="", scheme=SCHEME, skipped=[]) as add:
        add(Seen("a.png", 4, 4, []))
        raise RuntimeError("stopped")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="Did you mean 'json'"), outputs.table(path, "jsn", model="", scheme=SCHEME, skipped=[]):
        pass


def test_a_video_keeps_its_rate_and_size_and_its_faces_their_numbers(tmp_path):
    frames = [blob(60.0 + 4 * n, 100.0, sigma=9, size=(241, 321)) for n in range(11)]  # more than run at once
    clip = film(tmp_path / "clip.mp4", frames)
    found, _ = inputs.gather([clip], tmp_path / "out")
    assert [(i.is_video, str(i.drawn)) for i in found] == [(True, "clip.mp4")]
    told = []
    job = files.Job(predictor(boxes=[around(80, 100, 120)]), tmp_path / "out")
    assert files.predict(found, job, tell=told.append) == []
    assert told == [f"{clip}: 11 frames at 12.5 fps, 11 of them with a face"]
    seen = json.loads(job.table.read_text())["images"]
    assert [s["frame"] for s in seen] == list(range(11)) and seen[5]["time_s"] == 0.4
    assert {f["track"] for s in seen for f in s["faces"]} == {1}
    x = [s["faces"][0]["landmarks_px"][0][0] for s in seen]
    np.testing.assert_allclose(x, 60.0 + 4 * np.arange(11), atol=1.0)  # the codec is lossy
    with videos.reading(tmp_path / "out" / "clip.mp4") as (info, drawn):
        # The codec wants even sides: OpenCV leaves the last column and row out.
        assert (info.width, info.height, info.fps, info.notes) == (320, 240, 12.5, ())
        assert len(list(drawn)) == 11


def test_smoothing_lags_behind_a_jump(tmp_path):
    frames = [blob(60.0 + 20 * (n > 3), 100.0, sigma=9, size=(200, 240)) for n in range(6)]
    found, _ = inputs.gather([film(tmp_path / "clip.mp4", frames)], tmp_path / "out")
    job = files.Job(predictor(boxes=[around(70, 100, 120)]), tmp_path / "out", draw=False, smooth=True)
    files.predict(found, job, tell=lambda line: None)
    x = [s["faces"][0]["landmarks_px"][0][0] for s in json.loads(job.table.read_text())["images"]]
    assert abs(x[3] - 60) < 1 and 62 < x[4] < 79 and x[4] < x[5]


def test_a_damaged_video_is_left_out(tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    found, _ = inputs.gather([str(tmp_path / "bad.mp4")], tmp_path / "out")
    ((path, why),) = files.predict(found, files.Job(predictor(), tmp_path / "out"), warn=lambda line: None)
    assert path.endswith("bad.mp4") and "cannot be read as a video" in why
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["predictions.json"]
