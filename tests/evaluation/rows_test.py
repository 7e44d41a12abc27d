"""Rows: errors, normalisers and NME by hand; `faces.csv` there and back, whole or not at all."""

import numpy as np
import pytest

from lmkd.core import schemes
from lmkd.core.errors import UserError
from lmkd.evaluation import rows
from lmkd.evaluation.files import whole_file

# Four points; the "eyes" 0 and 1 are what errors are divided by.
SQUARE = schemes.Scheme(
    name="square",
    names=("left", "right", "top", "low"),
    flip=(1, 0, 2, 3),
    groups={"pair": (0, 1), "rest": (2, 3)},
    normalisers={"eyes": ((0,), (1,))},
    default_normaliser="eyes",
    lines=((0, 1), (2, 3)),
)


def make_rows(errors_px, *, gaps_px=None, visible=None, evaluated=None, subset=None, keys=None):
    """Faces of SQUARE whose points are off to the right by `errors_px` [n, 4], the eyes `gaps_px` [n] apart."""
    errors_px = np.asarray(errors_px, np.float64)
    n = len(errors_px)
    gaps_px = np.full(n, 10.0) if gaps_px is None else np.asarray(gaps_px, np.float64)
    truth = np.zeros((n, 4, 2))
    truth[:, 1, 0] = gaps_px
    truth[:, 3] = 5.0, 40.0
    truth += 100.0
    predicted = truth.copy()
    predicted[..., 0] += errors_px
    return rows.FaceRows(
        keys=keys or [f"face_{i}" for i in range(n)],
        predicted_px=predicted,
        truth_px=truth,
        visible=np.ones((n, 4), np.float32) if visible is None else np.asarray(visible, np.float32),
        confidence=np.full((n, 4), 0.5, np.float32),
        subset=np.zeros((n, 1), np.uint8) if subset is None else np.asarray(subset, np.uint8),
        evaluated=np.ones(n, np.uint8) if evaluated is None else np.asarray(evaluated, np.uint8),
    )


def test_nme_by_hand():
    faces = make_rows([[1, 2, 3, 4], [0, 0, 0, 8]], gaps_px=[10, 20])
    # (1 + 2 + 3 + 4) / 4 / 10 and 8 / 4 / 20
    np.testing.assert_allclose(rows.nme_per_face(faces, SQUARE), [0.25, 0.1], rtol=1e-12)
    np.testing.assert_allclose(rows.nme_per_face(faces, SQUARE, points=(0, 1)), [0.15, 0.0], rtol=1e-12)
    # Box of 10 by 40: a normaliser of 20.
    np.testing.assert_allclose(rows.nme_per_face(faces, SQUARE, "box")[0], 2.5 / 20, rtol=1e-12)


def test_only_annotated_points_count():
    faces = make_rows([[1, 2, 300, 3]], visible=[[1, 1, 0, 1]])
    faces.truth_px[0, 2] = 1e6  # what stands at an unannotated point must not matter, neither here ...
    np.testing.assert_allclose(rows.nme_per_face(faces, SQUARE), [0.2])
    np.testing.assert_allclose(rows.norms_px(faces, SQUARE, "box"), [20.0])  # ... nor in the box
    assert np.isnan(rows.errors_px(faces)[0, 2])


def test_faces_without_a_score_are_nan():
    visible = [[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    faces = make_rows(np.ones((4, 4)), gaps_px=[10, 10, 0, 10], visible=visible, evaluated=[1, 1, 1, 0])
    # no right eye; no point at all; eyes in one place; skipped
    assert np.isnan(rows.nme_per_face(faces, SQUARE)).all()
    np.testing.assert_array_equal(np.isnan(rows.norms_px(faces, SQUARE, "box")), [False, True, False, True])


def test_wrong_number_of_points_is_an_error():
    with pytest.raises(UserError, match="rows of 3 points cannot be scored in scheme 'square' of 4"):
        rows.nme_per_face(rows.take_points(make_rows([[1, 2, 3, 4]]), (0, 1, 2)), SQUARE)


def test_concatenate_take_and_take_points():
    a, b = make_rows([[1, 2, 3, 4]], keys=["a"]), make_rows([[5, 6, 7, 8], [9, 10, 11, 12]], keys=["b", "c"])
    both = rows.take(rows.concatenate([a, b]), [2, 0])
    assert both.keys == ["c", "a"]
    np.testing.assert_allclose(rows.errors_px(both), [[9, 10, 11, 12], [1, 2, 3, 4]])
    np.testing.assert_allclose(rows.errors_px(rows.take_points(both, (3, 0))), [[12, 9], [4, 1]])


def test_csv_round_trip(tmp_path):
    faces = make_rows(
        np.arange(12).reshape(3, 4) / 7,
        visible=[[1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 0, 0]],
        evaluated=[1, 1, 0],
        subset=[[1, 0], [0, 1], [0, 0]],
        keys=["plain", 'with, comma "and" quote', "ünï/\nline.jpg"],
    )
    faces.predicted_px[2] = faces.truth_px[2] = np.nan
    path = tmp_path / "new" / "faces.csv"
    rows.write_csv(path, faces, SQUARE, ("pose", "blur"))
    again, flags = rows.read_csv(path)
    assert flags == ("pose", "blur")
    assert again.keys == faces.keys
    for name in ("predicted_px", "truth_px"):
        np.testing.assert_allclose(getattr(again, name), getattr(faces, name), atol=5.1e-7)
    for name in ("visible", "confidence", "subset", "evaluated"):
        np.testing.assert_array_equal(getattr(again, name), getattr(faces, name))
        assert getattr(again, name).dtype == getattr(faces, name).dtype
    np.testing.assert_allclose(rows.nme_per_face(again, SQUARE), rows.nme_per_face(faces, SQUARE), atol=1e-6)
    assert [p.name for p in path.parent.iterdir()] == ["faces.csv"]


def test_csv_columns(tmp_path):
    rows.write_csv(tmp_path / "faces.csv", make_rows([[1, 2, 3, 4]]), SQUARE, ("pose",))
    header, line = (tmp_path / "faces.csv").read_text().splitlines()
    found = dict(zip(header.split(","), line.split(","), strict=True))
    assert header.startswith("key,evaluated,nme,norm_eyes,norm_box,subset_pose,err_px_left,err_px_right")
    expected = {"key": "face_0", "evaluated": "1", "nme": "0.25", "norm_eyes": "10", "norm_box": "20"}
    expected |= {"err_px_low": "4", "pred_x_right": "112", "pred_y_low": "140", "true_x_right": "110"}
    assert {name: found[name] for name in expected} == expected


def test_csv_problems_come_together(tmp_path):
    path = tmp_path / "faces.csv"
    rows.write_csv(path, make_rows([[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4]]), SQUARE, ("pose",))
    header, first, second, third = path.read_text().splitlines()
    path.write_text("\n".join([header, first.replace("0.25", "much"), second + ",1", third]))
    with pytest.raises(UserError) as error:
        rows.read_csv(path)
    assert "line 2" in str(error.value) and "much" in str(error.value)
    assert "line 3" in str(error.value) and "line 4" not in str(error.value)


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n"])
def test_csv_of_another_kind_is_an_error(tmp_path, text):
    (tmp_path / "faces.csv").write_text(text)
    with pytest.raises(UserError, match="no column 'key'"):
        rows.read_csv(tmp_path / "faces.csv")


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "page.html"
    with whole_file(path) as file:
        file.write("first")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as file:
        file.write("half of the sec")
        raise KeyboardInterrupt
    assert path.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
