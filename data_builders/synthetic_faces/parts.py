"""Ears, neck and hair: meshes that go with the head's own."""

import functools
from typing import NamedTuple

import numpy as np

from lmkd.data_builders.synthetic_faces import anatomy, chart
from lmkd.data_builders.synthetic_faces.camera import View
from lmkd.data_builders.synthetic_faces.head import Head, Mesh
from lmkd.data_builders.synthetic_faces.parameters import FaceParams, Hair
from lmkd.data_builders.synthetic_faces.raster import grid_triangles

EAR_CHART_HU = np.array([-1.30, 2.12])  # the ears' and the neck's places on the skin chart
EAR_CHART_RADIUS_HU = np.array([0.22, 0.28])
NECK_CHART_HU = np.array([1.30, 2.12])
_EAR_GRID, _NECK_GRID = (6, 19), (12, 33)


class Part(NamedTuple):
    """A piece of surface, turned into the camera's frame.

    Attributes:
      points_hu, normals: [v, 3].
      chart_hu: [v, 2], the place on the skin chart (hair: ray share 0-1 and ring share 0-1).
      light: [v], the share of ambient light that reaches the vertex.
      triangles: int32 [m, 3], counted from 0.
      closed: whether the surface is closed, so that its inside is never seen.
    """

    points_hu: np.ndarray
    normals: np.ndarray
    chart_hu: np.ndarray
    light: np.ndarray
    triangles: np.ndarray
    closed: bool


def head_part(head: Head, mesh: Mesh, view: View) -> Part:
    """Returns the head's own surface."""
    radius = np.interp(mesh.angle, head.outline_angle, head.outline_radius_hu)
    direction = np.stack([np.sin(mesh.angle), np.cos(mesh.angle)], -1)
    place = anatomy.FACE_CENTRE_HU + (direction * radius[:, None])[:, None] * np.minimum(mesh.t, 1.75)[:, None]
    under_chin = np.clip(np.cos(mesh.angle), 0, 1)[:, None] * np.clip((mesh.t - 1.45) / 0.5, 0, 1)[None, :]
    return Part(
        view.turn(mesh.points_hu).reshape(-1, 3),
        view.turn_normals(mesh.normals).reshape(-1, 3),
        place.reshape(-1, 2),
        (1.0 - 0.45 * under_chin).ravel(),
        grid_triangles(len(mesh.angle), len(mesh.t))[:, ::-1],  # fronts keep their order of turning
        True,
    )


def ear_part(head: Head, side: int, size: float, view: View) -> Part:
    """Returns one ear: a shallow cup that stands off the head by about 30 degrees."""
    shape, normals, place, light = _ear_shape()
    mirror = np.array([side, 1.0, 1.0])
    contour = head.points_hu[0 if side < 0 else 32]
    root = np.array([contour[0] * 0.985, contour[1] + 0.22, 0.0])
    return Part(
        view.turn(root + shape * mirror * size),
        view.turn_normals(normals * mirror),
        place,
        light,
        grid_triangles(*_EAR_GRID),
        False,
    )


@functools.cache
def _ear_shape() -> tuple[np.ndarray, ...]:
    """The ear on the image's right, of size 1, from its root: points, normals, place on the chart, open share."""
    share, around = np.linspace(0, 1, _EAR_GRID[0])[:, None], np.linspace(0, 2 * np.pi, _EAR_GRID[1])[None, :]
    along, up = share * np.cos(around) * 0.19, share * np.sin(around) * (0.31 + 0.03 * np.cos(around))
    rim = 0.05 * np.clip((share - 0.55) / 0.3, 0, 1) - 0.07 * np.clip((share - 0.9) / 0.1, 0, 1)
    out = np.array([0.52, 0.0, -0.85])  # from the front edge outward and back
    tall = np.array([0.0, 1.0, 0.12])
    cup = np.array([0.85, 0.0, 0.52])
    points = (along + 0.13)[..., None] * out + up[..., None] * tall + rim[..., None] * cup
    slope = np.clip(np.gradient(rim[:, 0]) / 0.04, -1, 1)[:, None, None]
    normals = cup - 0.25 * slope * (np.cos(around)[..., None] * out + np.sin(around)[..., None] * tall)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    place = EAR_CHART_HU + np.stack([share * np.cos(around), share * np.sin(around)], -1) * EAR_CHART_RADIUS_HU
    light = np.broadcast_to(0.60 + 0.40 * share, along.shape)
    return points.reshape(-1, 3), normals.reshape(-1, 3), place.reshape(-1, 2), light.ravel()


def neck_part(width: float, view: View) -> Part:
    """Returns the neck: its top turns with the head, its foot stays with the body."""
    shape, normals, place, light, share = _neck_shape()
    rest = shape * [width, 1.0, 1.0]
    points = view.turn(rest) * (1 - share) + body_view(view).turn(rest) * share
    return Part(points, normals, place, light, grid_triangles(*_NECK_GRID), False)


@functools.cache
def _neck_shape() -> tuple[np.ndarray, ...]:
    """A neck of width 1: points, normals, place on the chart, open share (the jaw's shadow), share of the body's turn."""
    drop, around = np.meshgrid(np.linspace(0, 1, _NECK_GRID[0]), np.linspace(0, 2 * np.pi, _NECK_GRID[1]), indexing="ij")
    cos, sin = np.cos(around), np.sin(around)
    flare = 1 + 0.15 * np.clip((drop - 0.3) / 0.7, 0, 1) ** 2
    y = 0.55 + 1.75 * drop
    points = np.stack([cos * 0.56 * flare, y, -0.30 + sin * 0.46 - 0.22 * drop], -1)
    normals = np.stack([cos, np.full_like(y, -0.1), sin], -1)
    place = NECK_CHART_HU + np.stack([cos * 0.2, (drop - 0.5) * 0.4], -1)
    light = 0.50 + 0.5 * np.clip((y - 1.25) / 0.7, 0, 1)
    share = np.clip(drop * 1.6, 0, 1) ** 1.2
    return points.reshape(-1, 3), normals.reshape(-1, 3), place.reshape(-1, 2), light.ravel(), share.reshape(-1, 1)


def body_view(view: View) -> View:
    """The view with a third of the head's turn, which the body follows."""
    u, _, vt = np.linalg.svd(0.35 * view.rotation + 0.65 * np.eye(3))  # the nearest rotation to the blend
    return view._replace(rotation=u @ vt)


def paint_ear(target: chart.Chart, skin: tuple) -> None:
    """Paints the ear's hollow and rim at its place on the chart."""
    centre = (EAR_CHART_HU - chart.LO_HU) * target.scale
    reach = EAR_CHART_RADIUS_HU * target.scale
    lo, hi = np.maximum((centre - 1.3 * reach).astype(int), 0), (centre + 1.3 * reach).astype(int)
    region = target.rgb[lo[1] : hi[1], lo[0] : hi[0]]
    along = ((np.arange(region.shape[1]) + lo[0] - centre[0]) / reach[0])[None, :]
    up = ((np.arange(region.shape[0]) + lo[1] - centre[1]) / reach[1])[:, None]
    radius = np.hypot(along, up)
    bowl = np.exp(-((((along + 0.18) / 0.34) ** 2 + ((up - 0.08) / 0.38) ** 2) ** 2))
    behind = np.clip(0.55 * along - 0.75 * up + 0.35, 0, 1)  # the rim rolls over at the top and the back
    groove = np.exp(-(((radius - 0.74) / 0.09) ** 2)) * behind
    hollow = 1 - 0.45 * bowl - 0.36 * groove
    region[:] = (np.asarray(skin) * [1.0, 0.93, 0.92] * hollow[..., None]).clip(0, 255).astype(np.uint8)


def hair_coverage(points: np.ndarray, hair: Hair) -> np.ndarray:
    """Returns how far [...] points [..., 3] of the head lie inside the hair, in head units (negative: bare skin)."""
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    theta = np.rad2deg(np.arctan2(np.abs(x), z))
    lean = hair.part * 0.18 * x * np.clip(1 - theta / 70, 0, 1)
    nape = 0.75 if hair.style != "tied" else 0.55
    sideburn = 0.05 if hair.style != "afro" else -0.05
    if hair.style == "beanie":
        return hair.line_y + 0.05 * z - y
    line = np.interp(
        theta,
        (0, 22, 45, 62, 76, 86, 100, 125, 180),
        (hair.line_y, hair.line_y - 0.01, max(hair.line_y, -0.66), -0.42, -0.18, sideburn, -0.25, nape, nape),
    )
    return line + lean - y


def hair_part(mesh: Mesh, face: FaceParams, view: View) -> tuple[Part, np.ndarray]:
    """Returns the cap of hair on the skull and how far inside the hairline each vertex is, in head units."""
    hair = face.hair
    skull, normals = mesh.points_hu[:, ::2], mesh.normals[:, ::2]  # hair is smooth: half the rings do
    inside = hair_coverage(skull, hair)
    if face.identity.feminine and hair.style == "short":
        hair = hair._replace(volume=hair.volume * 1.2)
    up = np.clip((0.2 - skull[..., 1]) / 1.2, 0.0, 1.0)
    lift = hair.volume * (0.35 + 0.65 * up) * np.clip(inside / 0.22, 0.0, 1.0) ** 0.6 + 0.012
    points = skull + normals * lift[..., None]
    rays, rings = skull.shape[:2]
    triangles = grid_triangles(rays, rings)
    keep = inside.ravel()[triangles].max(axis=1) > -0.08
    part = Part(
        view.turn(points).reshape(-1, 3),
        view.turn_normals(normals).reshape(-1, 3),
        _grid_shares(rays, rings),
        np.ones(rays * rings),
        triangles[keep][:, ::-1],
        True,
    )
    return part, inside.ravel()


@functools.cache
def _grid_shares(rows: int, columns: int) -> np.ndarray:
    shares = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
    return np.stack(shares, axis=-1).reshape(-1, 2)


def curtain_part(face: FaceParams, view: View) -> Part:
    """Returns long hair that hangs from the skull behind the face."""
    hair = face.hair
    drop = np.linspace(0, 1, 14)[:, None]
    around = np.deg2rad(np.linspace(-8, 188, 41))[None, :]  # 0: the head's right, 90: its back
    wave = 0.05 * hair.wave * np.sin(drop * 9 + 3 * np.cos(around * 3)) * drop
    swell = 1 + 0.10 * np.sin(np.pi * drop) + 0.06 * drop - 0.25 * np.clip(1 - drop / 0.2, 0, 1)  # top under the cap
    x = np.cos(around) * (0.90 + 0.55 * hair.volume + wave) * swell
    z = -0.05 - np.sin(around) * (0.95 + wave) - 0.25 * drop
    y = -0.55 + (hair.length + 0.35) * drop + 0 * around + 0.05 * np.sin(around * 17) * drop
    rest = np.stack([x, y, z], -1)
    share = (drop**1.3)[..., None] * 0.6
    points = view.turn(rest) * (1 - share) + body_view(view).turn(rest) * share
    normals = np.stack([np.cos(around) + 0 * drop, 0 * y, -np.sin(around) + 0 * drop], -1) @ view.rotation.T
    place = np.stack([np.broadcast_to((np.arange(41) / 13.0)[None, :], x.shape), drop * 0.7 + 0 * x], -1)
    light = np.broadcast_to(0.55 + 0.45 * np.cos(around) ** 2, x.shape)
    return Part(
        points.reshape(-1, 3),
        normals.reshape(-1, 3),
        place.reshape(-1, 2),
        light.ravel(),
        grid_triangles(14, 41),
        False,
    )
