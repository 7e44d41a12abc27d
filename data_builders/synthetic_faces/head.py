"""The head as a surface: identity and expression in, points, depths and a mesh out.

The surface is a family of rays. Ray `a` (an angle, 0 at the chin, +-pi at the crown) starts at the front pole behind
the nose, runs over the face, crosses the frontal outline and ends at the back of the head. Its parameter t is 0 at the
front pole, pi / 2 on the outline and pi at the back pole. On the front half

    xy = centre + sin(t) (outline(a) - centre),    z = outline_z(a) + (front_z - outline_z(a)) h(sin t) + relief(xy),

so the frontal view of the surface is the plane (x, y) itself: a feature drawn at frontal (x, y) has one depth, and its
3D point is exact by construction. All lengths are head units (see `anatomy`).
"""

from typing import NamedTuple

import numpy as np

from lmkd.data_builders.synthetic_faces import anatomy
from lmkd.data_builders.synthetic_faces.parameters import Expression, Identity

RAYS = 72
RINGS = 39
FRONT_Z_HU = 1.0
BACK_POLE_HU = np.array([0.0, -0.22, -1.05])
NOSE_STATIONS = np.array([-0.35, -0.12, 0.0, 0.27, 0.55, 0.80, 0.94, 1.04, 1.12])  # along nasion (0) .. tip (1)
NOSE_HEIGHT_HU = np.array([0.0, 0.05, 0.075, 0.14, 0.22, 0.30, 0.335, 0.26, 0.0])


class Head(NamedTuple):
    """One person's head with one expression.

    Attributes:
      points_hu: float64 [98, 2], the frontal positions of the points (the contour's: on the frontal outline).
      outline_angle: float64 [n], ascending, one period and a margin; `outline_radius_hu`, `outline_z_hu` go with it.
      bumps: float64 [m, 5], rows (x, y, width_x, width_y, height) of the relief's Gaussians.
      nose: the identity's (height, width) factors of the nose ridge.
    """

    points_hu: np.ndarray
    outline_angle: np.ndarray
    outline_radius_hu: np.ndarray
    outline_z_hu: np.ndarray
    bumps: np.ndarray
    nose: tuple[float, float]


class Mesh(NamedTuple):
    """A grid of the surface: `points_hu` and `normals` [RAYS + 1, RINGS, 3] (the seam is stored twice), `t` [RINGS]."""

    points_hu: np.ndarray
    normals: np.ndarray
    angle: np.ndarray
    t: np.ndarray


def build_head(identity: Identity, expression: Expression) -> Head:
    """Returns the head of an identity with an expression."""
    points = _express(_identify(anatomy.average_points_hu(), identity), expression)
    angle, radius, z = _outline(points[:33], identity.cranium_height)
    return Head(points, angle, radius, z, _bumps(points, identity, expression), (identity.nose_height, identity.nose_width))


def to_3d(head: Head, points_hu: np.ndarray) -> np.ndarray:
    """Lifts frontal points [..., 2] onto the surface: [..., 3]."""
    offset = points_hu - anatomy.FACE_CENTRE_HU
    angle = np.arctan2(offset[..., 0], offset[..., 1])
    rho = np.hypot(offset[..., 0], offset[..., 1]) / _at(head, head.outline_radius_hu, angle)
    rim_z = _at(head, head.outline_z_hu, angle)
    z = _front_depth(angle, rim_z, np.minimum(rho, 1.0)) + relief_hu(head, points_hu, rho)
    return np.concatenate([points_hu, z[..., None]], axis=-1)


def to_chart(head: Head, points_hu: np.ndarray) -> np.ndarray:
    """Maps frontal points [..., 2] to the skin chart [..., 2]: the frontal plane, its rim unrolled (t for sin t)."""
    offset = points_hu - anatomy.FACE_CENTRE_HU
    angle = np.arctan2(offset[..., 0], offset[..., 1])
    rho = np.hypot(offset[..., 0], offset[..., 1]) / _at(head, head.outline_radius_hu, angle)
    rho = np.clip(rho, 1e-6, 1.0)
    return anatomy.FACE_CENTRE_HU + offset * (np.arcsin(rho) / rho)[..., None]


def mesh(head: Head) -> Mesh:
    """Returns the whole surface as a grid of rays and rings."""
    angle = np.linspace(-np.pi, np.pi, RAYS + 1)
    front = np.linspace(0.0, np.pi / 2, int(RINGS * 0.66))
    t = np.concatenate([front, np.linspace(np.pi / 2, np.pi - 0.02, RINGS - len(front) + 1)[1:]])
    points = surface(head, angle, t)
    return Mesh(points, _normals(points), angle, t)


def surface(head: Head, angle: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Returns the surface points float32 [rays, rings, 3] at ray angles [rays] and ray parameters [rings]."""
    radius, rim_z = (_at(head, v, angle).astype(np.float32)[:, None] for v in (head.outline_radius_hu, head.outline_z_hu))
    rho = np.sin(t).astype(np.float32)
    direction = np.stack([np.sin(angle), np.cos(angle)], axis=-1).astype(np.float32)[:, None]
    rim = anatomy.FACE_CENTRE_HU.astype(np.float32) + radius[..., None] * direction
    split = int(np.searchsorted(t, np.pi / 2, side="right"))
    points = np.empty((len(angle), len(t), 3), np.float32)
    front = anatomy.FACE_CENTRE_HU.astype(np.float32) + (rho[:split] * radius)[..., None] * direction
    points[:, :split, :2] = front
    points[:, :split, 2] = _front_depth(angle[:, None], rim_z, rho[:split]) + relief_hu(head, front, rho[:split])
    back = BACK_POLE_HU.astype(np.float32)
    points[:, split:, :2] = back[:2] + rho[split:, None] * (rim - back[:2])
    points[:, split:, 2] = rim_z + (rim_z - back[2]) * np.cos(t[split:]).astype(np.float32)
    return points


def relief_hu(head: Head, points_hu: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """Returns the height [...] of nose, sockets, cheeks, lips and chin over the smooth front at frontal points."""
    x, y = points_hu[..., 0], points_hu[..., 1]
    bumps = head.bumps.astype(points_hu.dtype)
    dx = (x[..., None] - bumps[:, 0]) / bumps[:, 2]
    dy = (y[..., None] - bumps[:, 1]) / bumps[:, 3]
    height = np.exp(-0.5 * (dx * dx + dy * dy)) @ bumps[:, 4] + _nose_ridge(head, x, y).astype(points_hu.dtype)
    return height * _smoothstep((1.0 - rho) / 0.12)


def _nose_ridge(head: Head, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    nasion, tip, base = head.points_hu[51], head.points_hu[54], head.points_hu[57]
    length = (base[1] - nasion[1]) / 1.10
    station = (y - nasion[1]) / length
    ridge = np.interp(station, NOSE_STATIONS, NOSE_HEIGHT_HU)
    for shift in (-0.06, 0.06):  # rounds the corners of the table
        ridge = ridge + np.interp(station + shift, NOSE_STATIONS, NOSE_HEIGHT_HU)
    width = np.interp(station, (0.0, 0.5, 0.9), (0.085, 0.095, 0.135)) * head.nose[1]
    return head.nose[0] * ridge / 3.0 * np.exp(-(np.abs((x - tip[0]) / width) ** 2.2))


def _front_depth(angle: np.ndarray, rim_z: np.ndarray, rho: np.ndarray) -> np.ndarray:
    flatness = (2.0 + 1.1 * np.abs(np.cos(angle)) ** 1.5).astype(rho.dtype)  # forehead and chin: flatter than cheeks
    return rim_z + (FRONT_Z_HU - rim_z) * np.sqrt(np.maximum(1.0 - rho**flatness, 0.0))


def _at(head: Head, values: np.ndarray, angle: np.ndarray) -> np.ndarray:
    return np.interp(angle, head.outline_angle, values)


def _normals(points: np.ndarray) -> np.ndarray:
    along = np.gradient(points, axis=1)
    padded = np.concatenate([points[-2:-1], points, points[1:2]])
    around = padded[2:] - padded[:-2]
    around[:, 0], around[:, -1] = around[:, 1], around[:, -2]  # at the poles all rays meet
    (ax, ay, az), (bx, by, bz) = np.moveaxis(around, -1, 0), np.moveaxis(along, -1, 0)
    normals = np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], axis=-1)
    return normals / np.maximum(np.sqrt(np.einsum("ijk,ijk->ij", normals, normals)), 1e-9)[..., None]


def _outline(contour: np.ndarray, cranium_height: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    left, right = contour[0], contour[32]
    crown_y = anatomy.CROWN_Y_HU * cranium_height
    phi = np.linspace(0.0, np.pi, 41)[1:-1]
    middle, half = (left + right) / 2, (right[0] - left[0]) / 2 * 1.005
    power = 2.0 / 2.35
    arc = np.stack([np.sign(np.cos(phi)) * np.abs(np.cos(phi)) ** power * half, -(np.sin(phi) ** power)], axis=-1)
    arc = middle + arc * [1.0, middle[1] - crown_y]
    arc_z = 0.12 - 0.1 * np.sin(phi)
    points = np.concatenate([contour, arc])
    z = np.concatenate([anatomy.contour_depth_hu(), arc_z])
    offset = points - anatomy.FACE_CENTRE_HU
    angle, radius = np.arctan2(offset[:, 0], offset[:, 1]), np.hypot(offset[:, 0], offset[:, 1])
    order = np.argsort(angle)
    angle, radius, z = angle[order], radius[order], z[order]
    angle = np.concatenate([angle[-3:] - 2 * np.pi, angle, angle[:3] + 2 * np.pi])
    return angle, np.concatenate([radius[-3:], radius, radius[:3]]), np.concatenate([z[-3:], z, z[:3]])


def _bumps(p: np.ndarray, identity: Identity, expression: Expression) -> np.ndarray:
    """Rows (x, y, width_x, width_y, height) of the relief, tied to the points they belong to."""
    mouth, lower = (p[76] + p[82]) / 2, p[85]
    opening = p[94, 1] - p[90, 1]
    rows = [
        (0.0, mouth[1], 0.30, 0.24, 0.09),
        (0.0, (p[79, 1] + p[90, 1]) / 2, 0.17, 0.05, 0.055 * identity.lip_fullness),
        (0.0, (p[94, 1] + lower[1]) / 2, 0.15, 0.06, 0.065 * identity.lip_fullness),
        (0.0, (p[90, 1] + p[94, 1]) / 2, 0.24, 0.03 + 0.3 * opening, -0.035 - 0.25 * opening),
        (0.0, lower[1] + 0.09, 0.22, 0.06, -0.05),
        (0.0, p[16, 1] - 0.20, 0.20, 0.13, 0.07 * identity.chin_depth),
        (0.0, -0.35, 0.42, 0.16, 0.04 * identity.brow_ridge),
    ]
    for side, eye, brow, wing, corner in ((-1, 96, slice(33, 42), 55, 76), (1, 97, slice(42, 51), 59, 82)):
        middle = p[brow].mean(axis=0)
        rows += [
            (p[eye, 0], p[eye, 1] - 0.01, 0.21, 0.11, -0.15 * identity.socket_depth),
            (p[eye, 0], p[eye, 1], 0.10, 0.07, 0.075),
            (side * 0.14, p[eye, 1], 0.07, 0.10, -0.06),
            (middle[0], middle[1], 0.23, 0.07, 0.06 * identity.brow_ridge),
            (
                side * 0.50,
                0.30 - 0.05 * expression.smile,
                0.18,
                0.15,
                0.055 * identity.cheekbone + 0.05 * expression.smile,
            ),
            (side * 0.52, 0.75, 0.16, 0.20, 0.04 * identity.cheek_fat),
            (p[wing, 0] * 0.74, p[wing, 1] - 0.055, 0.062, 0.06, 0.14 * identity.nose_width),
            (p[corner, 0], p[corner, 1], 0.05, 0.05, -0.04),
            (side * 0.72, -0.28, 0.12, 0.20, -0.04),
        ]
    return np.array(rows)


def _identify(p: np.ndarray, who: Identity) -> np.ndarray:
    p = p.copy()
    lower = np.clip((p[:33, 1] - 0.2) / 1.2, 0, 1)
    p[:33, 0] *= who.face_width * (1 + (who.jaw_width - 1) * np.sin(np.pi * np.clip(lower, 0, 1) ** 0.8))
    p[:33, 1] += (who.face_length - 1) * 1.1 * np.clip((p[:33, 1] + 0.03) / 1.44, 0, 1)
    mouth_shift = (who.face_length - 1) * 0.62 + who.mouth_drop
    nose_shift = (who.nose_length - 1) * 0.5
    p[51:60, 1] += np.interp(p[51:60, 1], (0.0, 0.45), (0.0, nose_shift))
    p[55:60, 0] *= who.nose_width
    p[76:96, 1] += mouth_shift + 0.6 * nose_shift
    p[76:96, 0] *= who.mouth_width
    lip_line = p[76, 1]
    p[76:88, 1] = lip_line + (p[76:88, 1] - lip_line) * (0.55 + 0.45 * who.lip_fullness)
    for eye, brow, pupil, side in ((slice(60, 68), slice(33, 42), 96, -1), (slice(68, 76), slice(42, 51), 97, 1)):
        centre = p[eye].mean(axis=0)
        tilt = np.deg2rad(who.eye_tilt_deg) * side
        for part in (eye, pupil):
            p[part] = _turn((p[part] - centre) * [who.eye_width, who.eye_height], tilt) + centre
            p[part, 0] += side * who.eye_spacing
        mid = p[brow].mean(axis=0)
        p[brow] = (p[brow] - mid) * [1.0, who.brow_thickness] + mid
        p[brow] = _turn(p[brow] - mid, np.deg2rad(who.brow_tilt_deg) * side) + mid
        p[brow] += [side * who.eye_spacing * 0.7, who.brow_shift]
    return p


def _express(p: np.ndarray, e: Expression) -> np.ndarray:
    p = p.copy()
    shut = 0.115 * (1 - e.rest_opening)  # the average shape's lips are a little apart
    drop = 0.50 * e.jaw_open - shut
    weight = np.clip(1 - np.abs(anatomy.CONTOUR - anatomy.CHIN) / 12.0, 0, 1)
    p[:33, 1] += (0.42 * e.jaw_open - 0.05) * _smoothstep(weight)
    p[:33, 0] *= 1 - 0.05 * e.jaw_open * np.sin(np.pi * weight)
    corner_y = p[76, 1]
    lip = slice(76, 96)
    centre_weight = np.clip(1 - (p[lip, 0] / np.abs(p[76, 0])) ** 2, 0, 1)
    lower = np.isin(np.arange(76, 96), (83, 84, 85, 86, 87, 93, 94, 95))
    shift = np.where(lower, drop * centre_weight**0.6, -0.04 * e.jaw_open * centre_weight)
    p[lip, 1] += shift + np.where(lower, 0.0, shut * 0.25 * centre_weight) + (1 - centre_weight) * 0.32 * e.jaw_open
    p[lip, 0] *= 1 - 0.16 * e.jaw_open
    smile_weight = (np.abs(p[lip, 0]) / np.abs(p[76, 0])) ** 1.5
    p[lip, 0] *= 1 + 0.24 * e.smile * smile_weight
    p[lip, 1] += -0.10 * e.smile * smile_weight + 0.02 * e.smile
    p[lip, 0] *= 1 - 0.32 * e.pucker
    p[lip, 1] = corner_y + (p[lip, 1] - corner_y) * (1 + 0.12 * e.pucker)
    for side, eye, pupil, brow, openness, raised in (
        (-1, slice(60, 68), 96, slice(33, 42), e.eye_open_left, e.brow_left),
        (1, slice(68, 76), 97, slice(42, 51), e.eye_open_right, e.brow_right),
    ):
        a, b = p[eye][0].copy(), p[eye][4].copy()
        line = a[1] + (p[eye, 0] - a[0]) / (b[0] - a[0]) * (b[1] - a[1])
        lid = p[eye, 1] - line
        closing = np.clip(1 - openness, 0, 1)
        squint = 0.02 * max(e.smile, 0.0)
        inside = np.array([0, 1, 1, 1, 0, 1, 1, 1])
        p[eye, 1] = line + lid * openness + inside * (0.028 * closing - squint * (lid > 0) * openness)
        p[pupil, 1] += 0.02 * closing
        p[pupil] += [e.gaze_x * 0.055, e.gaze_y * 0.018]
        inner = np.clip(1 - (np.abs(p[brow, 0]) - 0.12) / 0.4, 0, 1)
        p[brow, 1] += -0.10 * raised + 0.07 * e.frown * inner
        p[brow, 0] -= side * 0.035 * e.frown * inner
    return p


def _turn(points: np.ndarray, angle: float) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]])


def _smoothstep(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3 - 2 * x)
