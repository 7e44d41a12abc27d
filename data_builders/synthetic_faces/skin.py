"""Paints a face's skin chart: eyes, brows, nose, lips, beard, make-up and the soft shadows of the folds."""

import cv2
import numpy as np

from lmkd.data_builders.synthetic_faces.chart import Chart
from lmkd.data_builders.synthetic_faces.head import Head
from lmkd.data_builders.synthetic_faces.paint import disc, mix, polygon, scaled, smooth_curve
from lmkd.data_builders.synthetic_faces.parameters import FaceParams

IRIS_RADIUS_HU, PUPIL_RADIUS_HU = 0.068, 0.029
DARK = (34, 22, 18)
EYES = np.array([range(60, 68), range(68, 76)])  # image-left, image-right
BROWS = np.array([range(33, 42), range(42, 51)])
PUPILS = np.array([96, 97])


def paint_skin(head: Head, face: FaceParams, scale_px: float, rng: np.random.Generator, grain: np.ndarray) -> Chart:
    """Returns the painted chart; `grain` float32 is a tile of skin noise around 0."""
    chart = Chart(head, face.colours.skin, scale_px)
    p, c = head.points_hu, face.colours
    _folds(chart, p, face)
    if c.beard > 0 or c.moustache > 0:
        _beard(chart, p, face)
    chart.apply_spots(1 + grain * np.float32(0.035))
    if c.freckles > 0:
        _freckles(chart, c.skin, c.freckles, rng)
    _nose(chart, p, c.skin)
    _lips(chart, p, face)
    _eyes(chart, p[EYES], p[PUPILS], face)
    _brows(chart, p[BROWS], face, rng)
    return chart


def _folds(chart: Chart, p: np.ndarray, face: FaceParams) -> None:
    c, old = face.colours, face.colours.wrinkles
    red = 0.9 - 0.12 * c.blush
    folds = []
    for side, eye, wing, corner in ((-1, 96, 55, 76), (1, 97, 59, 82)):
        x, y = p[eye]
        chart.spot((side * 0.165, y - 0.01), (0.06, 0.10), (0.80, 0.74, 0.74))
        chart.spot((x, y - 0.085), (0.16, 0.05), (0.86, 0.80, 0.79))
        chart.spot((x, y + 0.115), (0.14, 0.045), (0.93 - 0.1 * old, 0.89 - 0.1 * old, 0.90 - 0.08 * old))
        chart.spot((side * 0.50, 0.42), (0.20, 0.16), (1.03, red, red))
        chart.spot((p[wing, 0] * 1.12, p[wing, 1] - 0.02), (0.05, 0.07), (0.85, 0.78, 0.76))
        chart.spot((p[corner, 0] * 1.08, p[corner, 1] + 0.01), (0.04, 0.05), (0.84, 0.78, 0.78))
        folds.append([p[wing] + [side * 0.03, -0.06], p[wing] + [side * 0.12, 0.10], p[corner] + [side * 0.09, -0.05]])
    depth = 0.12 + 0.28 * old + 0.3 * max(face.expression.smile, 0)
    chart.line(smooth_curve(np.array(folds)), 0.02, scaled(c.skin, (0.66, 0.56, 0.54)), depth, 0.022)
    if c.eyeshadow > 0:
        lids = p[EYES][:, :5]
        area = np.concatenate([lids, lids[:, ::-1] + [0, -0.10]], axis=1)
        chart.fill(area, c.eyeshadow_colour, 0.75 * c.eyeshadow, 0.022)
    chart.spot((0, p[57, 1] + 0.05), (0.10, 0.035), (0.86, 0.80, 0.79))
    chart.spot((0, p[85, 1] + 0.07), (0.13, 0.04), (0.86, 0.81, 0.80))
    chart.spot((0, p[54, 1]), (0.09, 0.08), (1.03, 0.94, 0.92))
    chart.spot((0, -0.1), (0.05, 0.10), (0.97, 0.95, 0.94))
    if old > 0.4:
        x = np.linspace(-0.38, 0.38, 7)
        rows = np.array([np.stack([x, -0.42 - level - 0.2 * x**2], axis=-1) for level in (0.0, 0.09, 0.18)])
        chart.line(rows, 0.01, scaled(c.skin, (0.7, 0.62, 0.6)), 0.45 * (old - 0.3), 0.012)


def _beard(chart: Chart, p: np.ndarray, face: FaceParams) -> None:
    c = face.colours
    colour = np.minimum(np.asarray(c.hair) * 0.75, np.asarray(c.skin) * 0.7)
    mouth_top, mouth_low = p[76:83], np.concatenate([p[82:88], p[76:77]])
    if c.beard > 0:
        lower = p[3:30] * [1.0, 1.0]
        sides = np.array([[0.62, 0.55], [0.44, 0.74]]) * [1, p[82, 1] / 0.818]
        upper = np.concatenate([sides, mouth_low[:-1] + [0, 0.055], (sides * [-1, 1])[::-1]])
        chart.fill(np.concatenate([lower, upper]), colour, 0.88 * c.beard**0.8, 0.05)
        chart.spot((0.0, p[16, 1] - 0.1), (0.5, 0.2), (1 - 0.15 * c.beard,) * 3)
    if c.moustache > 0:
        low = mouth_top[::-1] + [0, -0.01]
        high = np.array([p[76] + [-0.02, 0.05], (p[76] + p[55]) / 2, p[56] + [0, 0.06], p[58] + [0, 0.06], (p[82] + p[59]) / 2])
        chart.fill(np.concatenate([high, [p[82] + [0.02, 0.05]], low]), colour, 0.85 * c.moustache, 0.018)


def _freckles(chart: Chart, skin: np.ndarray | tuple, amount: float, rng: np.random.Generator) -> None:
    count = int(40 * amount) + 1
    centres = np.stack([rng.normal(0, 0.36, count), rng.normal(0.3, 0.12, count)], axis=-1)
    spans = rng.uniform(-0.008, 0.008, (count, 2))
    chart.line(np.stack([centres - spans, centres + spans], axis=1), 0.018, scaled(skin, (0.72, 0.62, 0.55)), 0.6)


def _nose(chart: Chart, p: np.ndarray, skin: np.ndarray | tuple) -> None:
    shade = scaled(skin, (0.52, 0.38, 0.36))
    around = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    holes, rims = [], []
    for side, wing in ((-1, 55), (1, 59)):
        width = abs(p[wing, 0])
        hole = np.stack([np.cos(around) * width * 0.26, np.sin(around) * 0.021 - side * np.cos(around) * 0.012], axis=-1)
        holes.append(hole + [side * width * 0.47, p[57, 1] - 0.035])
        rim = np.array([[-0.03, -0.135], [0.012, -0.09], [0.012, -0.035], [-0.02, 0.0], [-0.07, 0.008]])
        rims.append(p[wing] + rim * [side, 1])
    chart.fill(np.array(holes), scaled(skin, (0.28, 0.16, 0.15)), 0.9, 0.007)
    chart.line(smooth_curve(np.array(rims)), 0.014, shade, 0.6, 0.008)
    chart.line(smooth_curve(p[55:60]), 0.012, shade, 0.4, 0.009)


def _lips(chart: Chart, p: np.ndarray, face: FaceParams) -> None:
    c = face.colours
    top, bottom = smooth_curve(p[76:83]), smooth_curve(np.concatenate([p[82:88], p[76:77]]))
    inner_top, inner_bottom = smooth_curve(p[88:93]), smooth_curve(np.concatenate([p[92:96], p[88:89]]))
    soft = 0.006 + 0.006 * (1 - c.lipstick)
    chart.fill(np.concatenate([top, inner_top[::-1]]), scaled(c.lips, (0.84, 0.80, 0.80)), 0.92, soft)
    chart.fill(np.concatenate([bottom, inner_bottom[::-1]]), c.lips, 0.92, soft)
    shine = (p[94] + p[85]) / 2
    gleam = shine + np.array([[-0.09, -0.004], [0, -0.014], [0.09, -0.004], [0, 0.012]])
    chart.fill(gleam, (255, 235, 230), 0.16 + 0.25 * c.lipstick, 0.012)
    opening = p[94, 1] - p[90, 1]
    if opening > 0.012:
        _mouth_inside(chart, np.concatenate([inner_top, inner_bottom[1:]]), p, opening)
    line_alpha = 0.85 if opening < 0.03 else 0.5
    chart.line(inner_top, 0.012, scaled(c.lips, (0.36, 0.28, 0.28)), line_alpha, 0.004)


def _mouth_inside(chart: Chart, inner: np.ndarray, p: np.ndarray, opening: float) -> None:
    outline = chart.px(inner)
    roi, mask = chart.blank(outline, 2)
    height, width = mask.shape
    picture = np.empty((height, width, 3), np.float32)
    picture[:] = (58, 20, 20)
    across = (np.arange(width) - width / 2) / (width / 2)
    teeth_end = chart.px(p[90:91])[0, 1] - roi[1] + (min(0.115, 0.75 * opening) - 0.03 * across**2) * chart.scale
    teeth = np.clip(teeth_end[None, :] - np.arange(height)[:, None], 0, 1)[..., None]
    enamel = np.array([230, 224, 210]) * (1.0 - 0.4 * across[None, :, None] ** 2)
    picture += teeth * (enamel - picture)
    if opening > 0.2:
        centre, size = (width // 2, int(height * 0.95)), (int(width * 0.28), int(height * 0.26))
        cv2.ellipse(picture, centre, size, 0, 0, 360, (160, 72, 70), -1, cv2.LINE_AA)
    chart.paste(outline, roi, picture)


def _eyes(chart: Chart, lids: np.ndarray, pupils: np.ndarray, face: FaceParams) -> None:
    c = face.colours
    upper = smooth_curve(lids[:, :5])
    lower = smooth_curve(np.concatenate([lids[:, 4:], lids[:, :1]], axis=1))
    centres = chart.px(pupils)
    for eye in (0, 1):
        _eyeball(chart, upper[eye], lower[eye], centres[eye], face)
    lash = 0.012 + 0.010 * face.identity.feminine + 0.012 * c.eyeliner
    chart.line(upper + [0, -lash / 2], lash, DARK, 0.85, 0.004)
    chart.line(lower, 0.010, scaled(c.skin, (0.5, 0.36, 0.34)), 0.5 + 0.4 * c.eyeliner, 0.005)
    inner_corners = np.stack([lids[0, 4], lids[1, 0]])[:, None]
    tear = np.array([[-0.012, 0], [0, -0.01], [0.014, 0], [0, 0.012]])
    chart.fill(inner_corners + tear, (206, 132, 124), 0.7, 0.004)
    openness = np.maximum(np.ptp(lids[..., 1], axis=1), 0.02)[:, None]
    crease = upper.copy()
    crease[..., 1] -= 0.028 + 0.22 * openness
    chart.line(crease, 0.012, scaled(c.skin, (0.55, 0.43, 0.40)), 0.55, 0.009)


def _eyeball(chart: Chart, upper: np.ndarray, lower: np.ndarray, centre_px: np.ndarray, face: FaceParams) -> None:
    outline = chart.px(np.concatenate([upper, lower[1:-1]]))
    roi, shade = chart.blank(outline, 2)
    picture = np.empty((*shade.shape, 3), np.uint8)
    picture[:] = (232, 225, 220)
    centre = centre_px - roi[:2]
    disc(picture, centre, IRIS_RADIUS_HU * chart.scale, scaled(face.colours.iris, 0.5))
    disc(picture, centre, IRIS_RADIUS_HU * 0.82 * chart.scale, face.colours.iris)
    disc(picture, centre, PUPIL_RADIUS_HU * chart.scale, (10, 8, 8))
    edge = outline[: len(upper)] - roi[:2]
    band = np.concatenate([edge + [0, -0.06 * chart.scale], edge[::-1] + [0, 0.02 * chart.scale]])
    polygon(shade, band, 130)  # the upper lid's shadow on the ball
    mix(picture, np.asarray(cv2.GaussianBlur(shade, (0, 0), max(0.014 * chart.scale, 0.4))), (40, 26, 24))
    glint = centre + np.array([0.022 * np.sign(face.light.azimuth_deg + 1e-9), -0.024]) * chart.scale
    disc(picture, glint, 0.0135 * chart.scale, (250, 250, 250))
    chart.paste(outline, roi, picture)


def _brows(chart: Chart, brows: np.ndarray, face: FaceParams, rng: np.random.Generator) -> None:
    colour = np.asarray(face.colours.hair) * 0.62 + np.array([6, 4, 3])
    outline = np.concatenate([smooth_curve(brows[:, :5]), smooth_curve(brows[:, 5:])], axis=1)
    chart.fill(outline, colour, 0.74 - 0.1 * (sum(face.colours.hair) > 420), 0.012)
    strokes = []
    for brow, outward in zip(brows, (-1, 1), strict=True):
        top, low = smooth_curve(brow[:5], 4), smooth_curve(np.concatenate([brow[5:], brow[:1]])[::-1], 4)
        at = (rng.uniform(0.02, 0.98, 14) * (len(top) - 1)).astype(int)
        strokes.append(np.stack([low[np.minimum(at, len(low) - 1)], top[at] + [outward * 0.035, 0.004]], axis=1))
    chart.line(np.concatenate(strokes), 0.008, colour * 0.7, 0.5)
