"""Draws a face: `draw_face(seed, index, size_px)` gives the picture, its 98 points, its flags and a detector's box.

The order of work: parameters -> head surface -> view -> skin chart -> background and chest -> head, ears and neck
through the rasteriser -> clothes, hair, hat -> glasses and whatever covers the face -> the camera's blur, noise, JPEG.
"""

from typing import NamedTuple

import cv2
import numpy as np

from lmkd.data_builders.synthetic_faces import backdrop, chart, glasses, lens, occluders, parameters, parts, sampling, shading
from lmkd.data_builders.synthetic_faces.camera import View, frame
from lmkd.data_builders.synthetic_faces.head import Head, Mesh, build_head, mesh
from lmkd.data_builders.synthetic_faces.parameters import FaceParams
from lmkd.data_builders.synthetic_faces.raster import Fragments, rasterise
from lmkd.data_builders.synthetic_faces.skin import paint_skin

_DRAWN_PX, _OVERSAMPLING = 144, 1.25  # pictures are drawn at least so large, or so much larger, and shrunk
_CHART_PX_PER_HU = 96.0  # a finer chart shows nothing more
_GRAIN_PX = 512 - 48
HAT = parameters.Hair(style="beanie", line_y=-0.52, volume=0.17, wave=0.0)


class Face(NamedTuple):
    """A drawn face, in pixels of the picture, the centre of the top-left pixel at (0, 0).

    Attributes:
      image: uint8 [S, S, 3], RGB.
      landmarks98_px: float32 [98, 2], the WFLW points; `WFLW98.subset_indices("300w68")` gives the 68.
      visible: float32 [98], all 1: points behind hair, glasses or the nose are exact too.
      subset: uint8 [6], the flags `parameters.FLAGS`.
      rectangle_px: float32 [4], (x0, y0, x1, y1) of a face detector's box, a little off.
    """

    image: np.ndarray
    landmarks98_px: np.ndarray
    visible: np.ndarray
    subset: np.ndarray
    rectangle_px: np.ndarray


class Scene(NamedTuple):
    """A face's geometry at the size it is drawn: what tests look at besides the picture."""

    head: Head
    mesh: Mesh
    view: View
    landmarks_px: np.ndarray


def draw_face(seed: int, index: int, size_px: int) -> Face:
    """Draws face `index` of stream `seed` as a square picture; the same arguments give the same face everywhere."""
    return draw(sampling.sample_face(seed, index), np.random.default_rng([seed, index, 1]), size_px)


def draw(face: FaceParams, rng: np.random.Generator, size_px: int) -> Face:
    """Draws a face of given parameters; `rng` decides the background, the grain and the detector's error."""
    drawn_px = max(_DRAWN_PX, int(round(size_px * _OVERSAMPLING)))
    oversampling = drawn_px / size_px
    scene = build_scene(face, drawn_px)
    image = _paint(scene, face, rng, drawn_px)
    landmarks = (scene.landmarks_px + 0.5) / oversampling - 0.5
    image = cv2.resize(image, (size_px, size_px), interpolation=cv2.INTER_AREA)
    image = lens.expose(image, face.extras, scene.view.scale_px / oversampling, rng)
    return Face(
        image,
        landmarks.astype(np.float32),
        np.ones(98, np.float32),
        parameters.flags(face),
        _detector_box(landmarks, rng).astype(np.float32),
    )


def build_scene(face: FaceParams, side_px: int) -> Scene:
    """Returns the geometry of a face in a picture of that side."""
    head = build_head(face.identity, face.expression)
    grid = mesh(head)
    view, landmarks = frame(head, grid, face.pose, side_px)
    return Scene(head, grid, view, landmarks)


def head_mask(scene: Scene, side_px: int) -> np.ndarray:
    """Returns where the bare head (no hair, ears, neck) is seen: bool [side, side]."""
    fragments, _ = _rasterise([parts.head_part(scene.head, scene.mesh, scene.view)], scene.view, side_px)
    mask = np.zeros(side_px * side_px, bool)
    mask[fragments.pixel] = True
    return mask.reshape(side_px, side_px)


def _paint(scene: Scene, face: FaceParams, rng: np.random.Generator, side_px: int) -> np.ndarray:
    head, grid, view, _ = scene
    y, x = rng.integers(0, shading.TILE - _GRAIN_PX, 2)
    skin = paint_skin(head, face, min(view.scale_px, _CHART_PX_PER_HU), rng, shading.grain_tile()[y:, x:])
    parts.paint_ear(skin, face.colours.skin)
    image = backdrop.background(side_px, rng)
    neck = parts.neck_part(face.identity.jaw_width * (0.92 - 0.12 * face.identity.feminine), view)
    solid = [parts.head_part(head, grid, view), neck]
    solid += [parts.ear_part(head, side, face.identity.ear_size, view) for side in (-1, 1)]
    fragments, depth = _rasterise(solid, view, side_px)
    body = backdrop.body_outline(view, neck.points_hu[-33:], face, rng)
    backdrop.draw_chest(image, body, face)
    _skin_pixels(image, fragments, solid, skin, face)
    is_neck = (fragments.corners[:, 0] >= len(solid[0].points_hu)) & (
        fragments.corners[:, 0] < len(solid[0].points_hu) + len(neck.points_hu)
    )
    backdrop.draw_clothes(image, body, fragments.pixel[~is_neck], face, rng)
    if face.hair.style == "long":
        _curtain(image, parts.curtain_part(face, view), view, face, depth)
    if face.hair.style != "bald":
        _cap(image, grid, view, face, depth)
    if face.extras.hat:
        wool = rng.uniform(20, 190) + rng.normal(0, 25, 3)
        hat = face._replace(hair=HAT, colours=face.colours._replace(hair=tuple(np.clip(wool, 10, 220))))
        _cap(image, grid, view, hat, depth)
    if face.extras.glasses != "none":
        glasses.draw_glasses(image, head, view, face, depth, rng)
    if face.extras.occluder != "none":
        occluders.draw_occluder(image, scene.landmarks_px, view.scale_px, face, rng)
    return image


def _skin_pixels(image: np.ndarray, fragments: Fragments, solid: list, skin: chart.Chart, face: FaceParams) -> None:
    normals, light, place = (np.concatenate([getattr(p, f) for p in solid]) for f in ("normals", "light", "chart_hu"))
    place = (place - chart.LO_HU) * skin.scale - 0.5
    lighting = shading.vertex_light(normals, light, face.light, face.light.gloss)
    values = fragments.interpolate(np.concatenate([place, lighting], axis=1).astype(np.float32))
    albedo = shading.sample(skin.rgb, values[:, 0], values[:, 1], cv2.BORDER_REPLICATE)
    image.reshape(-1, 3)[fragments.pixel] = shading.lit_colour(albedo, values[:, 2:], face.light.tint)


def _cap(image, mesh_hu: Mesh, view: View, face: FaceParams, depth: np.ndarray) -> None:
    part, inside_hu = parts.hair_part(mesh_hu, face, view)
    fragments, _ = _rasterise([part], view, image.shape[0])
    values = _hair_values(fragments, part, inside_hu, face)
    if face.hair is HAT:
        strands = np.sin(values[:, 0] * (2 * np.pi * 70)) * 0.6 - 1.5 * (np.abs(values[:, 2] - 0.22) < 0.012)
        alpha = np.clip(values[:, 2] / 0.02 + 1.0, 0, 1)
    else:
        swirl = 16 * face.hair.wave * np.sin(values[:, 1] * 16)
        strands = shading.sample_tile(shading.strand_tile(), values[:, 0] * 2 * shading.TILE + swirl, values[:, 1] * 900)
        alpha = np.clip((values[:, 2] + 0.035 * strands) / 0.06 + 0.3, 0, 1)
    behind = depth.ravel()[fragments.pixel]
    alpha = np.where(np.isneginf(behind) & (values[:, 2] > 0), 1.0, alpha)  # no gaps where the hair is the outline
    alpha *= fragments.depth_hu > behind - 0.06
    _blend_hair(image, fragments.pixel, values[:, 3:], strands, alpha, face)


def _curtain(image, part: parts.Part, view: View, face: FaceParams, depth: np.ndarray) -> None:
    fragments, _ = _rasterise([part], view, image.shape[0])
    values = _hair_values(fragments, part, np.zeros(len(part.points_hu)), face)
    strands = shading.sample_tile(shading.strand_tile(), values[:, 0] * 300, values[:, 1] * 500)
    ragged = np.clip((0.7 - values[:, 1] - 0.03 * (strands + 1.2)) / 0.02, 0, 1)
    ragged *= fragments.depth_hu > depth.ravel()[fragments.pixel]
    _blend_hair(image, fragments.pixel, values[:, 3:], strands, ragged, face)


def _hair_values(fragments: Fragments, part: parts.Part, extra: np.ndarray, face: FaceParams) -> np.ndarray:
    normals = part.normals * np.where(part.normals[:, 2:] < 0, -1, 1)
    lighting = shading.vertex_light(normals, part.light, face.light, 0.08)
    return fragments.interpolate(np.concatenate([part.chart_hu, extra[:, None], lighting], axis=1).astype(np.float32))


def _blend_hair(image, pixel, lighting, strands, alpha, face: FaceParams) -> None:
    albedo = np.asarray(face.colours.hair, np.float32) * np.clip(1 + 0.22 * strands, 0.3, 1.8)[:, None]
    colour = shading.lit_colour(albedo, lighting, face.light.tint)
    flat = image.reshape(-1, 3)
    behind = flat[pixel]
    flat[pixel] = behind + alpha[:, None].astype(np.float32) * (colour.astype(np.float32) - behind)


def _rasterise(pieces: list, view: View, side_px: int) -> tuple[Fragments, np.ndarray]:
    counts = np.cumsum([0, *(len(p.points_hu) for p in pieces)], dtype=np.int32)
    points = np.concatenate([p.points_hu for p in pieces]).astype(np.float32)
    triangles = np.concatenate([p.triangles + first for p, first in zip(pieces, counts[:-1], strict=True)])
    closed = np.repeat([p.closed for p in pieces], [len(p.triangles) for p in pieces])
    fragments = rasterise(view.to_px(points), points[:, 2], triangles, side_px, closed)
    depth = np.full(side_px * side_px, -np.inf, np.float32)
    depth[fragments.pixel] = fragments.depth_hu
    return fragments, depth.reshape(side_px, side_px)


def _detector_box(landmarks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    lo, hi = landmarks.min(axis=0), landmarks.max(axis=0)
    size = hi - lo
    grown = rng.normal(1.0, 0.04, 2) * size
    middle = (lo + hi) / 2 + rng.normal(0, 0.025, 2) * size
    return np.concatenate([middle - grown / 2, middle + grown / 2])
