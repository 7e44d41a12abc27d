import dataclasses
import json

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from lmkd.core import schemes
from lmkd.core.errors import UserError

SHIPPED = list(schemes.SHIPPED.values())
MEANS = {"wflw98": "mean98_wflw.npy", "300w68": "mean68_300w.npy"}


@pytest.fixture
def mean_shape(real_data):
    """Scheme name -> mean shape [K, 2] of real faces."""
    return lambda name: np.load(real_data / "shapes" / MEANS[name])


def pairs(scheme):
    return {(i, j) for i, j in enumerate(scheme.flip) if i < j}


@pytest.mark.parametrize("scheme", SHIPPED, ids=lambda s: s.name)
def test_flips_are_involutions(scheme):
    flip = np.array(scheme.flip)
    np.testing.assert_array_equal(flip[flip], np.arange(scheme.num_points))


@pytest.mark.parametrize(("name", "count"), [("wflw98", 44), ("300w68", 29), ("inner51", 21)])
def test_number_of_flip_pairs(name, count):
    assert len(pairs(schemes.get(name))) == count


def test_points_on_the_middle_line_stay():
    def fixed(scheme):
        return [i for i, j in enumerate(scheme.flip) if i == j]

    assert fixed(schemes.WFLW98) == [16, 51, 52, 53, 54, 57, 79, 85, 90, 94]
    assert fixed(schemes.FACE68) == [8, 27, 28, 29, 30, 33, 51, 57, 62, 66]


def test_flip_pairs_known_from_the_published_figures():
    assert {(0, 32), (15, 17), (60, 72), (64, 68), (76, 82), (88, 92), (96, 97)} <= pairs(schemes.WFLW98)
    assert {(0, 16), (17, 26), (31, 35), (36, 45), (39, 42), (48, 54), (60, 64)} <= pairs(schemes.FACE68)


@pytest.mark.parametrize("name", MEANS)
def test_a_flip_maps_the_mean_face_onto_itself(name, mean_shape):
    scheme, mean = schemes.get(name), mean_shape(name)
    centred = mean - mean.mean(axis=0)
    mirrored = centred * [-1, 1]
    gap = np.linalg.norm(mirrored[list(scheme.flip)] - centred, axis=1) / scheme.norm_px(mean)
    assert gap.max() < 0.03
    # The bound can fail: any two points swapped by mistake lie further apart than it.
    wrong = list(scheme.flip)
    wrong[0], wrong[1] = wrong[1], wrong[0]
    assert (np.linalg.norm(mirrored[wrong] - centred, axis=1) / scheme.norm_px(mean)).max() > 0.03


def test_wflw_and_300w_agree_on_the_68_points(mean_shape):
    def normal_form(shape):
        centred = shape - shape.mean(axis=0)
        return centred / np.linalg.norm(centred)

    def gaps(indices):
        return np.linalg.norm(normal_form(source[indices]) - normal_form(target), axis=1) / schemes.FACE68.norm_px(
            normal_form(target)
        )

    source, target = mean_shape("wflw98"), mean_shape("300w68")
    indices = np.array(schemes.WFLW98.subset_indices("300w68"))
    # The two sets of annotators differ most on brows and contour, by up to 9 % of the inter-ocular distance.
    assert gaps(indices).max() < 0.1 and gaps(indices).mean() < 0.035
    for i in range(67):
        swapped = indices.copy()
        swapped[[i, i + 1]] = swapped[[i + 1, i]]
        assert gaps(swapped).mean() > gaps(indices).mean()


def test_98_to_68_to_51_is_98_to_51():
    to68, to51 = (np.array(schemes.WFLW98.subset_indices(t)) for t in ("300w68", "inner51"))
    np.testing.assert_array_equal(to68[list(schemes.FACE68.subset_indices("inner51"))], to51)
    assert len(to68) == len(set(to68)) == 68 and len(to51) == 51


@pytest.mark.parametrize(("source", "target"), [("wflw98", "300w68"), ("wflw98", "inner51"), ("300w68", "inner51")])
def test_subsets_keep_flip_groups_and_names_in_step(source, target):
    source, target = schemes.get(source), schemes.get(target)
    indices = source.subset_indices(target.name)
    for new, old in enumerate(indices):
        assert indices[target.flip[new]] == source.flip[old]
        for group, members in target.groups.items():
            assert (new in members) == (old in source.groups[group])
        assert target.names[new].rsplit("_", 1)[0] == source.names[old].rsplit("_", 1)[0]


@pytest.mark.parametrize("scheme", SHIPPED, ids=lambda s: s.name)
def test_groups_cut_the_points_without_overlap(scheme):
    assert sorted(i for members in scheme.groups.values() for i in members) == list(range(scheme.num_points))


def test_a_scheme_is_a_subset_of_itself():
    assert schemes.FACE68.subset_indices("300w68") == tuple(range(68))


def test_an_unknown_subset_names_the_possible_ones():
    with pytest.raises(UserError, match=r"unknown target scheme 'wflw98' \(from scheme 300w68\).*300w68, inner51"):
        schemes.FACE68.subset_indices("wflw98")


def test_normalisers_by_hand():
    points = np.zeros((2, 68, 2))
    points[:, 36], points[:, 45] = (10, 20), (40, 60)  # 30, 40 apart: 50
    points[1] *= 2
    np.testing.assert_allclose(schemes.FACE68.norm_px(points), [50, 100])
    np.testing.assert_allclose(schemes.FACE68.norm_px(points, "box"), [np.sqrt(40 * 60), 2 * np.sqrt(40 * 60)])
    # The pupil is the mean of the six points of an eye, of which one is set here.
    np.testing.assert_allclose(schemes.FACE68.norm_px(points, "inter_pupil"), [50 / 6, 100 / 6])
    wflw = np.zeros((98, 2))
    wflw[96], wflw[97], wflw[60], wflw[72] = (0, 0), (3, 4), (0, 0), (6, 8)
    assert schemes.WFLW98.norm_px(wflw, "inter_pupil") == 5 and schemes.WFLW98.norm_px(wflw) == 10


def test_the_same_distance_under_either_scheme():
    shape98 = np.random.default_rng(0).uniform(0, 100, (98, 2))
    for name in ("300w68", "inner51"):
        small = schemes.get(name)
        subset = shape98[list(schemes.WFLW98.subset_indices(name))]
        np.testing.assert_allclose(small.norm_px(subset), schemes.WFLW98.norm_px(shape98))


def test_an_unknown_normaliser_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'inter_ocular'"):
        schemes.FACE68.norm_px(np.zeros((68, 2)), "interocular")


def test_box_ignores_nan_points():
    points = np.full((68, 2), np.nan)
    points[3], points[5] = (0, 0), (9, 4)
    assert schemes.FACE68.norm_px(points, "box") == 6


@pytest.mark.parametrize("scheme", SHIPPED, ids=lambda s: s.name)
def test_json_round_trip(scheme):
    assert schemes.from_json(scheme.to_json()) == scheme


@hypothesis.settings(deadline=None, max_examples=50)
@hypothesis.given(st.integers(1, 40), st.data())
def test_json_round_trip_of_own_schemes(points, data):
    order = data.draw(st.permutations(range(points)))
    drawn_pairs = [order[i : i + 2] for i in range(0, 2 * (points // 4), 2)]
    text = json.dumps({"name": "mine", "points": points, "flip_pairs": drawn_pairs})
    scheme = schemes.from_json(text)
    assert scheme.num_points == points and scheme.default_normaliser == "box"
    assert pairs(scheme) == {tuple(sorted(p)) for p in drawn_pairs}
    assert schemes.from_json(scheme.to_json()) == scheme


def test_json_takes_the_first_normaliser_as_default():
    text = '{"points": 3, "flip_pairs": [[0, 2]], "normalisers": {"width": [[0], [2]]}}'
    scheme = schemes.from_json(text)
    assert scheme.flip == (2, 1, 0) and scheme.default_normaliser == "width" and scheme.name == "own_3"


def test_json_with_an_unknown_field_names_the_nearest():
    with pytest.raises(UserError, match="unknown field 'flip_pair'.*Did you mean 'flip_pairs'"):
        schemes.from_json('{"points": 3, "flip_pair": []}')


def test_json_without_points_says_what_to_give():
    with pytest.raises(UserError, match="give `names`.*or `points`"):
        schemes.from_json("{}")


def test_a_flip_pair_outside_the_points_is_named():
    with pytest.raises(UserError, match=r"flip pair \(0, 3\) is outside 0..2"):
        schemes.from_json('{"points": 3, "flip_pairs": [[0, 3]]}')


def test_all_problems_of_a_scheme_come_in_one_message():
    with pytest.raises(UserError) as caught:
        schemes.Scheme(
            name="bad",
            names=("a", "b", "b"),
            flip=(1, 2, 0),
            groups={"eyes": (0, 7)},
            lines=((),),
            normalisers={"width": ((0,), (9,))},
            default_normaliser="widht",
        )
    message = str(caught.value)
    for part in (
        "'bad' is not consistent (6 problems)", "flip is no involution at points [0, 1, 2]",
        "groups.eyes: needs indices within 0..2, got [7]", "lines[0]: needs indices within 0..2, got none",
        "normalisers.width: needs indices within 0..2, got [9]", "point names repeat", "Did you mean 'width'?",
    ):  # fmt: skip
        assert part in message


def test_a_flip_that_is_no_permutation_is_refused():
    with pytest.raises(UserError, match=r"flip must be a permutation of 0\.\.1, got 3 entries"):
        schemes.Scheme(name="bad", names=("a", "b"), flip=(0, 1, 1))


def test_schemes_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        schemes.WFLW98.name = "mine"


def test_get_names_the_nearest_scheme():
    with pytest.raises(UserError, match="unknown landmark scheme 'wflw-98'. Did you mean 'wflw98'?"):
        schemes.get("wflw-98")
