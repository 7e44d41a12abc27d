"""`.pts` files: 1-based coordinates, with and without header, and every way to be malformed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmkd.data_builders import landmark_files, trees

HEADER = "version: 1\nn_points:  3\n{\n"


def test_pts_is_one_based_with_and_without_header():
    body = "1.0 1.0\n10.5 20.25\n3 4\n"
    expected = [[0.0, 0.0], [9.5, 19.25], [2.0, 3.0]]
    for text in (HEADER + body + "}\n", body, "{\n" + body + "}", (HEADER + body + "}").replace("\n", "\r\n")):
        parsed = landmark_files.parse_pts(text, 3)
        assert parsed.problems == []
        np.testing.assert_array_equal(parsed.points_px, expected)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (HEADER + "1 1\n2 2\n}\n", 5, "2 points where 3 are needed"),
        (HEADER + "1 1\n2 2 2\n3 3\n}\n", 5, "3 fields where a point has 2"),
        (HEADER + "1 1\n2 nan\n3 3\n}\n", 5, "field 2 is nan"),
        (HEADER + "1 1\n2 inf\n3 3\n}\n", 5, "field 2 is inf"),
        (HEADER + "1 1\n2 2,5\n3 3\n}\n", 5, "no number: '2,5'"),
        ("n_points: 5\n1 1\n2 2\n3 3\n", 1, "n_points is 5, not 3"),
        ("colour: red\n1 1\n2 2\n3 3\n", 1, "unknown header 'colour'"),
        ("", 1, "0 points where 3 are needed"),
    ],
)
def test_malformed_pts_is_reported_with_its_line(text, line, says):
    parsed = landmark_files.parse_pts(text, 3)
    assert parsed.points_px is None
    assert any(number == line and says in what for number, what in parsed.problems), parsed.problems


@settings(deadline=None, max_examples=50)
@given(
    points=st.lists(st.tuples(*[st.floats(-50, 5000, allow_subnormal=False)] * 2), min_size=1, max_size=20),
    header=st.booleans(),
)
def test_pts_round_trip(points, header):
    body = "".join(f"{x + 1:.6f} {y + 1:.6f}\n" for x, y in points)
    text = f"version: 1\nn_points: {len(points)}\n{{\n{body}}}\n" if header else body
    np.testing.assert_allclose(landmark_files.parse_pts(text, len(points)).points_px, points, atol=1e-6)


def test_image_by_stem_takes_png_or_jpg_and_refuses_two(tmp_path):
    for name in ("a.png", "b.JPG", "c.jpg", "c.png", "notes.txt"):
        (tmp_path / name).touch()
    images, findings = landmark_files.by_stem(tmp_path), trees.Findings(tmp_path)
    assert landmark_files.image_of(tmp_path / "a.pts", images, "g", findings) == tmp_path / "a.png"
    assert landmark_files.image_of(tmp_path / "b.pts", images, "g", findings) == tmp_path / "b.JPG"
    assert landmark_files.image_of(tmp_path / "c.pts", images, "g", findings) is None
    assert landmark_files.image_of(tmp_path / "d.pts", images, "g", findings) is None
    assert findings.problems == ["c.pts: several images of that stem: c.jpg, c.png"]
    assert findings.absent == {"g": ["d.pts: no image of that stem (.png or .jpg)"]}
