"""What is behind the head: a busy background and the shoulders."""

import cv2
import numpy as np

from lmkd.data_builders.synthetic_faces.camera import View
from lmkd.data_builders.synthetic_faces.sampling import FaceParams
from lmkd.data_builders.synthetic_faces.shading import TILE, grain_tile


def background(side_px: int, rng: np.random.Generator) -> np.ndarray:
    """Returns a random background uint8 [side, side, 3]: a gradient with shapes, stripes and grain, more or less in focus."""
    small = 48
    corners = rng.uniform(20, 235, (2, 2, 3)).astype(np.float32)
    mean = corners.mean(axis=(0, 1))
    corners = mean + (corners - mean) * rng.uniform(0.2, 1.0)
    image = cv2.resize(corners, (small * 4, small * 4), interpolation=cv2.INTER_LINEAR)
    side = small * 4
    for _ in range(int(rng.integers(0, 22))):
        colour = tuple(float(v) for v in np.clip(mean + rng.normal(0, 70, 3), 0, 255))
        centre = rng.uniform(-10, side + 10, 2)
        kind = rng.integers(4)
        if kind == 0:
            shape = centre + rng.normal(0, 34, (int(rng.integers(3, 7)), 2))
            cv2.fillPoly(image, [cv2.convexHull(shape.astype(np.float32)).astype(np.int32)], colour, cv2.LINE_AA)
        elif kind == 1:
            axes = tuple(int(v) for v in rng.uniform(4, 44, 2))
            cv2.ellipse(image, (int(centre[0]), int(centre[1])), axes, float(rng.uniform(0, 180)), 0, 360, colour, -1)
        elif kind == 2:
            end = centre + rng.normal(0, 120, 2)
            cv2.line(image, centre.astype(int).tolist(), end.astype(int).tolist(), colour, int(rng.integers(1, 12)), cv2.LINE_AA)
        else:
            size = rng.uniform(8, 70, 2)
            a, b = (centre - size / 2).astype(int).tolist(), (centre + size / 2).astype(int).tolist()
            cv2.rectangle(image, a, b, colour, -1)
            for x in range(a[0], b[0], max(int(size[0] / 4), 4)):
                cv2.line(image, (x, a[1]), (x, b[1]), tuple(0.7 * v for v in colour), 1)
    blur = float(rng.choice((0.8, 2.0, 5.0), p=(0.35, 0.35, 0.3)))
    image = cv2.GaussianBlur(image, (0, 0), blur)
    y, x = rng.integers(0, TILE - side, 2)
    image += grain_tile()[y : y + side, x : x + side, None] * rng.uniform(0, 7)
    image = np.clip(image, 0, 255).astype(np.uint8)
    return cv2.resize(image, (side_px, side_px), interpolation=cv2.INTER_LINEAR)


def draw_shoulders(image: np.ndarray, view: View, neck_foot_hu: np.ndarray, face: FaceParams, rng: np.random.Generator) -> None:
    """Draws clothes in place: shoulders with a round, V or turtle neckline below the neck's foot (turned points [n, 3])."""
    foot = neck_foot_hu.mean(axis=0)
    wide = np.abs(neck_foot_hu[:, 0] - foot[0]).max()
    span = 1.9 if not face.identity.feminine else 1.6
    drop = np.array([[0.70, -0.42], [1.0, -0.36], [1.5, -0.22], [span + 0.1, 0.02], [span + 0.45, 0.7], [span + 0.6, 5.0]])
    drop[:, 0] *= wide / 0.9
    right = foot[:2] + drop
    left = foot[:2] + drop * [-1, 1]
    dip = float(rng.choice((0.15, 0.55, -0.05)))
    neckline = foot[:2] + np.array([[-0.45 * wide, -0.05 + dip * 0.5], [0, dip], [0.45 * wide, -0.05 + dip * 0.5]])
    outline = np.concatenate([left[::-1], neckline, right])
    points = outline * view.scale_px + view.offset_px
    base = np.asarray(face.colours.clothes) * face.light.exposure * (0.55 + 0.5 * face.light.ambient)
    fixed = [np.round(points * 16).astype(np.int32)]
    mask = np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(mask, fixed, 255, cv2.LINE_AA, 4)
    side = image.shape[0]
    light = face.light
    slope = np.sin(np.deg2rad(light.azimuth_deg)) * light.key
    x = np.linspace(-1, 1, side, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, side, dtype=np.float32)[:, None]
    tone = 0.8 + 0.3 * slope * x - 0.12 * y
    if rng.uniform() < 0.3:
        period, angle = rng.uniform(0.06, 0.25), rng.uniform(0, np.pi)
        tone = tone * (1 + 0.25 * np.sign(np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period)))
    yy, xx = rng.integers(0, TILE - 384, 2)
    grain = cv2.resize(grain_tile()[yy : yy + 192, xx : xx + 192], (side, side))
    cloth = np.clip(base[None, None] * (tone + 0.05 * grain)[..., None], 0, 255)
    weight = mask.astype(np.float32)[..., None] / 255
    image[:] = (image * (1 - weight) + cloth * weight).astype(np.uint8)
