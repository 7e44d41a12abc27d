"""Draws a face: `draw_face(seed, index, size_px)` gives the picture, its 98 points, its flags and a detector's box.

The order of work: parameters -> head surface -> view -> skin chart -> background, shoulders, long hair -> head, ears and
neck through the depth buffer -> the cap of hair -> glasses and whatever covers the face -> the camera's blur, noise, JPEG.
"""

from typing import NamedTuple

import cv2
import numpy as np

from lmkd.data_builders.synthetic_faces import accessories, backdrop, chart, lens, parts, sampling, shading
from lmkd.data_builders.synthetic_faces.camera import View, frame
from lmkd.data_builders.synthetic_faces.head import Head, Mesh, build_head, mesh
from lmkd.data_builders.synthetic_faces.raster import Fragments, rasterise
from lmkd.data_builders.synthetic_faces.sampling import FaceParams
from lmkd.data_builders.synthetic_faces.skin import paint_skin

_OVERSAMPLING_PX = 256  # pictures are drawn at least this large and shrunk


class Face(NamedTuple):
    """A drawn face, in pixels of the picture, the centre of the top-left pixel at (0, 0).

    Attributes:
      image: uint8 [S, S, 3], RGB.
      landmarks98_px: float32 [98, 2], the WFLW points; `WFLW98.subset_indices("300w68")` gives the 68.
      visible: float32 [98], all 1: points behind hair, glasses or the nose are exact too.
      subset: uint8 [6], the flags `sampling.FLAGS`.
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
    oversampling = max(1, round(_OVERSAMPLING_PX / size_px)) if size_px < 200 else 2 if size_px < 400 else 1
    scene = build_scene(face, size_px * oversampling)
    image = _paint(scene, face, rng, size_px * oversampling)
    landmarks = (scene.landmarks_px + 0.5) / oversampling - 0.5
    if oversampling > 1:
        image = cv2.resize(image, (size_px, size_px), interpolation=cv2.INTER_AREA)
    image = lens.expose(image, face.extras, scene.view.scale_px / oversampling, rng)
    return Face(
        image,
        landmarks.astype(np.float32),
        np.ones(98, np.float32),
        sampling.flags(face),
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
    fragments = _rasterise([parts.head_part(scene.head, scene.mesh, scene.view)], scene.view, side_px, True)[0]
    mask = np.zeros(side_px * side_px, bool)
    mask[fragments.pixel] = True
    return mask.reshape(side_px, side_px)


def _paint(scene: Scene, face: FaceParams, rng: np.random.Generator, side_px: int) -> np.ndarray:
    head, grid, view, _ = scene
    grain = np.roll(shading.grain_tile(), rng.integers(0, shading.TILE, 2), axis=(0, 1))
    skin = paint_skin(head, face, max(view.scale_px, 40.0), rng, grain)
    parts.paint_ear(skin, face.colours.skin)
    image = backdrop.background(side_px, rng)
    neck = parts.neck_part(head, face.identity.jaw_width * (1.05 - 0.13 * face.identity.feminine), view)
    solid = [parts.head_part(head, grid, view), neck]
    solid += [parts.ear_part(head, side, face.identity.ear_size, view) for side in (-1, 1)]
    fragments, depth = _rasterise(solid, view, side_px, False)
    light = face.light._replace(azimuth_deg=face.light.azimuth_deg)
    if face.hair.style == "long":
        _curtain(image, parts.curtain_part(face, view), view, face, depth)
    backdrop.draw_shoulders(image, view, neck.points_hu[-33:], face, rng)
    if face.hair.style == "long" :
        _curtain(image, parts.curtain_part(face, view), view, face, depth)
    _skin_pixels(image, fragments, solid, skin, light)
    if face.hair.style != "bald":
        _cap(image, *parts.hair_part(grid, face, view), view, face, depth)
    accessories.draw(image, scene, face, depth, rng)
    return image


def _skin_pixels(image: np.ndarray, fragments: Fragments, solid: list, skin: chart.Chart, light) -> None:
    attributes = np.concatenate(
        [np.concatenate([p.chart_hu, p.normals, p.light[:, None]], axis=1) for p in solid]
    ).astype(np.float32)
    values = fragments.interpolate(attributes)
    place = (values[:, :2] - chart.LO_HU.astype(np.float32)) * np.float32(skin.scale) - np.float32(0.5)
    rows = -(-len(place) // 1024)
    maps = [np.resize(place[:, i], (rows, 1024)) for i in (0, 1)]
    albedo = cv2.remap(skin.rgb, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).reshape(-1, 3)[: len(place)]
    colour = shading.shade(albedo.astype(np.float32), values[:, 2:5], values[:, 5], light, light.gloss)
    image.reshape(-1, 3)[fragments.pixel] = np.minimum(colour, 255).astype(np.uint8)


def _cap(image, part: parts.Part, inside_hu: np.ndarray, view: View, face: FaceParams, depth: np.ndarray) -> None:
    fragments, hair_depth = _rasterise([part], view, image.shape[0], False)
    values = fragments.interpolate(np.concatenate([part.chart_hu, part.normals, inside_hu[:, None]], 1).astype(np.float32))
    swirl = 30 * face.hair.wave * np.sin(values[:, 1] * 40)
    strands = shading.sample_tile(shading.strand_tile(), values[:, 0] * TILES_AROUND * shading.TILE + swirl, values[:, 1] * 900)
    alpha = np.clip((values[:, 5] + 0.035 * strands) / 0.06 + 0.3, 0, 1)
    alpha *= hair_depth.ravel()[fragments.pixel] > depth.ravel()[fragments.pixel] - 0.06
    _blend_hair(image, fragments.pixel, values[:, 2:5], strands, alpha, np.ones(len(alpha), np.float32), face)


TILES_AROUND = 2


def _curtain(image, part: parts.Part, view: View, face: FaceParams, depth: np.ndarray) -> None:
    fragments, _ = _rasterise([part], view, image.shape[0], False)
    values = fragments.interpolate(
        np.concatenate([part.chart_hu, part.normals, part.light[:, None]], axis=1).astype(np.float32)
    )
    strands = shading.sample_tile(shading.strand_tile(), values[:, 0] * 300, values[:, 1] * 500)
    ragged = np.clip((0.7 - values[:, 1] - 0.03 * (strands + 1.2)) / 0.02, 0, 1)
    _blend_hair(image, fragments.pixel, values[:, 2:5], strands, ragged, values[:, 5], face)


def _blend_hair(image, pixel, normals, strands, alpha, open_share, face: FaceParams) -> None:
    albedo = np.asarray(face.colours.hair, np.float32) * np.clip(1 + 0.22 * strands, 0.3, 1.8)[:, None]
    normals = normals * np.where(normals[:, 2:] < 0, -1, 1)
    colour = shading.shade(albedo, normals, open_share, face.light, 0.05)
    flat = image.reshape(-1, 3)
    weight = alpha[:, None].astype(np.float32)
    flat[pixel] = (flat[pixel] * (1 - weight) + np.minimum(colour, 255) * weight).astype(np.uint8)


def _rasterise(pieces: list, view: View, side_px: int, cull: bool) -> tuple[Fragments, np.ndarray]:
    counts = np.cumsum([0, *(len(p.points_hu) for p in pieces)])
    points = np.concatenate([p.points_hu for p in pieces])
    triangles = np.concatenate([p.triangles + first for p, first in zip(pieces, counts[:-1], strict=True)])
    fragments = rasterise(view.to_px(points), points[:, 2], triangles, side_px, cull)
    depth = np.full(side_px * side_px, -np.inf, np.float32)
    depth[fragments.pixel] = fragments.interpolate(points[:, 2:].astype(np.float32))[:, 0]
    return fragments, depth.reshape(side_px, side_px)


def _detector_box(landmarks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    lo, hi = landmarks.min(axis=0), landmarks.max(axis=0)
    size = hi - lo
    grown = rng.normal(1.0, 0.04, 2) * size
    middle = (lo + hi) / 2 + rng.normal(0, 0.025, 2) * size
    return np.concatenate([middle - grown / 2, middle + grown / 2])
