"""Where errors lie: measures by hand on made-up faces and colours, quarters by hand."""

import json
import math

import numpy as np
import pytest

from lmkd.core import schemes
from lmkd.evaluation import limits, report, rows, scores

SCHEME = schemes.get("300w68")


def face(nose_along=0.5, tilt_degrees=0.0):
    """A face of 100 px between the outer eye corners, its nose that far along the line between them."""
    points = np.zeros((68, 2))
    points[36], points[45] = (50, 50), (150, 50)
    points[30] = (50 + 100 * nose_along, 90)
    points[48], points[54], points[62], points[66] = (80, 120), (120, 120), (100, 115), (100, 125)
    points[[2, 31, 41, 48]] += np.array([[40, 90], [90, 95], [70, 55], [0, 0]])
    points[[14, 35, 46]] += np.array([[160, 90], [110, 95], [130, 55]])
    angle = math.radians(tilt_degrees)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return (points - 100) @ turn.T + 100


def test_turn_tilt_mouth_and_size_by_hand():
    found = limits.geometric(np.stack([face(), face(nose_along=0.75), face(tilt_degrees=20), face(nose_along=1.25)]))
    # The nose at 0.75: distances 0.75 and 0.25. Beyond the corner, at 1.25: 1.25 and 0.25.
    np.testing.assert_allclose(found["turn"], [0, 0.5, 0, 1.0 / 1.5], atol=1e-12)
    np.testing.assert_allclose(found["tilt, degrees"], [0, 0, 20, 0], atol=1e-9)
    np.testing.assert_allclose(found["mouth, opening / width"], 0.25)
    np.testing.assert_allclose(found["size, px between eye corners"], 100)


def typology_degrees(colour):
    """The angle by the formulas of sRGB (IEC 61966-2-1) and CIELAB, white D65."""
    values = np.array(colour) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    _, y, z = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    return math.degrees(math.atan2(116 * y ** (1 / 3) - 16 - 50, 200 * (y ** (1 / 3) - (z / 1.0888) ** (1 / 3))))


@pytest.mark.parametrize("colour", [(230, 190, 160), (150, 110, 80), (90, 60, 40)])
def test_skin_tone_by_the_formula(colour):
    image = np.zeros((200, 200, 3), np.uint8)
    image[:] = colour
    assert limits.skin_tone(image, face()) == pytest.approx(typology_degrees(colour), abs=0.5)


def test_only_the_cheeks_count():
    image = np.zeros((200, 200, 3), np.uint8)
    image[:40], image[40:] = (0, 0, 255), (230, 190, 160)  # hair above the eyes
    assert limits.skin_tone(image, face()) == pytest.approx(typology_degrees((230, 190, 160)), abs=0.5)


def test_grey_pictures_and_cheeks_outside_have_no_tone():
    assert math.isnan(limits.skin_tone(np.full((200, 200, 3), 140, np.uint8), face()))
    assert math.isnan(limits.skin_tone(np.full((20, 20, 3), 140, np.uint8), face()))


def test_quarters_by_hand():
    n, nme_percent = 8, np.array([1.0, 2, 3, 4, 5, 6, 30, 40])
    truth = np.stack([face()] * n)
    ones = np.ones((n, 68), np.float32)
    found = rows.FaceRows(
        [str(i) for i in range(n)], truth + np.array([1.0, 0]) * nme_percent[:, None, None], truth, ones, ones,
        np.zeros((n, 0), np.uint8), np.ones(n, np.uint8),
    )  # fmt: skip
    scored = scores.score(found, SCHEME, ())
    result = report.Result("a on b:test", "last", "landmarks", "inter_ocular", scored, found, SCHEME, (), "trained")
    grows = np.arange(n, dtype=np.float64)
    told = limits.limits(result, {"grows": grows, "unknown": np.where(grows < 2, np.nan, -grows)})
    assert [(q.low, q.high, q.faces) for q in told.quarters["grows"]] == [(0, 1, 2), (2, 3, 2), (4, 5, 2), (6, 7, 2)]
    assert [q.nme_percent for q in told.quarters["grows"]] == pytest.approx([1.5, 3.5, 5.5, 35])
    assert [q.failure_percent for q in told.quarters["grows"]] == [0, 0, 0, 100]
    # Six faces are known, the largest first: 40, 30 | 6, 5 | 4 | 3.
    assert [q.nme_percent for q in told.quarters["unknown"]] == pytest.approx([35, 5.5, 4, 3])
    assert told.without == {"grows": 0, "unknown": 2}
    text = limits.text(told)
    assert "| grows | 0.00 to 1.00: **1.50** (0.0) | 2.00 to 3.00: **3.50** (0.0) |" in text
    plain = json.loads(json.dumps(limits.to_dict(told)))
    assert plain["quarters"]["grows"][3]["nme_percent"] == pytest.approx(35)
    # The points lie to the right of the labels by their error, in % of 100 px.
    assert plain["offsets"]["right_px"]["value"] == pytest.approx(-nme_percent.mean())
    assert "Labels beside points, 8 faces" in text
