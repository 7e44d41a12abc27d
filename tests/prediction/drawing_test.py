"""Points and lines over a picture."""

import numpy as np
import pytest

from lmkd.core.schemes import FACE68, Scheme
from lmkd.prediction import drawing

SCHEME = Scheme(name="two", names=("a", "b", "c"), flip=(0, 1, 2), lines=((0, 1),))


def spread(image, background, at):
    """How many pixels around (x, y) differ from the background, along its row."""
    return int((image[at[1]] != background).any(axis=-1).sum())


def test_dots_stand_at_the_points_and_grow_with_the_face():
    image = np.full((300, 400, 3), 90, np.uint8)
    small = drawing.draw(image, [np.array([[50.0, 50.0], [80.0, 60.0], [60.0, 90.0]])], SCHEME)
    large = drawing.draw(image, [np.array([[50.0, 50.0], [350.0, 60.0], [60.0, 290.0]])], SCHEME)
    assert tuple(small[50, 50]) == tuple(large[290, 60]) == drawing.DOT
    assert spread(large, 90, (60, 290)) > spread(small, 90, (60, 90)) > 2
    assert (image == 90).all()  # the picture itself is left alone


def test_a_line_joins_what_the_scheme_joins():
    image = np.zeros((100, 100, 3), np.uint8)
    drawn = drawing.draw(image, [np.array([[10.0, 50.0], [90.0, 50.0], [50.0, 90.0]])], SCHEME)
    np.testing.assert_allclose(drawn[50, 50].astype(int), drawing.LINE, atol=30)  # its edges are softened
    assert (drawn[70, 50] == 0).all()


def test_points_outside_do_no_harm():
    points = np.random.default_rng(0).uniform(-300, 300, (68, 2))
    assert drawing.draw(np.zeros((40, 30, 3), np.uint8), [points], FACE68).shape == (40, 30, 3)


@pytest.mark.parametrize("faces", [0, 2])
def test_a_huge_picture_is_drawn_smaller_at_the_same_places(faces):
    image = np.full((600, 800, 3), 90, np.uint8)
    points = [np.array([[100.5, 400.5], [300.5, 400.5], [200.5, 500.5]]) + 200 * n for n in range(faces)]
    drawn = drawing.draw(image, points, SCHEME, longest_px=400)
    assert drawn.shape == (300, 400, 3)
    # Pixel 100.5 of 800 is (100.5 + 0.5) / 2 - 0.5 = 50 of 400.
    assert all(tuple(drawn[200 + 100 * n, 50 + 100 * n]) == drawing.DOT for n in range(faces) if n == 0)
    assert (drawn == 90).all() == (faces == 0)
