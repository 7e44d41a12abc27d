"""Glasses: rims in front of the eyes, temples to the ears, hidden where the head is in front of them."""

import numpy as np

from lmkd.data_builders.synthetic_faces import paint
from lmkd.data_builders.synthetic_faces.camera import View
from lmkd.data_builders.synthetic_faces.head import Head, to_3d
from lmkd.data_builders.synthetic_faces.parameters import FaceParams, Light
from lmkd.data_builders.synthetic_faces.shading import flat_lit

_RIM_WIDTH_HU = {"thin": 0.018, "thick": 0.05, "sun": 0.035}
_RIM_HALF_WIDTH_HU = 0.27
_CURVATURE = 0.30  # the rims bend back to the sides: z falls by this much times x squared


def draw_glasses(
    image: np.ndarray, head: Head, view: View, face: FaceParams, depth_hu: np.ndarray, rng: np.random.Generator
) -> None:
    """Draws glasses in place; `depth_hu` [h, w] is the depth of the drawn head."""
    style, p = face.extras.glasses, head.points_hu
    front_z = to_3d(head, p[51:52])[0, 2] + 0.10
    colour = flat_lit(rng.uniform(8, 60, 3) if rng.uniform() < 0.7 else rng.uniform(60, 190, 3), face.light)
    half_height, power = rng.uniform(0.17, 0.24), rng.uniform(0.55, 1.0)
    around = np.linspace(0, 2 * np.pi, 33)
    circle = np.stack([np.cos(around), np.sin(around)], -1)
    shape = np.sign(circle) * np.abs(circle) ** power * [_RIM_HALF_WIDTH_HU, half_height]
    rims, temples = [], []
    for side, eye in ((-1, slice(60, 68)), (1, slice(68, 76))):
        flat = p[eye].mean(axis=0) + [side * 0.01, 0.03] + shape
        rims.append(np.concatenate([flat, front_z - _CURVATURE * flat[:, :1] ** 2], axis=1))
        _draw_lens(image, view.to_px(view.turn(rims[-1])), style, face.light)
        hinge = rims[-1][np.argmax(side * flat[:, 0])] + [0, -0.06, 0]
        ear = np.array([side * (abs(p[0, 0]) + 0.03), p[0, 1] + 0.06, -0.10])
        temples.append(hinge + np.linspace(0, 1, 12)[:, None] * (ear - hinge))
    inner = rims[0][np.argmax(rims[0][:, 0])], rims[1][np.argmin(rims[1][:, 0])]
    bridge = np.stack([inner[0], (inner[0] + inner[1]) / 2 + [0, -0.04, 0.03], inner[1]])
    for piece in (*rims, *temples, bridge):
        _draw_visible(image, view, piece, colour, _RIM_WIDTH_HU[style] * view.scale_px, depth_hu)


def _draw_visible(image, view: View, curve_hu: np.ndarray, colour, width_px: float, depth_hu: np.ndarray) -> None:
    turned = view.turn(curve_hu)
    points = view.to_px(turned)
    column, row = np.clip(np.round(points).astype(int), 0, image.shape[0] - 1).T
    free = turned[:, 2] > depth_hu[row, column] - 0.06
    starts = np.flatnonzero(free[:-1] & free[1:])
    if len(starts):
        paint.stroke(image, np.stack([points[starts], points[starts + 1]], axis=1), width_px, colour)


def _draw_lens(image: np.ndarray, rim_px: np.ndarray, style: str, light: Light) -> None:
    mask = paint.mask_of(rim_px, image)
    if style == "sun":
        paint.mix(image, mask, flat_lit((26, 24, 26), light), 0.93)
    else:
        paint.mix(image, mask, (225, 232, 240), 0.06)
    streak = rim_px.mean(axis=0) + rim_px.std(axis=0) * [[-1.1, -0.3], [-0.6, -1.1], [-0.2, -1.1], [-0.8, 0.2]]
    paint.mix(image, np.minimum(paint.mask_of(streak, image), mask), (255, 255, 255), 0.22)
