"""The pipeline: global order, hosts' shares, exact resume, padding, unreadable records."""

import numpy as np
import pytest
from small_faces import POINTS, SCHEME, Faces, png_that_claims

from lmkd.core import batch as batch_table
from lmkd.core.errors import UserError
from lmkd.data import pipeline, transforms
from lmkd.data.reading import UnreadableRecord


def training(faces, *, batch_size=4, policy="error", threads=2, seed=3, **options):
    make = transforms.MakeFace(SCHEME, 32, augmentation=transforms.Augmentation())
    unreadable = pipeline.Unreadable(policy)
    iterator = pipeline.training_batches(
        faces, make, batch_size=batch_size, seed=seed, unreadable=unreadable, threads=threads, **options
    )
    return iterator, unreadable


def evaluation(faces, *, batch_size=4, policy="skip", **options):
    make = transforms.MakeFace(SCHEME, 32)
    unreadable = pipeline.Unreadable(policy)
    found = list(pipeline.evaluation_batches(faces, make, batch_size=batch_size, unreadable=unreadable, **options))
    return found, unreadable


def take(iterator, count):
    batches = [next(iterator) for _ in range(count)]
    iterator.close()
    return batches


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_batches_hold_what_the_table_says():
    batch = take(training(Faces())[0], 1)[0]
    sizes = {"S": 32, "K": 4, "F": 0}
    assert batch.keys() == batch_table.FIELDS.keys()
    for name, field in batch_table.FIELDS.items():
        assert batch[name].dtype == field.dtype
        assert batch[name].shape == (4, *(sizes.get(n, n) for n in field.shape))


def test_order_and_augmentation_do_not_depend_on_threads_or_hosts():
    whole = take(training(Faces(), threads=1)[0], 3)
    assert_equal(whole[2], take(training(Faces(), threads=4)[0], 3)[2])
    shares = [take(training(Faces(), host=h, hosts=2)[0], 3) for h in range(2)]
    for n in range(3):
        assert_equal({k: v[::2] for k, v in whole[n].items()}, shares[0][n])
        assert_equal({k: v[1::2] for k, v in whole[n].items()}, shares[1][n])


def test_images_that_are_kept_decoded_change_nothing_and_are_read_once():
    class Counted(Faces):
        reads = 0

        def __getitem__(self, index):
            self.reads += 1
            return super().__getitem__(index)

    def reads_of_four_epochs(keep_mb):
        faces = Counted(8)
        batches = take(training(faces, keep_mb=keep_mb, threads=1)[0], 8)
        for batch, plain in zip(batches, undisturbed, strict=True):
            assert_equal(batch, plain)
        return faces.reads

    undisturbed = take(training(Faces(8))[0], 8)
    image_mb = transforms.decode(Faces(8)[0]).nbytes / 1e6
    assert reads_of_four_epochs(1.0) == 8
    assert reads_of_four_epochs(3.5 * image_mb) >= 3 + 5 * 4  # three fit; read-ahead may have begun another epoch
    assert reads_of_four_epochs(0.0) >= 8 * 4


def test_seed_changes_order_and_every_epoch_differs():
    images = [b["image"] for b in take(training(Faces(4))[0], 3)]
    assert (images[0] != images[1]).any() and (images[1] != images[2]).any()
    assert (take(training(Faces(4), seed=4)[0], 1)[0]["image"] != images[0]).any()


def test_every_face_comes_once_an_epoch():
    norms = np.concatenate([b["crop_to_image"][:, :, 2].sum(1) for b in take(training(Faces(8))[0], 2)])
    make = transforms.MakeFace(SCHEME, 32)  # no augmentation: the offset tells which face it is
    iterator = pipeline.training_batches(Faces(8), make, batch_size=4, seed=0, unreadable=pipeline.Unreadable("error"))
    offsets = np.concatenate([b["crop_to_image"][:, 0, 2] for b in take(iterator, 2)])
    assert len(np.unique(np.round(offsets, 3))) == 8 and len(norms) == 8


def test_resume_in_mid_epoch_is_exact():
    iterator, _ = training(Faces(10))
    take_two = [next(iterator), next(iterator)]
    state = iterator.get_state()
    expected = [next(iterator) for _ in range(3)]
    iterator.close()
    fresh, _ = training(Faces(10))
    fresh.set_state(state)
    for a, b in zip(expected, take(fresh, 3), strict=True):
        assert_equal(a, b)
    assert (take_two[0]["image"] != expected[0]["image"]).any()


def test_last_evaluation_batch_is_padded_never_dropped():
    batches, _ = evaluation(Faces(10))
    assert [len(b["key"]) for b in batches] == [4, 4, 4]
    np.testing.assert_array_equal(batches[-1]["mask"], [1, 1, 0, 0])
    np.testing.assert_array_equal(batches[-1]["counted"], [1, 1, 0, 0])
    assert [k for b in batches for k in b["key"]] == [*(f"face{n}" for n in range(10)), "", ""]


def test_hosts_share_an_evaluation():
    shares = [evaluation(Faces(10), host=h, hosts=2)[0] for h in range(2)]
    keys = [[k for b in share for k, c in zip(b["key"], b["counted"], strict=True) if c] for share in shares]
    assert keys == [[f"face{n}" for n in range(h, 10, 2)] for h in range(2)]


def test_unreadable_evaluation_face_keeps_its_row():
    batches, unreadable = evaluation(Faces(6, broken=(1, 4)))
    mask, counted = (np.concatenate([b[name] for b in batches]) for name in ("mask", "counted"))
    np.testing.assert_array_equal(mask, [1, 0, 1, 1, 0, 1, 0, 0])
    np.testing.assert_array_equal(counted, [1, 1, 1, 1, 1, 1, 0, 0])
    assert unreadable.keys() == ["face1", "face4"]


def test_unreadable_training_record_is_replaced_by_the_next_valid_one():
    make = transforms.MakeFace(SCHEME, 32)
    unreadable = pipeline.Unreadable("skip")
    iterator = pipeline.training_batches(Faces(4, broken=(1, 2)), make, batch_size=4, seed=0, unreadable=unreadable)
    offsets = np.sort(np.round(take(iterator, 1)[0]["crop_to_image"][:, 0, 2], 3))
    valid = {n: np.round(make(f, transforms.decode(f), None)["crop_to_image"][0, 2], 3) for n, f in enumerate(Faces(4))}
    np.testing.assert_array_equal(offsets, np.sort([valid[0], valid[3], valid[3], valid[3]]))
    assert unreadable.keys() == ["face1", "face2"]


@pytest.mark.parametrize("start", [lambda: evaluation(Faces(6, broken=(1,)), policy="error"),
                                   lambda: take(training(Faces(6, broken=(1,)))[0], 3)])  # fmt: skip
def test_by_default_an_unreadable_record_is_an_error_with_its_key(start):
    with pytest.raises(UserError, match="face1.*on_unreadable"):
        start()


def test_records_are_read_without_those_that_cannot_be():
    class Damaged(Faces):
        def __getitem__(self, n):
            if n == 1:
                raise UnreadableRecord("record 'face1' is damaged", "face1")
            return super().__getitem__(n)

    unreadable = pipeline.Unreadable("skip")
    assert [record.key for record in pipeline.readable(Damaged(3), unreadable)] == ["face0", "face2"]
    assert unreadable.keys() == ["face1"]
    with pytest.raises(UserError, match="face1.*on_unreadable"):
        list(pipeline.readable(Damaged(3), pipeline.Unreadable("error")))


def test_a_set_without_any_readable_image_ends():
    with pytest.raises(UserError, match="none of the 2 training records can be read"):
        take(training(Faces(2, broken=(0, 1)), policy="skip")[0], 1)


def _with(index, **changes):
    faces = Faces(4)
    faces._faces[index] = faces._faces[index]._replace(**changes)
    return faces


def moved(point, to):
    points = POINTS.copy()
    points[point] = to
    return points


BOMB = png_that_claims(60_000, 60_000)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"landmarks_px": moved(2, (1e30, 5))}, r"'face1': point 2 at \(1e\+30, 5\) is no point of an image of 160 x 120"),
        ({"landmarks_px": moved(0, (-900, 5))}, "'face1': point 0 at"),
        ({"landmarks_px": moved(3, (np.nan, 5))}, "'face1': point 3 at .nan, 5"),
        ({"visible": np.zeros(4, np.float32)}, "'face1': no point is annotated"),
        ({"rectangle_px": np.array([0, 0, np.inf, 9])}, "'face1': rectangle .0, 0, inf, 9. is no part"),
        ({"image": BOMB}, "'face1': the image cannot be decoded .60000 x 60000 pixels, more than 100 megapixels"),
        ({"image": b""}, "'face1': the image cannot be decoded .empty file"),
        ({"image": Faces(1)[0].image[:90]}, "'face1': the image cannot be decoded"),
    ],
    ids=["far point", "outside", "NaN", "unannotated", "rectangle", "bomb", "empty", "cut short"],
)
def test_what_no_face_can_be_is_told_with_its_key_or_counted(changes, message):
    with pytest.raises(UserError, match=message):
        evaluation(_with(1, **changes), policy="error")
    batches, unreadable = evaluation(_with(1, **changes))
    assert unreadable.keys() == ["face1"]
    np.testing.assert_array_equal(batches[0]["mask"], [1, 0, 1, 1])
    assert batches[0]["key"][1] == "face1"
    iterator, unreadable = training(_with(1, **changes), policy="skip")
    (batch,) = take(iterator, 1)
    assert unreadable.keys() == ["face1"] and np.isfinite(batch["landmarks_px"]).all()


def test_points_somewhat_outside_and_unannotated_ones_anywhere_are_sound():
    points = moved(3, (np.nan, np.nan))
    points[0] = (-300, 40)
    _, unreadable = evaluation(_with(1, landmarks_px=points, visible=np.float32([1, 1, 1, 0])), policy="error")
    assert unreadable.keys() == []
