"""The evaluator: original pixels, order, padding, unreadable records, wrong totals, several hosts."""

import os
import pickle
import socket
import subprocess
import sys

import numpy as np
import pytest

from lmkd.core import schemes
from lmkd.core.batch import empty_face
from lmkd.core.errors import UserError
from lmkd.evaluation import evaluator
from lmkd.evaluation.rows import FaceRows, errors_px


def make_face(key, *, num_points=3, seed=0, unreadable=False):
    face = empty_face(4, num_points, 2)
    generator = np.random.default_rng(seed)
    if not unreadable:
        face["landmarks_px"] = generator.uniform(0, 4, (num_points, 2)).astype(np.float32)
        face["visible"] = np.ones(num_points, np.float32)
        face["crop_to_image"] = np.array([[2, 1, 10 * seed], [-1, 2, 5]], np.float32)
        face["mask"] = np.asarray(1.0, np.float32)
        face["subset"] = np.array([seed % 2, 1], np.uint8)
    return face | {"key": key, "counted": np.uint8(1)}


def padding(num_points=3):
    return empty_face(4, num_points, 2) | {"key": "", "counted": np.uint8(0)}


def stack(faces):
    keys = [face["key"] for face in faces]
    return {name: np.stack([face[name] for face in faces]) for name in faces[0] if name != "key"} | {"key": keys}


def off_by_one(batch):
    """Predicts one crop pixel to the right of the truth."""
    return batch["landmarks_px"] + np.array([1.0, 0.0]), np.full(batch["visible"].shape, 0.25, np.float32)


def test_rows_are_in_order_and_in_original_pixels():
    faces = [make_face(f"k{i}", seed=i) for i in range(5)]
    batches = [stack(faces[:2]), stack(faces[2:4]), stack([faces[4], padding()])]
    found = evaluator.evaluate(off_by_one, batches, expected_faces=5)
    assert found.keys == ["k0", "k1", "k2", "k3", "k4"]
    for i, face in enumerate(faces):
        x, y = face["landmarks_px"][1].astype(float)
        # The affine by hand: (2 x + y + 10 i, -x + 2 y + 5), the prediction at x + 1.
        np.testing.assert_allclose(found.truth_px[i, 1], [2 * x + y + 10 * i, -x + 2 * y + 5], atol=1e-12)
        np.testing.assert_allclose(found.predicted_px[i, 1], [2 * x + 2 + y + 10 * i, -x - 1 + 2 * y + 5], atol=1e-12)
    np.testing.assert_allclose(errors_px(found), np.sqrt(5.0))
    np.testing.assert_array_equal(found.subset[:, 0], [0, 1, 0, 1, 0])
    np.testing.assert_array_equal(found.evaluated, 1)
    assert [a.dtype for a in found[1:]] == [np.float64, np.float64, *[np.float32] * 2, np.uint8, np.uint8]


def test_the_scores_do_not_depend_on_the_batch_size():
    faces = [make_face(f"k{i}", seed=i, unreadable=i == 3) for i in range(7)]
    whole = evaluator.evaluate(off_by_one, [stack(faces)], expected_faces=7)
    cut = [stack(faces[:4]), stack([*faces[4:], padding()])]
    for a, b in zip(whole, evaluator.evaluate(off_by_one, cut, expected_faces=7), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_unreadable_record_keeps_its_row_as_skipped():
    batch = stack([make_face("a"), make_face("b", unreadable=True), make_face("c", seed=2), padding()])
    found = evaluator.evaluate(off_by_one, [batch], expected_faces=3)
    assert found.keys == ["a", "b", "c"]
    np.testing.assert_array_equal(found.evaluated, [1, 0, 1])
    assert np.isnan(found.predicted_px[1]).all() and np.isnan(found.truth_px[1]).all()
    np.testing.assert_array_equal(found.visible.sum(axis=1), [3, 0, 3])


@pytest.mark.parametrize("expected", [2, 4])
def test_a_wrong_total_is_an_error(expected):
    batch = stack([make_face("a"), make_face("b", unreadable=True), make_face("c"), padding()])
    with pytest.raises(UserError, match=rf"evaluated 2 \+ skipped 1 = 3, the split has {expected} faces"):
        evaluator.evaluate(off_by_one, [batch], expected_faces=expected)


def test_repeated_keys_and_a_wrong_total_come_together():
    batch = stack([make_face("a"), make_face("b"), make_face("a")])
    with pytest.raises(UserError, match="the split has 2 faces(.|\n)*1 keys occur more than once: 'a'"):
        evaluator.evaluate(off_by_one, [batch], expected_faces=2)


def test_no_batches_is_an_error():
    with pytest.raises(UserError, match="no batches came, 3 faces expected"):
        evaluator.evaluate(off_by_one, [], expected_faces=3)


def test_a_prediction_of_nan_is_an_error_but_not_on_padding():
    def broken(batch):
        points, confidence = off_by_one(batch)
        points[-1] = np.nan
        return points, confidence

    evaluator.evaluate(broken, [stack([make_face("a"), padding()])], expected_faces=1)
    evaluator.evaluate(broken, [stack([make_face("a"), make_face("b", unreadable=True)])], expected_faces=2)
    with pytest.raises(UserError, match="predictions are not finite for 1 faces: 'b'"):
        evaluator.evaluate(broken, [stack([make_face("a"), make_face("b")])], expected_faces=2)


def test_a_true_point_that_counts_must_be_there():
    face = make_face("a")
    face["landmarks_px"][1] = np.nan
    points = np.zeros((1, 3, 2)), np.zeros((1, 3))
    with pytest.raises(UserError, match="true points that count are not finite for 1 faces: 'a'"):
        evaluator.evaluate(lambda batch: points, [stack([face])], expected_faces=1)
    face["visible"][1] = 0
    found = evaluator.evaluate(lambda batch: points, [stack([face])], expected_faces=1)
    np.testing.assert_array_equal(np.isfinite(errors_px(found)), [[True, False, True]])


def test_a_model_of_another_scheme_is_told_the_way():
    batch = stack([make_face("a", num_points=68)])

    def of_98(batch):
        points = np.arange(98.0)[None, :, None] * np.ones((1, 1, 2))
        return points, np.arange(98.0)[None]

    with pytest.raises(UserError, match=r"predictions \[1, 98, 2\].*points \[1, 68, 2\].*in_target_scheme"):
        evaluator.evaluate(of_98, [batch], expected_faces=1)
    wflw = schemes.get("wflw98")
    found = evaluator.evaluate(evaluator.in_target_scheme(of_98, wflw, "300w68"), [batch], expected_faces=1)
    # Outer eye corners: points 60 and 72 of WFLW, 36 and 45 of 300W.
    np.testing.assert_array_equal(found.confidence[0, [36, 45]], [60, 72])


def test_a_batch_without_its_keys_is_an_error():
    batch = stack([make_face("a")])
    del batch["counted"], batch["crop_to_image"]
    with pytest.raises(UserError, match="no key 'crop_to_image'(.|\n)*no key 'counted'"):
        evaluator.evaluate(off_by_one, [batch], expected_faces=1)


def test_pack_keeps_every_bit_and_sorts_by_index():
    faces = evaluator.evaluate(off_by_one, [stack([make_face("ü" * 3), make_face("b", unreadable=True)])], expected_faces=2)
    faces = faces._replace(predicted_px=faces.predicted_px + 1e-13)  # lost in float32
    packed = evaluator.pack(faces, np.array([7, 2]), key_bytes=6)
    assert packed.dtype == np.uint8
    found = evaluator.unpack(packed, key_bytes=6, shape=(3, 2))
    assert isinstance(found, FaceRows) and found.keys == ["b", "üüü"]
    for a, b in zip(faces[1:], found[1:], strict=True):
        np.testing.assert_array_equal(a[::-1], b)


_HOST = """
import pickle, sys
import jax
rank, port, folder, out = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=rank)
sys.path.insert(0, folder)
import evaluator_test as t
faces = [t.make_face(f"key {'x' * i}", seed=i, unreadable=i == 2) for i in range(5)] + [t.padding()]
share = faces[rank::2]
batches = [t.stack(share[:2]), t.stack([*share[2:], t.padding()])]
found = t.evaluator.evaluate(t.off_by_one, batches, expected_faces=5)
pickle.dump(tuple(found), open(out, "wb"))
"""


def test_two_hosts_give_the_rows_of_one(tmp_path):
    faces = [make_face(f"key {'x' * i}", seed=i, unreadable=i == 2) for i in range(5)]
    expected = evaluator.evaluate(off_by_one, [stack(faces)], expected_faces=5)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    outputs = [tmp_path / f"{rank}.pickle" for rank in (0, 1)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", _HOST, str(rank), port, os.path.dirname(__file__), str(outputs[rank])],
            env=environment, stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    try:
        errors = [host.communicate(timeout=120)[1] for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    assert [host.returncode for host in hosts] == [0, 0], "\n".join(errors)
    for output in outputs:
        for a, b in zip(expected, pickle.loads(output.read_bytes()), strict=True):
            np.testing.assert_array_equal(a, b)
