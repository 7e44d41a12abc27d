"""What covers a face: masks, scarves, hands, signs, strands of hair, phones. Drawn flat, at the face's points."""

import cv2
import numpy as np

from lmkd.data_builders.synthetic_faces.paint import disc, mask_of, mix, scaled, smooth_curve, stroke
from lmkd.data_builders.synthetic_faces.parameters import FaceParams, Light
from lmkd.data_builders.synthetic_faces.shading import flat_lit


def draw_occluder(
    image: np.ndarray, landmarks_px: np.ndarray, hu_px: float, face: FaceParams, rng: np.random.Generator
) -> None:
    """Draws the face's occluder in place.

    Args:
      image: uint8 [h, w, 3].
      landmarks_px: the 98 points, in pixels of the image.
      hu_px: one head unit in pixels.
      face: the face.
      rng: decides the occluder's place and look.
    """
    drawn = {"mask": _mask, "scarf": _scarf, "hand": _hand, "block": _block, "strands": _strands, "phone": _phone}
    drawn[face.extras.occluder](image, landmarks_px, hu_px, face, rng)


def _mask(image, p, hu_px, face: FaceParams, rng) -> None:
    colours = ((170, 205, 222), (235, 238, 240), (40, 40, 46), (150, 190, 170))
    colour = flat_lit(colours[rng.integers(4)], face.light)
    lift = (p[52] - p[53]) * 0.2
    top = np.stack([p[28], (p[28] + p[53]) / 2 + lift, p[52], (p[4] + p[53]) / 2 + lift, p[4]])
    edge = np.concatenate([p[4:29], smooth_curve(top, 6)])
    down = (p[16] - p[51]) / np.linalg.norm(p[16] - p[51]) * hu_px
    edge[6:19] += down * 0.04
    straps = np.array([[p[4], p[0] - down * 0.05], [p[28], p[32] - down * 0.05]])
    stroke(image, straps, 0.02 * hu_px, colour)
    shape = mask_of(edge, image)
    mix(image, shape, _rounded(shape, 0.22 * hu_px, face.light, colour))
    for share in (0.25, 0.45, 0.65):
        ends = p[6] + (p[5] - p[7]) * (0.5 - share), p[26] + (p[27] - p[25]) * (0.5 - share)
        pleat = np.stack([ends[0], p[52] + (p[16] - p[52]) * share, ends[1]])
        line = np.zeros_like(shape)
        stroke(line, smooth_curve(pleat, 8), 0.02 * hu_px, 255)
        mix(image, np.minimum(line, shape), scaled(colour, 0.72), 0.7)


def _scarf(image, p, hu_px, face: FaceParams, rng) -> None:
    colours = [flat_lit(rng.uniform(30, 220, 3), face.light) for _ in range(2)]
    top = p[57] + (p[85] - p[57]) * rng.uniform(0.0, 0.9)
    out = (p[28] - p[4]) * 0.17
    left, right = p[5] + (p[7] - p[5]) * 0.3, p[27] + (p[25] - p[27]) * 0.3
    ridge = smooth_curve(np.stack([p[5] - out, left, top, right, p[27] + out]), 8)
    ridge += rng.normal(0, 0.008 * hu_px, ridge.shape)
    # folds repeat the upper edge downwards, wider and wider
    fall = np.stack([np.linspace(-0.3, 0.3, len(ridge)), np.ones(len(ridge))], axis=-1) * hu_px
    shape = mask_of(np.concatenate([ridge, (ridge + 3 * fall)[[-1, 0]]]), image)
    shaded = _rounded(shape, 0.15 * hu_px, face.light, colours[0])
    for step in np.arange(0.12, 2.4, rng.uniform(0.16, 0.4)):
        tint = colours[1] if rng.uniform() < 0.4 else scaled(colours[0], 0.7)
        stroke(shaded, ridge + step * fall, rng.uniform(0.02, 0.07) * hu_px, tint)
    mix(image, shape, shaded)


def _hand(image, p, hu_px, face: FaceParams, rng) -> None:
    skin = scaled(face.colours.skin, rng.uniform(0.86, 1.0))
    side = int(rng.choice((-1, 1)))
    goal = p[(85, 79, 54, 55 if side < 0 else 59, 66 if side < 0 else 74)[rng.integers(5)]]
    angle = np.deg2rad(90 - side * rng.uniform(15, 60))  # where the wrist lies, seen from the finger tips
    along = np.array([np.cos(angle), np.sin(angle)]) * hu_px
    across = np.array([-along[1], along[0]])
    knuckles = goal + along * 0.62
    wrist = knuckles + along * 0.75
    _limb(image, np.stack([wrist, wrist + along * 4]), 0.50 * hu_px, scaled(face.colours.clothes, 0.9), face.light)
    _limb(image, np.stack([knuckles + along * 0.22, wrist]), 0.62 * hu_px, skin, face.light)
    thumb = knuckles + across * side * 0.40
    bent = np.stack([wrist - along * 0.2, thumb + along * 0.22, thumb - along * 0.12])
    _limb(image, smooth_curve(bent), 0.19 * hu_px, skin, face.light)
    spread, bend = rng.uniform(0.7, 1.5), rng.normal(0, 0.1)
    for number, length in ((-1.5, 0.52), (1.5, 0.58), (-0.5, 0.66), (0.5, 0.70)):
        root = knuckles + across * number * 0.165
        tip = root - along * length + across * number * 0.08 * spread
        finger = np.stack([root + along * 0.2, (root + tip) / 2 + across * bend, tip])
        _limb(image, smooth_curve(finger), 0.17 * hu_px, skin, face.light)


def _block(image, p, hu_px, face: FaceParams, rng) -> None:
    goal, size = p[rng.integers(98)], rng.uniform(0.22, 0.5, 2) * hu_px
    kind, turn = rng.integers(3), rng.uniform(-0.7, 0.7)
    if kind == 0:
        around = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        outline = np.stack([np.cos(around), np.sin(around)], -1)
    else:
        outline = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (1 if kind == 1 else rng.uniform(0.6, 1.4, (4, 2)))
    shape = mask_of((outline * size) @ _rotation(turn) + goal, image)
    shaded = _rounded(shape, 0.06 * hu_px, face.light, flat_lit(rng.uniform(20, 235, 3), face.light))
    for _ in range(int(rng.integers(0, 5))):
        line = goal + rng.uniform(-1, 1, (2, 2)) * size
        stroke(shaded, line, rng.uniform(0.02, 0.1) * hu_px, flat_lit(rng.uniform(20, 235, 3), face.light))
    mix(image, shape, shaded)


def _strands(image, p, hu_px, face: FaceParams, rng) -> None:
    eye, contour = (p[60:68], p[:33]) if rng.uniform() < 0.5 else (p[68:76], p[:33][::-1])
    up = (p[51] - p[57]) / np.linalg.norm(p[51] - p[57]) * hu_px
    parting = (p[37] + p[42]) / 2
    for shade in (0.7, 1.0, 1.3, 0.8, 1.1):
        start = parting + up * rng.uniform(0.45, 0.7, (15, 1)) + (contour[0] - p[51]) * rng.uniform(-0.15, 0.35, (15, 1))
        middle = eye[rng.integers(0, 8, 15)] + rng.normal(0, 0.12, (15, 2)) * hu_px
        end = contour[rng.integers(4, 11, 15)] + rng.normal(0, 0.10, (15, 2)) * hu_px
        lock = np.zeros(image.shape[:2], np.uint8)
        stroke(lock, smooth_curve(np.stack([start, middle, end], axis=1), 8), 0.022 * hu_px, 255)
        mix(image, lock, flat_lit(scaled(face.colours.hair, shade), face.light), 0.85)


def _phone(image, p, hu_px, face: FaceParams, rng) -> None:
    side = int(rng.choice((-1, 1)))
    centre = p[4 if side < 0 else 28] * 0.55 + p[54] * 0.45 + rng.normal(0, 0.12, 2) * hu_px
    rotation = _rotation(np.deg2rad(rng.uniform(-35, 35))) * hu_px
    corner = np.array([[1, -0.9], [1, 0.9], [0.85, 1], [-0.85, 1], [-1, 0.9], [-1, -0.9], [-0.85, -1], [0.85, -1]])
    shape = mask_of((corner * [0.36, 0.74]) @ rotation + centre, image)
    body = rng.uniform(15, 90, 3) if rng.uniform() < 0.7 else rng.uniform(150, 230, 3)
    shaded = _rounded(shape, 0.05 * hu_px, face.light, flat_lit(body, face.light))
    for lens in ((-0.2, -0.55), (-0.2, -0.38)):
        disc(shaded, np.array(lens) @ rotation + centre, 0.06 * hu_px, (12, 12, 14))
    mix(image, shape, shaded)
    for height in (-0.02, 0.18, 0.38, 0.58):  # the fingers that hold it
        finger = np.array([[0.52 * side, height], [0.16 * side, height - 0.08]]) @ rotation + centre
        _limb(image, finger, 0.16 * hu_px, scaled(face.colours.skin, 0.92), face.light)


def _limb(image, line_px: np.ndarray, width_px: float, colour: np.ndarray, light: Light) -> None:
    """A rounded limb: stripes from a dark rim to a lit middle."""
    towards = np.array([np.sin(np.deg2rad(light.azimuth_deg)), -0.6]) * width_px * 0.22
    for share, tone in ((1.0, 0.55), (0.88, 0.75), (0.68, 0.90), (0.42, 1.0)):
        stroke(image, line_px + towards * (1 - share), width_px * share, flat_lit(scaled(colour, tone), light))


def _rounded(shape: np.ndarray, rim_px: float, light: Light, colour: np.ndarray) -> np.ndarray:
    """Returns a picture of a shape's colour, darker towards its rim and away from the light: float32 [h, w, 3]."""
    small = cv2.resize(shape, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    soft = np.asarray(cv2.GaussianBlur(small, (0, 0), max(rim_px / 4, 0.5)), np.float32) / 255
    slope_x, slope_y = (np.asarray(cv2.Sobel(soft, cv2.CV_32F, *axis)) for axis in ((1, 0), (0, 1)))
    slope = slope_x * np.float32(np.sin(np.deg2rad(light.azimuth_deg))) - 0.6 * slope_y
    tone = np.clip(0.45 + 0.62 * soft - 0.25 * slope, 0.25, 1.15)
    tone = np.asarray(cv2.resize(tone, shape.shape[::-1], interpolation=cv2.INTER_LINEAR))
    return tone[..., None] * colour.astype(np.float32)


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
