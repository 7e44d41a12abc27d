"""Prediction on images: pixels there and back, the crop of training, batches, threads, and what is refused."""

import dataclasses
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import small_faces
from blob_model import SCHEME, Network, around, blob, predictor

import lmkd
from lmkd import opened
from lmkd.core import geometry
from lmkd.core.errors import UserError
from lmkd.data import transforms
from lmkd.prediction import detectors
from lmkd.predictor import FACES_AT_ONCE, MOST_LOOKS, Predictor, named_models


@pytest.mark.parametrize("factor", [1, 5])  # crops near the image's resolution, and shrunk by area
def test_points_come_back_in_the_images_pixels(factor):
    x, y = 210.3 * factor, 120.7 * factor
    image = blob(x, y, sigma=6.0 * factor, size=(300 * factor, 400 * factor))
    box = around(x + 7 * factor, y - 4 * factor, 60.0 * factor)
    found = predictor()(image, [box])
    np.testing.assert_allclose(found.landmarks_px[0, 0], (x, y), atol=0.1 * factor)
    # The crop's first pixel: half a crop pixel (60 x 1.5 / 32 image pixels) inside the corner of the square.
    pixel, half = 60.0 * factor * 1.5 / 32, 60.0 * factor * 1.5 / 2
    corner = (x + 7 * factor - half + pixel / 2, y - 4 * factor - half + pixel / 2)
    np.testing.assert_allclose(found.landmarks_px[0, 1], corner, atol=1e-4 * factor)
    np.testing.assert_array_equal(found.boxes_px, [box])
    assert found.landmarks_px.dtype == np.float64 and found.confidences.shape == (1, 2)


def test_a_small_face_in_a_picture_longer_than_opencv_warps():
    image = np.zeros((60, 40_000, 3), np.uint8)
    image[:, 35_000:35_060] = blob(30, 30, size=(60, 60))
    found = predictor()(image, [around(35_030, 30, 24.0)])
    np.testing.assert_allclose(found.landmarks_px[0, 0], (35_030, 30), atol=0.1)


def test_the_crop_is_the_one_that_training_used():
    face = small_faces.record(small_faces.POINTS)
    image = transforms.decode(face)
    make = transforms.MakeFace(small_faces.SCHEME, 32, transforms.CropProtocol("landmarks", 1.5))
    lo, hi = small_faces.POINTS.min(axis=0), small_faces.POINTS.max(axis=0)
    network = Network()
    predictor(network=network)(image, [[*lo, *hi]])
    np.testing.assert_array_equal(network.seen[0][0], make(face, image, None)["image"])


def test_faces_of_several_images_run_together_in_their_order():
    network = Network()
    places = [(50.0, 60.0), (300.0, 200.0), (200.0, 100.0)]
    images = [blob(*places[0]) + blob(*places[1]), np.zeros((20, 30, 3), np.uint8), blob(*places[2])]
    boxes = [[around(*places[0]), around(*places[1])], [], [around(*places[2])]]
    found = predictor(network=network).many(images, boxes)
    assert [len(crops) for crops in network.seen] == [3]
    assert [len(f.landmarks_px) for f in found] == [2, 0, 1]
    np.testing.assert_allclose(np.concatenate([f.landmarks_px[:, 0] for f in found]), places, atol=0.1)
    assert found[1].landmarks_px.shape == (0, 2, 2) and found[1].boxes_px.shape == (0, 4)


def test_many_faces_are_cut_into_runs():
    network = Network()
    found = predictor(network=network)(blob(200, 150), [around(200, 150)] * (FACES_AT_ONCE + 1))
    assert [len(crops) for crops in network.seen] == [FACES_AT_ONCE, 1]
    np.testing.assert_allclose(found.landmarks_px[:, 0], np.tile((200.0, 150.0), (FACES_AT_ONCE + 1, 1)), atol=0.1)


def test_without_boxes_the_detector_decides_and_may_find_none():
    network = Network()
    image = blob(100, 80)
    found = predictor(boxes=[around(100, 80)], network=network)(image)
    np.testing.assert_allclose(found.landmarks_px[0, 0], (100, 80), atol=0.1)
    nothing = predictor(network=network)(image)
    assert nothing.landmarks_px.shape == (0, 2, 2) and nothing.confidences.shape == (0, 2) and len(network.seen) == 1


class Steady(Network):
    """Its points lie four standard deviations of the light to both sides of the middle, wherever the crop is cut."""

    def __call__(self, crops):
        found = super().__call__(crops)
        light = crops.astype(np.float64).mean(axis=(2, 3))  # a row each
        rows = np.arange(crops.shape[1]) - found.landmarks_px[:, :1, 1]
        spread = np.sqrt((light * rows**2).sum(axis=1) / light.sum(axis=1))
        middle, aside = found.landmarks_px[:, :1], 4 * spread[:, None, None] * np.array([[-1], [1]])
        return found._replace(landmarks_px=middle + aside)


def test_faces_are_looked_at_again_about_their_points_until_these_stay():
    image, far = blob(100, 80), around(108, 86)
    boxes = [far]
    for _ in range(2):  # by hand
        boxes.append(list(geometry.tight_box(predictor(network=Steady())(image, [boxes[-1]]).landmarks_px[0])))
    network = Steady()
    found = dataclasses.replace(predictor(boxes=[far], network=network), refine=True)(image)
    np.testing.assert_allclose(found.boxes_px[0], boxes[1])  # boxes[2] is no farther than a twentieth of its side
    np.testing.assert_allclose(boxes[2], boxes[1], atol=0.05 * 48)
    np.testing.assert_array_equal(found.landmarks_px, predictor(network=Steady())(image, found.boxes_px).landmarks_px)
    assert [len(crops) for crops in network.seen] == [1, 1]
    near, network = boxes[2], Steady()
    found = dataclasses.replace(predictor(boxes=[near], network=network), refine=True)(image)
    np.testing.assert_array_equal(found.boxes_px, [near])
    assert len(network.seen) == 1


def test_faces_that_have_settled_are_not_looked_at_again_with_others():
    image = np.maximum(blob(100, 80), blob(250, 200))
    settled = geometry.tight_box(predictor(network=Steady())(image, [around(100, 80)]).landmarks_px[0])
    network = Steady()
    again = dataclasses.replace(predictor(boxes=[settled, around(256, 205)], network=network), refine=True)
    found = again(image)
    assert [len(crops) for crops in network.seen] == [2, 1]
    np.testing.assert_array_equal(found.boxes_px[0], settled)
    np.testing.assert_allclose(found.landmarks_px.mean(axis=1), [(100, 80), (250, 200)], atol=0.1)
    assert again.many([]) == []


def test_a_look_that_leads_off_the_face_is_not_followed():
    class Away(Network):
        def __call__(self, crops):
            found = super().__call__(crops)
            return found._replace(landmarks_px=found.landmarks_px + 100)

    network, box = Away(), around(100, 80)
    found = dataclasses.replace(predictor(boxes=[box], network=network), refine=True)(blob(100, 80))
    np.testing.assert_array_equal(found.boxes_px, [box])
    assert len(network.seen) == 1


def test_looks_end_where_points_never_stay():
    network, image = Network(), blob(100, 80)  # its second point goes with the crop
    again = dataclasses.replace(predictor(boxes=[around(110, 90)], network=network), refine=True)
    boxes = [around(110, 90)]
    for _ in range(MOST_LOOKS - 1):
        boxes.append(list(geometry.tight_box(predictor()(image, [boxes[-1]]).landmarks_px[0])))
    found = again(image)
    np.testing.assert_allclose(found.boxes_px[0], boxes[-1])
    assert [len(crops) for crops in network.seen] == [1] * MOST_LOOKS
    # Given boxes are taken as they are, also beside an image that the detector looks at.
    given, looked = again.many([image, image], [[around(100, 80)], None])
    np.testing.assert_array_equal(given.boxes_px, [around(100, 80)])
    np.testing.assert_array_equal(looked.landmarks_px, found.landmarks_px)
    assert [len(crops) for crops in network.seen[MOST_LOOKS:]] == [2, 1, 1]


def test_a_face_cut_by_the_border_is_black_outside():
    network = Network()
    image = np.full((100, 100, 3), 200, np.uint8)
    predictor(network=network)(image, [[-40, 20, 20, 80]])  # its square reaches from -55 to 35
    crop = network.seen[0][0]
    assert (crop[:, :19] == 0).all() and (crop[:, 20:] == 200).all()


def test_any_number_of_threads_gives_the_same():
    cascade = detectors.Cascade(longest_px=100, smallest_px=30)
    shared = Predictor(predictor().model, cascade)  # looks again
    images = [blob(60 + 5 * n, 50, sigma=15, size=(100, 120)) for n in range(8)]
    alone = [shared(image, [around(60, 50)]) for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda image: shared(image, [around(60, 50)]), images))
        looked = list(pool.map(shared, images))
    for one, other, look, image in zip(alone, together, looked, images, strict=True):
        np.testing.assert_array_equal(one.landmarks_px, other.landmarks_px)
        np.testing.assert_array_equal(shared(image).landmarks_px, look.landmarks_px)


@pytest.mark.parametrize(
    ("image", "boxes", "parts"),
    [
        (np.zeros((8, 8, 3), np.float32), None, ["float32 [8, 8, 3]", "uint8 RGB [H, W, 3]"]),
        (np.zeros((8, 8), np.uint8), None, ["uint8 [8, 8]", "repeated three times"]),
        ("faces.jpg", None, ["image 0: str"]),
        (blob(5, 5), [1.0, 2.0, 3.0, 4.0], ["shape [4]", "[n, 4]"]),
        (blob(5, 5), [[9, 9, 5, 20], [500, 5, 600, 20], [np.nan, 1, 2, 3]], ["box 0", "x0 < x1", "box 1", "outside", "box 2"]),
    ],
)
def test_what_is_no_image_or_no_box_is_told(image, boxes, parts):
    with pytest.raises(UserError) as error:
        predictor().__call__(image, boxes) if isinstance(image, np.ndarray) else predictor().many([image])
    assert all(part in str(error.value) for part in parts), error.value


def test_one_entry_of_boxes_an_image():
    with pytest.raises(UserError, match="2 images and 1 entries"):
        predictor().many([blob(5, 5)] * 2, [None])


def test_load_names_model_and_detector(monkeypatch):
    asked = []
    monkeypatch.setattr(opened, "open_model", lambda *a, **k: asked.append((a, k)) or predictor().model)
    whole = lmkd.load("runs/x", "latest", detector="whole", refine=False)
    assert asked == [(("runs/x", "latest"), {"flip_test": None})] and whole.scheme is SCHEME
    np.testing.assert_allclose(whole(blob(200, 150, sigma=20)).landmarks_px[0, 0], (200, 150), atol=0.5)
    with pytest.raises(UserError, match="Did you mean 'cascade'"):
        lmkd.load("runs/x", detector="cascad")
    with pytest.raises(UserError, match=r"no_such\.onnx: there is no such file"):
        lmkd.load("runs/x", detector="no_such.onnx")


def test_a_workdir_names_its_scored_stages(tmp_path):
    stages = {"teacher": {"scored": True}, "pretext": {"scored": False}, "student": {"scored": True}, "later": {"scored": True}}
    for workdir in ("one", "two"):
        for stage in ("teacher", "pretext", "student"):
            (tmp_path / workdir / stage / "checkpoints").mkdir(parents=True)
        kept = json.dumps({"stages": list(stages), "stage": stages})
        for place in (tmp_path / workdir, tmp_path / workdir / "student"):  # a stage's folder keeps the config, too
            (place / "config.json").write_text(kept)
    one, two = tmp_path / "one", tmp_path / "two"
    assert named_models([one]) == {"teacher": one / "teacher", "student": one / "student"}
    assert named_models([one / "student", "model.onnx"]) == {"student": one / "student", "model.onnx": Path("model.onnx")}
    both = named_models([str(one), str(two / "student")])
    assert list(both) == ["one/teacher", "one/student", "two/student"] and both["two/student"] == two / "student"


def test_importing_lmkd_loads_nothing_heavy():
    code = "import sys, lmkd; lmkd.load; sys.exit(any(m in sys.modules for m in ('jax', 'numpy', 'cv2', 'flax')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
