"""Boxes of detectors, brought to the boxes that models saw while training."""

import cv2
import numpy as np
import pytest

from lmkd.core import geometry
from lmkd.core.errors import UserError
from lmkd.data_builders.synthetic_faces.render import draw_face
from lmkd.prediction import detectors, images
from lmkd.prediction.detectors import Fit
from lmkd.prediction.tracking import overlaps

FACE = draw_face(3, 5, 256)  # one that the cascade finds


def scene(x, y, size=(400, 520), face_px=200) -> np.ndarray:
    """The face on grey, its picture's corner at (x, y)."""
    image = np.full((*size, 3), 128, np.uint8)
    face = cv2.resize(FACE.image, (face_px, face_px), interpolation=cv2.INTER_AREA)
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + face_px, size[1]), min(y + face_px, size[0])
    image[top:bottom, left:right] = face[top - y : bottom - y, left - x : right - x]
    return image


def true_box(x, y, face_px=200) -> np.ndarray:
    """The tight box of the face's points in `scene`."""
    return np.array(geometry.tight_box((FACE.landmarks98_px + 0.5) * face_px / 256 - 0.5 + (x, y)))


def test_a_fit_moves_and_scales_by_the_longer_side():
    (square,) = Fit(0.5, 0.1, -0.2)(np.array([[10.0, 20.0, 110.0, 60.0]]))
    # Longer side 100: a square of 50 about the centre (60, 40) moved by (10, -20).
    np.testing.assert_allclose(square, [45, -5, 95, 45])
    assert Fit(0.5, 0.1, -0.2)(np.zeros((0, 4))).shape == (0, 4)


def test_measuring_gives_the_fit_back():
    rng = np.random.default_rng(0)
    corner, side = rng.uniform(0, 300, (50, 2)), rng.uniform(40, 200, (50, 1))
    found = np.concatenate([corner, corner + side], axis=1)
    fit = Fit(0.9, 0.02, 0.15)
    true = fit(found)
    true[:10] += 500  # a fifth of the faces are other faces: medians do not mind
    np.testing.assert_allclose(detectors.measure(found, true), fit, atol=0.01)


@pytest.mark.parametrize(("x", "y"), [(60, 80), (300, 150), (-20, 100)])  # the last one cut by the border
def test_the_cascade_finds_the_box_of_the_points(x, y):
    found = detectors.Cascade()(scene(x, y))
    assert found.shape == (1, 4)
    assert overlaps(found, true_box(x, y)[None])[0, 0] > 0.6


def test_a_face_is_found_alike_in_a_large_picture():
    small = detectors.Cascade(longest_px=520)
    large = np.kron(scene(60, 80), np.ones((3, 3, 1), np.uint8))
    # Pixel x of the small picture is centred at 3 (x + 0.5) - 0.5 of the large one.
    np.testing.assert_allclose(small(large), 3 * (small(scene(60, 80)) + 0.5) - 0.5, atol=1e-6)


def test_no_face_no_box_and_larger_faces_first():
    assert detectors.Cascade()(np.full((200, 300, 3), 90, np.uint8)).shape == (0, 4)
    assert detectors.Cascade()(np.full((3, 5, 3), 90, np.uint8)).shape == (0, 4)
    both = np.concatenate([scene(60, 80, face_px=150), scene(60, 80, face_px=240)], axis=1)
    found = detectors.Cascade()(both)
    assert len(found) == 2 and found[0, 0] > 520 > found[1, 2]


def test_the_whole_image_fills_the_crop():
    (box,) = detectors.Whole(1.25)(np.zeros((80, 120, 3), np.uint8))
    square = geometry.square_around(tuple(box.tolist()), 1.25)
    assert square.side_px == pytest.approx(120)
    np.testing.assert_allclose(square.centre_px, (59.5, 39.5))  # the image covers -0.5 .. 119.5 and -0.5 .. 79.5


def test_a_yunet_models_boxes(monkeypatch, tmp_path):
    class Net:
        def setInputSize(self, size):
            self.size = size

        def detect(self, image):
            assert image.shape[1::-1] == tuple(self.size) and image[0, 0].tolist() == [3, 2, 1]  # BGR
            rows = np.zeros((2, 15), np.float32)
            rows[:, :4] = [[10, 20, 30, 40], [100, 100, 60, 80]]  # x, y, width, height
            return 1, rows

    path = tmp_path / "yunet.onnx"
    path.write_bytes(b"x")
    monkeypatch.setattr(cv2.FaceDetectorYN, "create", lambda *a: Net())
    image = np.full((200, 400, 3), (1, 2, 3), np.uint8)
    found = detectors.YuNet(path, fit=Fit(1.0, 0.0, 0.0), longest_px=200)(image)
    # Halved: 99.5 .. 159.5 of the small picture is 199.5 .. 319.5 of the large one. Squares, the largest first.
    np.testing.assert_allclose(found, [[179.5, 199.5, 339.5, 359.5], [9.5, 39.5, 89.5, 119.5]])
    assert isinstance(detectors.named(str(path), crop_scale=1.25), detectors.YuNet)


def test_what_is_no_detector_is_told(tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(UserError, match=r"broken\.onnx: OpenCV cannot read it as a YuNet model"):
        detectors.named(str(path), crop_scale=1.25)
    with pytest.raises(UserError, match="carries no cascade 'nothing.xml'"):
        detectors.Cascade("nothing.xml")


def test_the_cascades_fit_holds_on_real_faces(real_data):
    found, true = [], []
    for path in sorted((real_data / "the300w").rglob("*.pts"))[:240:20]:
        picture = next(p for p in (path.with_suffix(s) for s in (".jpg", ".png")) if p.exists())
        points = np.array([line.split() for line in path.read_text().splitlines()[3:71]], np.float64) - 1  # .pts is 1-based
        boxes = detectors.Cascade()(images.read(picture).image)
        wanted = np.array(geometry.tight_box(points))
        near = [box for box in boxes if overlaps(box[None], wanted[None])[0, 0] > 0.3]
        found += near[:1]
        true += [wanted] * len(near[:1])
    assert len(found) >= 8
    left = detectors.measure(np.array(found), np.array(true))  # what the fit leaves to be corrected
    np.testing.assert_allclose(left, (1.0, 0.0, 0.0), atol=0.06)
