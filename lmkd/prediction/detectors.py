"""Where faces are: OpenCV's cascade, a YuNet model of the user's, or the whole image.

    find = named("cascade")             # or "whole", or "face_detection_yunet.onnx"
    boxes_px = find(image)              # float64 [n, 4], largest face first

Every detector returns boxes as the landmark models saw them while training: about the face's POINTS. Detectors mean other
things by a face (some have the forehead in it, some the neck), so each one's boxes go through a `Fit` that was measured on
real faces. `measure` makes such a fit for a detector of your own.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from lmkd.core.errors import UserError, unknown

Detector = Callable[[np.ndarray], np.ndarray]
"""Image uint8 RGB [H, W, 3] -> boxes float64 [n, 4] (x0, y0, x1, y1) in its pixels. May be called from several threads."""

NAMES = ("cascade", "whole")


class Fit(NamedTuple):
    """From a detector's box to the square about a face's points; lengths in longer sides of the detector's box.

    Attributes:
      scale: longer side of the points' tight box.
      right: how far its centre lies to the right of the detector's.
      down: how far below.
    """

    scale: float
    right: float
    down: float

    def __call__(self, boxes_px: np.ndarray) -> np.ndarray:
        """Returns squares float64 [n, 4] for boxes [n, 4]."""
        lo, hi = np.asarray(boxes_px, np.float64).reshape(-1, 2, 2).transpose(1, 0, 2)
        longer = (hi - lo).max(axis=1, keepdims=True)
        centre = (lo + hi) / 2 + longer * (self.right, self.down)
        return np.concatenate([centre - longer * self.scale / 2, centre + longer * self.scale / 2], axis=1)


def measure(found_px: np.ndarray, true_px: np.ndarray) -> Fit:
    """Returns the fit of a detector: medians over faces of its boxes [n, 4] and of the tight boxes of their points [n, 4]."""
    (lo, hi), (true_lo, true_hi) = (np.asarray(b, np.float64).reshape(-1, 2, 2).transpose(1, 0, 2) for b in (found_px, true_px))
    longer = (hi - lo).max(axis=1)
    moved = ((true_lo + true_hi) - (lo + hi)) / 2 / longer[:, None]
    right, down = np.median(moved, axis=0)
    return Fit(float(np.median((true_hi - true_lo).max(axis=1) / longer)), float(right), float(down))


CASCADE_FIT = Fit(0.875, 0.0, 0.155)
"""Of `Cascade`'s own file: medians over the 460 faces that it found of 503 of 300W's training set (every fourth of the 2012
that can be had here), against the tight box of the 68 true points. Half of all faces lie within 5 % of this scale, 0.05 to
either side and 0.03 above or below; the measured 0.003 to the right is none by symmetry. Its worth: docs/predict.md."""
YUNET_FIT = Fit(1.0, 0.0, 0.0)
"""Not measured: no package carries a YuNet model. `measure` it on faces of yours and pass the result to `YuNet`."""


class Cascade:
    """OpenCV's boosted cascade of Haar features (Viola & Jones 2001), from the file that OpenCV's wheel carries.

    Finds upright frontal faces. The image is shrunk to `longest_px` first, so the smallest face that can be found has
    `smallest_px` of the shrunk image's pixels; and it gets a margin, so that a face cut by the border is found too.
    """

    def __init__(
        self,
        file: str = "haarcascade_frontalface_alt2.xml",
        *,
        fit: Fit = CASCADE_FIT,
        longest_px: int = 1024,
        smallest_px: int = 40,
        margin: float = 0.15,
    ):
        self._cascade = cv2.CascadeClassifier(str(Path(cv2.data.haarcascades) / file))  # type: ignore[attr-defined]
        if self._cascade.empty():
            raise UserError(f"OpenCV {cv2.__version__} carries no cascade {file!r}: install opencv-python-headless 4.x")
        self._fit, self._longest_px, self._smallest_px, self._margin = fit, longest_px, smallest_px, margin
        self._lock = threading.Lock()  # OpenCV's classifier keeps the image between its calls

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Finds faces, largest first."""
        small, factor = _shrunk(image, self._longest_px)
        grey = cv2.equalizeHist(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))
        margin = round(self._margin * max(grey.shape))
        grey = cv2.copyMakeBorder(grey, margin, margin, margin, margin, cv2.BORDER_REPLICATE)
        smallest = (self._smallest_px,) * 2
        with self._lock:
            found = self._cascade.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=4, minSize=smallest)
        x, y, w, h = np.asarray(found, np.float64).reshape(-1, 4).T
        # A rectangle of w pixels from pixel x on reaches from x - 0.5 to x + w - 0.5.
        boxes = np.stack([x, y, x + w, y + h], axis=1) - 0.5 - margin
        return _largest_first(self._fit(_enlarged(boxes, factor)))


class YuNet:
    """A YuNet model of the user's, run by OpenCV (Wu, Peng & Yu 2023: YuNet, a tiny millisecond-level face detector)."""

    def __init__(self, path: str | Path, *, fit: Fit = YUNET_FIT, longest_px: int = 1024, score: float = 0.7):
        try:
            self._net = cv2.FaceDetectorYN.create(str(path), "", (320, 320), score)
        except cv2.error as error:
            raise UserError(f"{path}: OpenCV cannot read it as a YuNet model ({error.err})") from error
        self._fit, self._longest_px = fit, longest_px
        self._lock = threading.Lock()  # the input size belongs to the net

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Finds faces, largest first."""
        small, factor = _shrunk(image, self._longest_px)
        with self._lock:
            self._net.setInputSize(small.shape[1::-1])
            _, found = self._net.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        rows = np.zeros((0, 4)) if found is None else np.asarray(found, np.float64)[:, :4]
        boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:]], axis=1) - 0.5
        return _largest_first(self._fit(_enlarged(boxes, factor)))


class Whole:
    """The whole image is one face: the box is such that a crop of `crop_scale` box sides shows all of the image."""

    def __init__(self, crop_scale: float):
        self._crop_scale = crop_scale

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Returns the one box."""
        height, width = image.shape[:2]
        half = max(height, width) / self._crop_scale / 2
        x, y = (width - 1) / 2, (height - 1) / 2
        return np.array([[x - half, y - half, x + half, y + half]])


def named(name: str, *, crop_scale: float) -> Detector:
    """Returns the detector of a name: "cascade", "whole", or the path of a YuNet model (.onnx).

    Args:
      name: as above.
      crop_scale: of the model that the boxes are for (`Opened.crop_scale`).

    Raises:
      UserError: no such detector, or its file cannot be read.
    """
    if name == "cascade":
        return Cascade()
    if name == "whole":
        return Whole(crop_scale)
    if not name.endswith(".onnx"):
        raise unknown("detector", name, (*NAMES, "PATH.onnx"), "--detector")
    if not Path(name).is_file():
        raise UserError(f"--detector={name}: there is no such file")
    return YuNet(name)


def _shrunk(image: np.ndarray, longest_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the image no longer than `longest_px` on a side, and small over large pixels [2] for x and y."""
    height, width = image.shape[:2]
    factor = min(1.0, longest_px / max(height, width))
    small = max(1, round(width * factor)), max(1, round(height * factor))
    return cv2.resize(image, small, interpolation=cv2.INTER_AREA) if factor < 1 else image, np.divide(small, (width, height))


def _enlarged(boxes_px: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Takes boxes [n, 4] from a shrunk image to the image it came from: x -> (x + 0.5) / f - 0.5."""
    return (boxes_px + 0.5) / np.tile(factor, 2) - 0.5


def _largest_first(boxes_px: np.ndarray) -> np.ndarray:
    return boxes_px[np.argsort(boxes_px[:, 0] - boxes_px[:, 2], kind="stable")]
