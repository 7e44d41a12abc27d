"""Glasses, and what covers a face: masks, scarves, hands, phones, signs, strands of hair."""

import cv2
import numpy as np

from lmkd.data_builders.synthetic_faces.camera import View
from lmkd.data_builders.synthetic_faces.chart import SHIFT, colour_tuple, fixed, mix, smooth_curve
from lmkd.data_builders.synthetic_faces.head import Head, to_3d
from lmkd.data_builders.synthetic_faces.sampling import FaceParams, Light

_FRAMES = {"thin": 0.018, "thick": 0.05, "sun": 0.035}  # width of the rims in head units


def draw_glasses(image: np.ndarray, head: Head, view: View, face: FaceParams, depth_hu: np.ndarray, rng) -> None:
    """Draws glasses in place; rims and temples disappear behind the head where `depth_hu` [h, w] is nearer."""
    style = face.extras.glasses
    p = head.points_hu
    front_z = to_3d(head, p[51:52])[0, 2] + 0.10
    dark = rng.uniform() < 0.7
    colour = _lit(rng.uniform(8, 60, 3) if dark else rng.uniform(60, 190, 3), face.light)
    height, power = rng.uniform(0.17, 0.24), rng.uniform(0.55, 1.0)
    around = np.linspace(0, 2 * np.pi, 33)
    width = max(int(round(_FRAMES[style] * view.scale_px)), 1)
    pieces = []
    for side, eye in ((-1, slice(60, 68)), (1, slice(68, 76))):
        centre = p[eye].mean(axis=0) + [side * 0.01, 0.03]
        ring = np.stack([np.cos(around), np.sin(around)], -1)
        ring = centre + np.sign(ring) * np.abs(ring) ** power * [0.27, height]
        rim = np.concatenate([ring, (front_z - 0.30 * ring[:, :1] ** 2)], axis=1)
        _lens(image, view.to_px(view.turn(rim)), style, face.light)
        hinge = np.array([side * (abs(centre[0]) + 0.27), centre[1] - 0.06, front_z - 0.3 * (abs(centre[0]) + 0.27) ** 2])
        ear = np.array([side * (abs(p[0, 0]) + 0.03), p[0, 1] + 0.06, -0.10])
        pieces += [rim, hinge + np.linspace(0, 1, 12)[:, None] * (ear - hinge)]
    inner = [pieces[0][np.argmax(pieces[0][:, 0])], pieces[2][np.argmin(pieces[2][:, 0])]]
    pieces.append(np.stack([inner[0], (inner[0] + inner[1]) / 2 + [0, -0.04, 0.03], inner[1]]))
    for piece in pieces:
        _draw_hidden(image, view, piece, colour, width, depth_hu)


def draw_occluder(image: np.ndarray, landmarks_px: np.ndarray, view: View, face: FaceParams, rng) -> None:
    """Draws what covers the face in place; `landmarks_px` [98, 2] are in pixels of the image."""
    drawn = {"mask": _mask, "scarf": _scarf, "hand": _hand, "block": _block, "strands": _strands, "phone": _phone}
    drawn[face.extras.occluder](image, landmarks_px, view.scale_px, face, rng)


def _draw_hidden(image, view: View, curve_hu: np.ndarray, colour: tuple, width_px: int, depth_hu: np.ndarray) -> None:
    turned = view.turn(curve_hu)
    points = view.to_px(turned)
    column, row = np.clip(np.round(points).astype(int), 0, image.shape[0] - 1).T
    free = turned[:, 2] > depth_hu[row, column] - 0.06
    starts = np.flatnonzero(free[:-1] & free[1:])
    segments = np.stack([points[starts], points[starts + 1]], axis=1)
    cv2.polylines(image, list(fixed(segments)), False, colour_tuple(colour), width_px, cv2.LINE_AA, SHIFT)


def _lens(image: np.ndarray, rim_px: np.ndarray, style: str, light: Light) -> None:
    mask = np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(mask, [fixed(rim_px)], 255, cv2.LINE_AA, SHIFT)
    mix(image, mask, _lit((26, 24, 26), light) if style == "sun" else (225, 232, 240), 0.93 if style == "sun" else 0.06)
    centre, spread = rim_px.mean(axis=0), rim_px.std(axis=0)
    glare = np.zeros_like(mask)
    streak = centre + spread * [[-1.1, -0.3], [-0.6, -1.1], [-0.2, -1.1], [-0.8, 0.2]]
    cv2.fillPoly(glare, [fixed(streak)], 255, cv2.LINE_AA, SHIFT)
    mix(image, np.minimum(glare, mask), (255, 255, 255), 0.22)


def _mask(image, p, hu_px, face: FaceParams, rng) -> None:
    colours = ((170, 205, 222), (235, 238, 240), (40, 40, 46), (150, 190, 170))
    colour = _lit(colours[rng.integers(4)], face.light)
    edge = np.concatenate([p[4:29], smooth_curve(np.stack([p[28], (p[28] + p[53]) / 2 + (p[52] - p[53]) * 0.2, p[52], (p[4] + p[53]) / 2 + (p[52] - p[53]) * 0.2, p[4]]), 6)])  # fmt: skip
    down = (p[16] - p[51]) / np.linalg.norm(p[16] - p[51])
    edge[6:19] += down * 0.04 * hu_px
    for strap_end, ear in ((p[4], p[0]), (p[28], p[32])):
        cv2.line(image, *_ints(strap_end, ear - down * 0.05 * hu_px), colour_tuple(colour), max(int(0.02 * hu_px), 1), cv2.LINE_AA, SHIFT)
    shape = np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(shape, [fixed(edge)], 255, cv2.LINE_AA, SHIFT)
    shaded = _rounded_shading(shape, 0.22 * hu_px, face.light, colour)
    mix(image, shape, shaded)
    left, right = p[6], p[26]
    for share in (0.25, 0.45, 0.65):
        middle = p[52] + (p[16] - p[52]) * share
        pleat = smooth_curve(np.stack([left + (p[5] - p[7]) * (0.5 - share), middle, right + (p[27] - p[25]) * (0.5 - share)]), 8)
        line = np.zeros_like(shape)
        cv2.polylines(line, [fixed(pleat)], False, 255, max(int(0.02 * hu_px), 1), cv2.LINE_AA, SHIFT)
        mix(image, np.minimum(line, shape), np.asarray(colour) * 0.72, 0.7)


def _scarf(image, p, hu_px, face: FaceParams, rng) -> None:
    colour = _lit(rng.uniform(30, 220, 3), face.light)
    top = p[57] + (p[85] - p[57]) * rng.uniform(0.0, 0.9)
    across = (p[28] - p[4]) * 0.12
    ridge = smooth_curve(np.stack([p[5] - across * 1.4, p[5] + (p[7] - p[5]) * 0.3, top, p[27] + (p[25] - p[27]) * 0.3, p[27] + across * 1.4]), 8)
    ridge += rng.normal(0, 0.008 * hu_px, ridge.shape)
    down = np.array([0.0, 3.0 * hu_px])
    spread = np.array([0.9 * hu_px, 0.0])
    shape = np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(shape, [fixed(np.concatenate([ridge, ridge[-1:] + down + spread, ridge[:1] + down - spread]))], 255, cv2.LINE_AA, SHIFT)
    shaded = _rounded_shading(shape, 0.15 * hu_px, face.light, colour)
    second = _lit(rng.uniform(30, 220, 3), face.light)
    for step in np.arange(0.12, 2.4, rng.uniform(0.16, 0.4)):
        fold = ridge + down / 3.0 * step + np.linspace(-1, 1, len(ridge))[:, None] * spread * step / 3.0
        tint = second if rng.uniform() < 0.4 else np.asarray(colour) * 0.7
        cv2.polylines(shaded, [fixed(fold)], False, colour_tuple(tint), max(int(rng.uniform(0.02, 0.07) * hu_px), 1), cv2.LINE_AA, SHIFT)
    mix(image, shape, shaded)


def _hand(image, p, hu_px, face: FaceParams, rng) -> None:
    skin = np.asarray(face.colours.skin) * rng.uniform(0.86, 1.0)
    side = rng.choice((-1, 1))
    goal = p[(85, 79, 54, 55 if side < 0 else 59, 66 if side < 0 else 74)[rng.integers(5)]]
    angle = np.deg2rad(90 - side * rng.uniform(15, 60))  # where the wrist lies, seen from the finger tips
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]])
    knuckles = goal + along * 0.62 * hu_px
    wrist = knuckles + along * 0.75 * hu_px
    forearm = wrist + along * 4 * hu_px
    _limb(image, np.stack([wrist, forearm]), 0.50 * hu_px, np.asarray(face.colours.clothes) * 0.9, face.light)
    _limb(image, np.stack([knuckles + along * 0.22 * hu_px, wrist]), 0.62 * hu_px, skin, face.light)
    thumb = knuckles + across * side * 0.40 * hu_px
    _limb(image, smooth_curve(np.stack([wrist - along * 0.2 * hu_px, thumb + along * 0.22 * hu_px, thumb - along * 0.12 * hu_px])), 0.19 * hu_px, skin, face.light)
    spread, bend = rng.uniform(0.7, 1.5), rng.normal(0, 0.1)
    for number, length in ((-1.5, 0.52), (1.5, 0.58), (-0.5, 0.66), (0.5, 0.70)):
        root = knuckles + across * number * 0.165 * hu_px
        tip = root - along * length * hu_px + across * number * 0.08 * spread * hu_px
        middle = (root + tip) / 2 + across * bend * hu_px
        _limb(image, smooth_curve(np.stack([root + along * 0.2 * hu_px, middle, tip])), 0.17 * hu_px, skin, face.light)


def _limb(image, line_px: np.ndarray, width_px: float, colour: np.ndarray, light: Light) -> None:
    """A rounded limb: stripes from a dark rim to a lit middle."""
    towards = np.array([np.sin(np.deg2rad(light.azimuth_deg)), -0.6])
    for share, tone in ((1.0, 0.55), (0.88, 0.75), (0.68, 0.90), (0.42, 1.0)):
        shifted = line_px + towards * width_px * 0.22 * (1 - share)
        tinted = colour_tuple(_lit(colour * tone, light))
        cv2.polylines(image, [fixed(shifted)], False, tinted, max(int(width_px * share), 1), cv2.LINE_AA, SHIFT)


def _block(image, p, hu_px, face: FaceParams, rng) -> None:
    goal = p[rng.integers(98)]
    colour = np.asarray(_lit(rng.uniform(20, 235, 3), face.light))
    kind, size = rng.integers(3), rng.uniform(0.22, 0.5, 2) * hu_px
    if kind == 0:
        around = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        outline = np.stack([np.cos(around), np.sin(around)], -1) * size
    else:
        outline = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * size * (1 if kind == 1 else rng.uniform(0.6, 1.4, (4, 2)))
    turn = rng.uniform(-0.7, 0.7)
    outline = outline @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + goal
    shape = np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(shape, [fixed(outline)], 255, cv2.LINE_AA, SHIFT)
    shaded = _rounded_shading(shape, 0.06 * hu_px, face.light, colour)
    for _ in range(int(rng.integers(0, 5))):
        a, b = (goal + rng.uniform(-1, 1, 2) * size for _ in range(2))
        cv2.line(shaded, *_ints(a, b), colour_tuple(_lit(rng.uniform(20, 235, 3), face.light)), max(int(rng.uniform(0.02, 0.1) * hu_px), 1), cv2.LINE_AA, SHIFT)
    mix(image, shape, shaded)


def _strands(image, p, hu_px, face: FaceParams, rng) -> None:
    side = rng.choice((0, 1))
    eye, contour = (p[60:68], p[:33]) if side == 0 else (p[68:76], p[:33][::-1])
    up = (p[51] - p[57]) / np.linalg.norm(p[51] - p[57]) * hu_px
    lock = np.zeros(image.shape[:2], np.uint8)
    for shade in (0.7, 1.0, 1.3, 0.8, 1.1):
        curves = []
        for _ in range(15):
            start = (p[37] + p[42]) / 2 + up * rng.uniform(0.45, 0.7) + (contour[0] - p[51]) * rng.uniform(-0.15, 0.35)
            middle = eye[rng.integers(8)] + rng.normal(0, 0.12, 2) * hu_px
            end = contour[int(rng.integers(4, 11))] + rng.normal(0, 0.10, 2) * hu_px
            curves.append(fixed(smooth_curve(np.stack([start, middle, end]), 8)))
        lock[:] = 0
        cv2.polylines(lock, curves, False, 255, max(int(0.022 * hu_px), 1), cv2.LINE_AA, SHIFT)
        mix(image, lock, _lit(np.asarray(face.colours.hair) * shade, face.light), 0.85)


def _phone(image, p, hu_px, face: FaceParams, rng) -> None:
    side = rng.choice((4, 28))
    centre = p[side] * 0.55 + p[54] * 0.45 + rng.normal(0, 0.12, 2) * hu_px
    turn = np.deg2rad(rng.uniform(-35, 35))
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    body = np.array([[-1, -0.9], [-0.85, -1], [0.85, -1], [1, -0.9], [1, 0.9], [0.85, 1], [-0.85, 1], [-1, 0.9]])
    outline = (body * [0.36, 0.74]) @ rotation * hu_px + centre
    colour = np.asarray(_lit(rng.uniform(15, 90, 3) if rng.uniform() < 0.7 else rng.uniform(150, 230, 3), face.light))
    shape = np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(shape, [fixed(outline)], 255, cv2.LINE_AA, SHIFT)
    shaded = _rounded_shading(shape, 0.05 * hu_px, face.light, colour)
    for spot in ((-0.2, -0.55), (-0.2, -0.38)):
        x, y = _ints((np.array(spot) @ rotation) * hu_px + centre)[0]
        cv2.circle(shaded, (x, y), int(0.06 * hu_px * (1 << SHIFT)), (12, 12, 14), -1, cv2.LINE_AA, SHIFT)
    mix(image, shape, shaded)
    skin = np.asarray(face.colours.skin) * 0.92
    outward = (np.array([1.0, 0.0]) if side == 28 else np.array([-1.0, 0.0])) @ rotation * hu_px
    for height in (-0.1, 0.1, 0.3, 0.5):
        root = centre + outward * 0.52 + (np.array([0, height + 0.08]) @ rotation) * hu_px
        _limb(image, np.stack([root, root - outward * 0.36]), 0.16 * hu_px, skin, face.light)


def _rounded_shading(shape: np.ndarray, rim_px: float, light: Light, colour: np.ndarray) -> np.ndarray:
    """Returns a picture of a shape's colour, darker towards its rim and away from the light: float32 [h, w, 3]."""
    small = cv2.resize(shape, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    soft = cv2.GaussianBlur(small, (0, 0), max(rim_px / 4, 0.5)).astype(np.float32) / 255
    slope = cv2.Sobel(soft, cv2.CV_32F, 1, 0) * np.sin(np.deg2rad(light.azimuth_deg)) - 0.6 * cv2.Sobel(soft, cv2.CV_32F, 0, 1)
    tone = np.clip(0.45 + 0.62 * soft - 0.25 * slope, 0.25, 1.15)
    tone = cv2.resize(tone, shape.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return tone[..., None] * np.asarray(colour, np.float32)


def _lit(colour: np.ndarray | tuple, light: Light) -> np.ndarray:
    strength = np.sqrt(light.exposure * (0.55 * light.key + 0.85 * light.ambient))
    return np.clip(np.asarray(colour, np.float32) * strength, 0, 255)


def _ints(*points_px: np.ndarray) -> list[tuple[int, int]]:
    return [tuple(int(v) for v in fixed(p)) for p in points_px]
