"""The renderer: exact points, visible silhouettes, flags that agree with the parameters, no hidden randomness."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from lmkd.core.schemes import FACE68, WFLW98
from lmkd.data_builders.synthetic_faces import anatomy, drawing, parameters, raster, render, sampling
from lmkd.data_builders.synthetic_faces.head import build_head, mesh
from lmkd.data_builders.synthetic_faces.parameters import Expression, Extras, FaceParams, Identity, Light, Pose

CLEAN = FaceParams(extras=Extras(noise=0.0), pose=Pose(margin=1.6), hair=parameters.Hair(style="bald"))
FLIP = np.array(WFLW98.flip)


def drawn(face: FaceParams, size_px: int = 256) -> render.Face:
    return render.draw(face, np.random.default_rng(0), size_px)


def test_a_face_depends_on_seed_index_and_size_alone():
    first = render.draw_face(5, 3, 96)
    render.draw_face(6, 1, 64)
    again = render.draw_face(5, 3, 96)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.abs(first.landmarks98_px - render.draw_face(5, 4, 96).landmarks98_px).max() > 1
    assert np.abs(first.landmarks98_px - render.draw_face(6, 3, 96).landmarks98_px).max() > 1


def test_another_size_shows_the_same_face():
    small, large = render.draw_face(2, 9, 96), render.draw_face(2, 9, 192)
    np.testing.assert_allclose((small.landmarks98_px + 0.5) * 2 - 0.5, large.landmarks98_px, atol=1e-3)
    np.testing.assert_array_equal(small.subset, large.subset)


def test_shapes_and_dtypes():
    face = render.draw_face(0, 0, 80)
    assert face.image.shape == (80, 80, 3) and face.image.dtype == np.uint8
    assert face.landmarks98_px.shape == (98, 2) and face.landmarks98_px.dtype == np.float32
    assert face.visible.tolist() == [1.0] * 98
    assert face.subset.shape == (len(parameters.FLAGS),) and face.subset.dtype == np.uint8
    assert face.rectangle_px.shape == (4,) and face.rectangle_px.dtype == np.float32


def test_points_lie_inside_the_picture_with_a_margin_for_crops():
    for index in range(80):
        points = render.build_scene(sampling.sample_face(1, index), 128).landmarks_px
        assert points.min() >= 0 and points.max() <= 127
        assert 1.55 <= 128 / np.ptp(points, axis=0).max() <= 2.05


def test_the_neutral_frontal_head_is_its_own_mirror_image():
    scene = render.build_scene(CLEAN, 201)
    mirrored = scene.landmarks_px[FLIP] * [-1, 1] + [200, 0]
    np.testing.assert_allclose(scene.landmarks_px, mirrored, atol=1e-6)
    mask = render.head_mask(scene, 201)
    assert (mask != mask[:, ::-1]).mean() < 0.005


@pytest.mark.parametrize("yaw_deg", [25.0, 45.0, 60.0, -45.0])
@pytest.mark.parametrize("pitch_deg", [0.0, 12.0])
def test_the_far_contour_follows_the_visible_silhouette(yaw_deg, pitch_deg):
    scene = render.build_scene(CLEAN._replace(pose=Pose(yaw_deg=yaw_deg, pitch_deg=pitch_deg, margin=1.6)), 384)
    # from 40 degrees on the nose stands out beyond the far cheek; the contour is the cheek's
    bumps = scene.head.bumps.copy()
    bumps[np.hypot(bumps[:, 0], bumps[:, 1] - 0.45) < 0.2, 4] = 0  # the wings of the nose
    flat = scene._replace(mesh=mesh(scene.head._replace(nose=(0.0, 1.0), bumps=bumps)))
    mask = render.head_mask(flat, 384).astype(np.uint8)
    inside = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    outside = cv2.distanceTransform(np.pad(1 - mask, 1, constant_values=1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    far, near = np.arange(20, 32), np.arange(1, 11)
    if yaw_deg < 0:
        far, near = 32 - far, 32 - near
    column, row = np.round(scene.landmarks_px[:33]).astype(int).T
    to_edge = np.maximum(inside, outside)[row, column]
    hu_px = scene.view.scale_px
    assert to_edge[far].max() < 0.035 * hu_px, "far contour points lie on the outline of the drawn head"
    assert to_edge[near][:5].min() > 0.06 * hu_px, "near contour points lie on the jaw, in front of the ear"


def test_without_yaw_the_contour_is_the_outline():
    scene = render.build_scene(CLEAN._replace(pose=Pose(distance_hu=1e4, margin=1.6)), 384)
    drawn_hu = (scene.landmarks_px[:33] - scene.view.offset_px) / scene.view.scale_px
    np.testing.assert_allclose(drawn_hu, scene.head.points_hu[:33], atol=0.01)


BASE = FaceParams()


@pytest.mark.parametrize(
    ("face", "expected"),
    [
        (BASE, ()),
        (BASE._replace(pose=Pose(yaw_deg=-55.0)), ("pose",)),
        (BASE._replace(pose=Pose(roll_deg=35.0)), ("pose",)),
        (BASE._replace(expression=Expression(jaw_open=0.8)), ("expression",)),
        (BASE._replace(expression=Expression(eye_open_left=0.05)), ("expression",)),
        (BASE._replace(light=Light(exposure=0.4)), ("illumination",)),
        (BASE._replace(light=Light(azimuth_deg=80, ambient=0.1)), ("illumination",)),
        (BASE._replace(colours=parameters.Colours(lipstick=0.9)), ("makeup",)),
        (BASE._replace(extras=Extras(occluder="mask")), ("occlusion",)),
        (BASE._replace(extras=Extras(glasses="sun", blur_hu=0.08)), ("occlusion", "blur")),
        (BASE._replace(extras=Extras(glasses="thin")), ()),
        (BASE._replace(extras=Extras(motion_hu=0.2)), ("blur",)),
    ],
)
def test_flags_say_what_the_parameters_say(face, expected):
    assert tuple(np.array(parameters.FLAGS)[parameters.flags(face) == 1]) == expected


def test_every_flag_is_set_on_some_but_not_most_faces():
    faces = [sampling.sample_face(0, i) for i in range(400)]
    share = np.mean([parameters.flags(face) for face in faces], axis=0)
    assert (share > 0.06).all() and (share < 0.25).all(), dict(zip(parameters.FLAGS, share, strict=True))
    yaw = [face.pose.yaw_deg for face in faces]
    assert 22 < np.std(yaw) < 28 and abs(np.mean(yaw)) < 3


@pytest.mark.parametrize("yaw_deg", [0.0, 25.0, -35.0])
def test_pupil_points_are_the_centres_of_the_drawn_irises(yaw_deg):
    # eyes wide open, looking ahead: the whole dark disc shows
    expression = Expression(eye_open_left=1.7, eye_open_right=1.7)
    light = Light(azimuth_deg=0.0, elevation_deg=20.0)
    face = CLEAN._replace(pose=Pose(yaw_deg=yaw_deg, margin=1.6), expression=expression, light=light)
    picture = drawn(face)
    grey = picture.image.astype(float).mean(axis=-1)
    hu_px = 256 / 1.6 / np.ptp(picture.landmarks98_px, axis=0).max()
    hu_px *= np.linalg.norm(picture.landmarks98_px[60] - picture.landmarks98_px[72]) / hu_px  # inter-ocular distance
    for index in (96, 97):
        x, y = picture.landmarks98_px[index]
        rows, columns = np.mgrid[:256, :256]
        near = np.hypot(columns - x, rows - y) < 0.075 * hu_px
        dark = near & (grey < 90)
        assert dark.sum() > 30
        centre = np.array([columns[dark].mean(), rows[dark].mean()])
        assert np.abs(centre - [x, y]).max() < 0.02 * hu_px


def test_an_open_mouth_is_dark_between_the_inner_lip_points_and_lip_coloured_around():
    picture = drawn(CLEAN._replace(expression=Expression(jaw_open=0.9), colours=parameters.Colours(lips=(200, 40, 50))))
    p, image = picture.landmarks98_px, picture.image.astype(float)

    def colour(point):
        x, y = np.round(point).astype(int)
        return image[y - 1 : y + 2, x - 1 : x + 2].mean(axis=(0, 1))

    inside, upper_lip, lower_lip = (p[90] + 2 * p[94]) / 3, (p[79] + p[90]) / 2, (p[85] + p[94]) / 2
    cheek = (p[66] + p[76]) / 2
    for lip in (upper_lip, lower_lip):
        red, green, _ = colour(lip)
        assert red > 1.8 * green, "red lips between outer and inner points"
    assert colour(inside)[1] < 0.6 * colour(cheek)[1]
    assert colour(cheek)[1] > 0.55 * colour(cheek)[0], "skin is not lip-coloured"


def test_brow_points_surround_dark_brows():
    picture = drawn(CLEAN)
    grey = picture.image.astype(float).mean(axis=-1)
    for brow, forehead in ((range(33, 42), 35), (range(42, 51), 44)):
        outline = np.round(picture.landmarks98_px[list(brow)]).astype(np.int32)
        mask = np.zeros((256, 256), np.uint8)
        cv2.fillPoly(mask, [outline], 1)
        x, y = np.round(picture.landmarks98_px[forehead]).astype(int)
        assert grey[mask == 1].mean() < 0.75 * grey[y - 14 : y - 8, x - 3 : x + 4].mean()


def test_dark_light_and_glasses_change_the_picture_and_not_the_points():
    plain = drawn(CLEAN, 128)
    dark = drawn(CLEAN._replace(light=Light(exposure=0.35)), 128)
    worn = drawn(CLEAN._replace(extras=Extras(noise=0.0, glasses="sun")), 128)
    np.testing.assert_array_equal(plain.landmarks98_px, dark.landmarks98_px)
    np.testing.assert_array_equal(plain.landmarks98_px, worn.landmarks98_px)
    x, y = np.round(plain.landmarks98_px[60:68].mean(axis=0)).astype(int)
    patch = np.s_[y - 2 : y + 3, x - 2 : x + 3]
    assert dark.image[40:90, 40:90].mean() < 0.75 * plain.image[40:90, 40:90].mean()
    assert worn.image[patch].mean() < 60


@pytest.mark.parametrize("occluder", parameters.OCCLUDERS[1:])
def test_every_occluder_is_drawn_over_the_face(occluder):
    plain = drawn(CLEAN, 96)
    covered = drawn(CLEAN._replace(extras=Extras(noise=0.0, occluder=occluder)), 96)
    lo, hi = plain.landmarks98_px.min(axis=0).astype(int), plain.landmarks98_px.max(axis=0).astype(int)
    change = np.abs(covered.image.astype(int) - plain.image).max(axis=-1)[lo[1] : hi[1], lo[0] : hi[0]]
    assert (change > 12).mean() > 0.03


def test_the_detector_box_is_about_the_points_box():
    for index in range(20):
        face = render.draw_face(4, index, 64)
        lo, hi = face.landmarks98_px.min(axis=0), face.landmarks98_px.max(axis=0)
        error = np.abs(face.rectangle_px - np.concatenate([lo, hi])) / np.tile(hi - lo, 2)
        assert error.max() < 0.2


def aligned_error(points: np.ndarray, reference: np.ndarray, norm: float) -> float:
    """Mean distance after the best similarity (closed form, complex numbers), as a share of `norm`."""
    a, b = points @ [1, 1j], reference @ [1, 1j]
    a0, b0 = a - a.mean(), b - b.mean()
    return float(np.abs(a0 * (np.vdot(a0, b0) / np.vdot(a0, a0)) - b0).mean() / norm)


@pytest.mark.parametrize(
    ("scheme", "file"), [(WFLW98, "mean98_wflw.npy"), (FACE68, "mean68_300w.npy")], ids=["wflw98", "300w68"]
)
def test_the_mean_face_is_near_the_mean_of_real_annotations(scheme, file):
    root = os.environ.get("LMKD_REAL_DATA")
    if not root or not (Path(root) / "shapes" / file).is_file():
        pytest.skip(f"needs shapes/{file} below LMKD_REAL_DATA")
    real = np.load(Path(root) / "shapes" / file)
    chosen = list(WFLW98.subset_indices(scheme.name))
    contour = len(scheme.groups["contour"])
    left, right = (indices[0] for indices in scheme.normalisers["inter_ocular"])
    inter_ocular = np.linalg.norm(real[left] - real[right])
    faces = [sampling.sample_face(0, i) for i in range(100)]
    drawn_faces = [build_head(face.identity, face.expression).points_hu for face in faces]
    neutral = build_head(Identity(), Expression()).points_hu
    for points in (np.mean(drawn_faces, axis=0), neutral):
        assert aligned_error(points[chosen][contour:], real[contour:], float(inter_ocular)) < 0.05


def test_the_average_points_are_symmetric_and_one_unit_wide_between_the_eyes():
    points = anatomy.average_points_hu()
    np.testing.assert_allclose(points[FLIP] * [-1, 1], points, atol=1e-12)
    assert np.linalg.norm(points[72] - points[60]) == pytest.approx(1.0)


def test_rasterise_one_triangle_by_hand():
    # (1, 1), (5, 1), (1, 5): pixel centres with x >= 1, y >= 1, x + y <= 6
    vertices = np.array([[1.0, 1.0], [5.0, 1.0], [1.0, 5.0]])
    found = raster.rasterise(vertices, np.array([0.0, 4.0, 8.0]), np.array([[0, 1, 2]]), 8, np.array([True]))
    expected = sorted(y * 8 + x for x in range(1, 6) for y in range(1, 6) if x + y <= 6)
    assert sorted(found.pixel.tolist()) == expected
    x, y = found.pixel % 8, found.pixel // 8
    np.testing.assert_allclose(found.depth_hu, (x - 1) + 2 * (y - 1), atol=1e-5)
    np.testing.assert_allclose(found.interpolate(vertices.astype(np.float32)), np.stack([x, y], -1), atol=1e-5)


def test_rasterise_shows_the_nearer_triangle_and_no_backs_of_closed_surfaces():
    vertices = np.array([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0]] * 2)
    depth = np.array([1.0, 1, 1, 2, 2, 2])
    both = np.array([[0, 1, 2], [3, 4, 5]])
    found = raster.rasterise(vertices, depth, both, 8, np.array([False, False]))
    assert len(found.pixel) == 64
    np.testing.assert_allclose(found.depth_hu, 2.0, atol=1e-5)
    turned = np.array([[0, 1, 2], [3, 5, 4]])
    for closed, seen in (((True, True), 1.0), ((True, False), 2.0)):
        found = raster.rasterise(vertices, depth, turned, 8, np.array(closed))
        np.testing.assert_allclose(found.depth_hu, np.full(64, seen), atol=1e-5)


def test_records_do_not_depend_on_the_number_of_workers(monkeypatch):
    monkeypatch.setattr(drawing, "_WORTH_A_POOL", 1)
    monkeypatch.setattr(drawing, "_CHUNK", 3)
    alone = list(drawing.draw_records(3, range(7, 15), 48, workers=1))
    shared = list(drawing.draw_records(3, range(7, 15), 48, workers=2))
    assert len(alone) == len(shared) == 8
    for index, a, b in zip(range(7, 15), alone, shared, strict=True):
        assert a.jpeg == b.jpeg
        np.testing.assert_array_equal(a.landmarks98_px, b.landmarks98_px)
        np.testing.assert_array_equal(a.landmarks98_px, render.draw_face(3, index, 48).landmarks98_px)
