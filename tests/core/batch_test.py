import numpy as np

from lmkd.core import batch


def test_empty_face_has_every_key_with_its_dtype_and_shape():
    face = batch.empty_face(side_px=12, num_points=5, num_flags=3)
    expected = {
        "image": (np.uint8, (12, 12, 3)),
        "landmarks_px": (np.float32, (5, 2)),
        "visible": (np.float32, (5,)),
        "crop_to_image": (np.float32, (2, 3)),
        "norm_px": (np.float32, ()),
        "mask": (np.float32, ()),
        "subset": (np.uint8, (3,)),
    }
    assert {name: (value.dtype.type, value.shape) for name, value in face.items()} == expected


def test_empty_face_counts_for_nothing_and_divides_safely():
    face = batch.empty_face(8, 2, 0)
    assert face["mask"] == 0 and not face["visible"].any()
    assert face["norm_px"] == 1
    np.testing.assert_array_equal(face["crop_to_image"], [[1, 0, 0], [0, 1, 0]])


def test_heatmaps_never_cross_the_bus():
    assert not any("heatmap" in name for name in batch.FIELDS)
