"""Prediction on new images: faces found, cropped as in training, run, and brought back to the image's pixels.

predictor = load("runs/faces68")
found = predictor(image)                                # a detector finds the faces
found = predictor(image, boxes=[[10, 20, 110, 130]])    # or you say where they are
found.landmarks_px[0, 36]                               # (x, y) of point 36 of the first face, in the image's pixels
many = predictor.many(images)                           # several images, their faces run together
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lmkd import opened
from lmkd.core import geometry
from lmkd.core.errors import UserError, report_together
from lmkd.core.schemes import Scheme
from lmkd.data import transforms
from lmkd.prediction import detectors

FACES_AT_ONCE = 32
"""Faces that the network sees in one run; more are cut into several runs, which bounds the memory."""
MOST_LOOKS = 3
"""At a face that the detector found."""
SETTLED = 0.05
"""A box whose sides lie no farther than this share of its longer side from those about the points is settled."""


class Prediction(NamedTuple):
    """The faces of one image.

    Attributes:
      landmarks_px: float64 [n, K, 2], points (x, y) in the image's pixels; the centre of the top-left pixel is (0, 0). A point
        may lie outside an image whose border cuts the face.
      confidences: float32 [n, K], in the model's own unit: comparable between faces of one model only; 1 for models that
        give coordinates without heatmaps.
      boxes_px: float64 [n, 4], (x0, y0, x1, y1) of the boxes about which the faces were cut out, the last time: a detector's
        own where it was settled, else one about points.
    """

    landmarks_px: np.ndarray
    confidences: np.ndarray
    boxes_px: np.ndarray


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A trained model that takes images. It keeps no state between calls and may be called from several threads.

    Attributes:
      model: the model, run on crops.
      detector: finds the faces of images that come without boxes.
      refine: look again at faces that the detector found, the points of one look saying where the next is cut, until their
        box stays within `SETTLED`, `MOST_LOOKS` times in all. It brings a detector's rough boxes close to those of training
        (docs/predict.md has how close, and what it costs). Boxes that are given are taken as they are.
    """

    model: opened.Opened
    detector: detectors.Detector
    refine: bool = True

    @property
    def scheme(self) -> Scheme:
        """The landmark scheme: names, groups and lines of the K points."""
        return self.model.scheme

    def __call__(self, image: np.ndarray, boxes: Any = None) -> Prediction:
        """Predicts the points of an image's faces.

        Args:
          image: uint8 RGB [H, W, 3] (OpenCV reads BGR: turn it with `image[..., ::-1]`).
          boxes: [n, 4] numbers (x0, y0, x1, y1) in the image's pixels, each about the POINTS of a face, as the model was
            trained: from the brows to the chin for 68 points. A box may reach beyond the image. None: the detector looks
            for faces; where it finds none, n is 0.

        Returns:
          `Prediction`, one row a box, in the boxes' order (a detector's: largest first).

        Raises:
          UserError: the image or the boxes are not of this form.
        """
        return self.many([image], None if boxes is None else [boxes])[0]

    def many(self, images: Sequence[Any], boxes: Sequence[Any] | None = None) -> list[Prediction]:
        """Predicts the points of several images' faces, all of them together in as few runs as possible.

        Args:
          images: each as for one image; sizes may differ.
          boxes: one entry an image, [n, 4] or None, as for one image; None looks for the faces of all.

        Returns:
          One `Prediction` an image.

        Raises:
          UserError: an image or its boxes are not of the form asked for.
        """
        given = [None] * len(images) if boxes is None else list(boxes)
        if len(given) != len(images):
            raise UserError(f"{len(images)} images and {len(given)} entries of boxes: give one entry an image, or None for all")
        report_together([p for n, image in enumerate(images) for p in _image_problems(image, n)], "images for prediction")
        found = [
            self.detector(image) if box is None else checked_boxes(box, image) for image, box in zip(images, given, strict=True)
        ]
        counts = [len(boxes) for boxes in found]
        of_detector = np.repeat([box is None for box in given], counts)
        of_each = [image for image, count in zip(images, counts, strict=True) for _ in range(count)]
        faces = self._looks(of_each, found, of_detector)
        ends = np.cumsum(counts)[:-1]
        of_images = zip(*(np.split(part, ends) for part in faces), strict=True)
        return [Prediction(*parts) for parts in of_images] if images else []

    def _looks(self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray], of_detector: np.ndarray) -> Prediction:
        """Predicts faces, each cut out of its image about its box, and looks again at those of the detector."""
        boxes_px = np.concatenate([np.zeros((0, 4)), *boxes])
        landmarks_px, confidences = self._run(list(zip(images, boxes_px, strict=True)))
        again = np.flatnonzero(of_detector) if self.refine else np.zeros(0, int)
        for _ in range(MOST_LOOKS - 1):
            about = np.array([geometry.tight_box(landmarks_px[n]) for n in again]).reshape(-1, 4)
            follow = _leads_on(boxes_px[again], about)
            again = again[follow]
            boxes_px[again] = about[follow]
            landmarks_px[again], confidences[again] = self._run([(images[n], boxes_px[n]) for n in again])
        return Prediction(landmarks_px, confidences, boxes_px)

    def _run(self, jobs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        """Returns points float64 [n, K, 2] and confidences float32 [n, K] of (image, box) pairs."""
        size, scale = self.model.image_px, self.model.crop_scale
        points = [np.zeros((0, self.scheme.num_points, 2))]
        confidences = [np.zeros((0, self.scheme.num_points), np.float32)]
        for start in range(0, len(jobs), FACES_AT_ONCE):
            some = jobs[start : start + FACES_AT_ONCE]
            affines = [geometry.crop_affine(geometry.square_around(tuple(box.tolist()), scale), size) for _, box in some]
            crops = [transforms.warp(image, affine, size) for (image, _), affine in zip(some, affines, strict=True)]
            reading = self.model.run(np.stack(crops))
            points.append(geometry.apply_affine(np.stack(affines), np.asarray(reading.landmarks_px, np.float64)))
            confidences.append(np.asarray(reading.confidence, np.float32))
        return np.concatenate(points), np.concatenate(confidences)


def load(
    path: str | Path, which: str = "best", *, detector: str = "cascade", refine: bool = True, flip_test: bool | None = None
) -> Predictor:
    """Opens a trained model for prediction.

    Args:
      path: anything that `lmkd.opened.open_model` opens.
      which: "best" or "latest" checkpoint.
      detector: "cascade", "whole" (the image is one face) or the path of a YuNet model (.onnx).
      refine: look again at faces that the detector found.
      flip_test: average with the mirrored crop; None does as the model says.

    Raises:
      UserError: there is no such model or detector, or it cannot be read.
    """
    model = opened.open_model(path, which, flip_test=flip_test)
    return Predictor(model, detectors.named(detector, crop_scale=model.crop_scale), refine)


def named_models(paths: Sequence[str | Path]) -> dict[str, Path]:
    """Returns the models that paths name, by short names: of a workdir every stage that is scored, else the path itself.

    Names are the stages' or the files'; where that leaves two alike, the folder stands before them.
    """
    found: list[tuple[str, str, Path]] = []
    for path in map(Path, paths):
        kept = path / "config.json"
        of_stages = [s for s in _scored_stages(kept) if (path / s / "checkpoints").is_dir()] if kept.is_file() else []
        found += [(stage, f"{path.name}/{stage}", path / stage) for stage in of_stages]
        if not of_stages:
            found.append((path.name, f"{path.absolute().parent.name}/{path.name}", path))
    places = [path for _, _, path in found]
    names = opened.first_distinct([short for short, _, _ in found], [longer for _, longer, _ in found], list(map(str, places)))
    return dict(zip(names, places, strict=True))


def _scored_stages(config: Path) -> list[str]:
    kept = json.loads(config.read_text())
    return [name for name in kept["stages"] if kept["stage"][name].get("scored", True)]


def _leads_on(cut: np.ndarray, about: np.ndarray) -> np.ndarray:
    """Says of each box [n, 4] about a face's points whether it lies elsewhere than the one it was cut by, and yet on it."""
    moved = np.abs(about - cut).max(axis=1, initial=0)
    unsettled = moved > SETTLED * (about[:, 2:] - about[:, :2]).max(axis=1, initial=0)
    astray = (about[:, :2] > cut[:, 2:]).any(axis=1) | (about[:, 2:] < cut[:, :2]).any(axis=1)
    return unsettled & ~astray


def checked_boxes(boxes: Any, image: np.ndarray) -> np.ndarray:
    """Returns given boxes as float64 [n, 4].

    Raises:
      UserError: they are no boxes, or lie outside the image; all problems together.
    """
    array = np.asarray(boxes, np.float64)
    array = array.reshape(0, 4) if array.size == 0 else array
    if array.ndim != 2 or array.shape[1] != 4:
        raise UserError(f"boxes have the shape {list(array.shape)}; give [n, 4], a row (x0, y0, x1, y1) a face")
    height, width = image.shape[:2]
    problems = []
    for n, (x0, y0, x1, y1) in enumerate(array.tolist()):
        where = f"box {n} ({x0:g}, {y0:g}, {x1:g}, {y1:g})"
        if not np.isfinite(array[n]).all():
            problems.append(f"{where} is not finite")
        elif x1 <= x0 or y1 <= y0:
            problems.append(f"{where} is empty: x0 < x1 and y0 < y1 are needed (x1 and y1 are no width and height)")
        elif x1 < 0 or y1 < 0 or x0 > width - 1 or y0 > height - 1:
            problems.append(f"{where} lies outside the image of {width} x {height} pixels")
    report_together(problems, "boxes for prediction")
    return array


def _image_problems(image: Any, n: int) -> list[str]:
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size:
        return []
    told = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
    return [f"image {n}: {told}; give a NumPy array uint8 RGB [H, W, 3] (0..255; a grey image repeated three times)"]
