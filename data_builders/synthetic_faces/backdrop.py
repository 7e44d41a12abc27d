"""What is behind the head: a busy background and the shoulders."""

import cv2
import numpy as np

from lmkd.data_builders.synthetic_faces.camera import View
from lmkd.data_builders.synthetic_faces.chart import SHIFT, colour_tuple, fixed, mix
from lmkd.data_builders.synthetic_faces.sampling import FaceParams
from lmkd.data_builders.synthetic_faces.shading import TILE, grain_tile


def background(side_px: int, rng: np.random.Generator) -> np.ndarray:
    """Returns a random background uint8 [side, side, 3]: a gradient with shapes, stripes and grain, more or less in focus."""
    side = 112  # drawn small: it is out of focus anyway
    corners = rng.uniform(20, 235, (2, 2, 3)).astype(np.float32)
    mean = corners.mean(axis=(0, 1))
    corners = _greyed(mean + (corners - mean) * rng.uniform(0.2, 1.0), rng.uniform(0.3, 0.9))
    image = cv2.resize(corners, (side, side), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    for _ in range(int(rng.integers(0, 22))):
        colour = tuple(_greyed(np.clip(mean + rng.normal(0, 70, 3), 0, 255), 0.55).tolist())
        centre = rng.uniform(-10, side + 10, 2)
        kind = rng.integers(4)
        if kind == 0:
            shape = centre + rng.normal(0, 20, (int(rng.integers(3, 7)), 2))
            cv2.fillPoly(image, [cv2.convexHull(shape.astype(np.float32)).astype(np.int32)], colour, cv2.LINE_AA)
        elif kind == 1:
            axes = tuple(int(v) for v in rng.uniform(3, 26, 2))
            cv2.ellipse(image, (int(centre[0]), int(centre[1])), axes, float(rng.uniform(0, 180)), 0, 360, colour, -1)
        elif kind == 2:
            end = centre + rng.normal(0, 70, 2)
            cv2.line(image, centre.astype(int).tolist(), end.astype(int).tolist(), colour, int(rng.integers(1, 8)), cv2.LINE_AA)
        else:
            size = rng.uniform(6, 42, 2)
            a, b = (centre - size / 2).astype(int).tolist(), (centre + size / 2).astype(int).tolist()
            cv2.rectangle(image, a, b, colour, -1)
            for x in range(a[0], b[0], max(int(size[0] / 4), 4)):
                cv2.line(image, (x, a[1]), (x, b[1]), tuple(0.7 * v for v in colour), 1)
    blur = float(rng.choice((0.5, 1.2, 3.0), p=(0.35, 0.35, 0.3)))
    image = cv2.GaussianBlur(image, (0, 0), blur)
    y, x = rng.integers(0, TILE - side, 2)
    grain = grain_tile()[y : y + side, x : x + side, None] * np.float32(rng.uniform(0, 7))
    image = np.clip(image + grain, 0, 255).astype(np.uint8)
    return cv2.resize(image, (side_px, side_px), interpolation=cv2.INTER_LINEAR)


def _greyed(colour: np.ndarray, share: float) -> np.ndarray:
    """Mixes colours [..., 3] with their own grey: rooms and streets are less gaudy than random colours."""
    return colour + (colour.mean(axis=-1, keepdims=True) - colour) * np.float32(share)


def body_outline(view: View, neck_foot_hu: np.ndarray, face: FaceParams, rng: np.random.Generator) -> np.ndarray:
    """Returns the outline of the clothes [n, 2] in pixels; the neck ends at turned points [m, 3].

    Its first `NECKLINE.start` points are the left shoulder, `NECKLINE` is the (round, deep or high) neckline.
    """
    foot = neck_foot_hu.mean(axis=0)[:2]
    span = 1.95 - 0.3 * face.identity.feminine
    drop = np.array([[0.47, -0.68], [0.75, -0.52], [1.2, -0.36], [span, -0.12], [span + 0.3, 0.25], [span + 0.5, 5.0]])
    dip = float(rng.choice((0.12, 0.5, -0.28)))
    around = np.linspace(0.0, np.pi, 9)[1:-1, None]
    neckline = np.concatenate([-np.cos(around) * 0.47, -0.68 + np.sin(around) ** 0.8 * (dip + 0.40)], axis=1)
    outline = foot + np.concatenate([(drop * [-1, 1])[::-1], neckline, drop])
    return outline * view.scale_px + view.offset_px


NECKLINE = slice(6, 13)


def draw_chest(image: np.ndarray, outline_px: np.ndarray, face: FaceParams) -> None:
    """Draws the skin that shows inside the neckline, in place."""
    light = face.light
    tone = np.sqrt(light.exposure * (0.85 * light.key + 0.65 * light.ambient))
    skin = np.delete(outline_px, NECKLINE, axis=0)
    cv2.fillPoly(image, [fixed(skin)], colour_tuple(np.multiply(face.colours.skin, tone)), cv2.LINE_AA, SHIFT)


def draw_clothes(image: np.ndarray, outline_px: np.ndarray, behind: np.ndarray, face: FaceParams, rng) -> None:
    """Draws the clothes in place, except at the flat pixel indices `behind` (head and ears hide them there)."""
    mask = np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(mask, [fixed(outline_px)], 255, cv2.LINE_AA, SHIFT)
    mask.ravel()[behind] = 0
    top = int(np.clip(outline_px[:, 1].min() - 1, 0, image.shape[0] - 1))
    cloth = cv2.resize(_cloth(face, rng), image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    mix(image[top:], mask[top:], cloth[top:])


def _cloth(face: FaceParams, rng: np.random.Generator) -> np.ndarray:
    side, light = 112, face.light
    x = np.linspace(-1, 1, side, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, side, dtype=np.float32)[:, None]
    tone = 0.8 + 0.3 * np.float32(np.sin(np.deg2rad(light.azimuth_deg)) * light.key) * x - 0.12 * y
    if rng.uniform() < 0.3:
        period, angle = rng.uniform(0.08, 0.25), np.float32(rng.uniform(0, np.pi))
        tone = tone * (1 + 0.25 * np.sin((x * np.cos(angle) + y * np.sin(angle)) * np.float32(2 * np.pi / period)))
    start_y, start_x = rng.integers(0, TILE - side, 2)
    tone = tone + 0.05 * grain_tile()[start_y : start_y + side, start_x : start_x + side]
    base = np.multiply(face.colours.clothes, light.exposure * (0.55 + 0.5 * light.ambient)).astype(np.float32)
    return np.clip(base * tone[..., None], 0, 255).astype(np.uint8)
