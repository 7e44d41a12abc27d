"""Quoted figures: every row whole and in range, the document made from them, ours beside them in a report when asked."""

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from lmkd.core import schemes
from lmkd.core.errors import UserError
from lmkd.evaluation import comparison, published, report, rows, scores

ROOT = Path(__file__).parents[2]
SCHEME = schemes.get("inner51")
RAW = json.loads(resources.files("lmkd.evaluation").joinpath("published.json").read_text(encoding="utf-8"))


def make_result(name, error_px, *, checkpoint="last", flags=()):
    """Two faces 50 px between the outer eye corners, every point `error_px` off."""
    truth = np.random.default_rng(0).uniform(20, 100, (2, 51, 2))
    truth[:, [19, 28]] = [[30, 50], [80, 50]]
    ones, subset = np.ones((2, 51), np.float32), np.ones((2, len(flags)), np.uint8)
    found = rows.FaceRows(["a", "b"], truth + [error_px, 0.0], truth, ones, ones, subset, np.ones(2, np.uint8))
    scored = scores.score(found, SCHEME, flags, thresholds=(0.08, 0.10))
    trained = "trained on 2012 of 3148 images"
    return report.Result(name, checkpoint, "landmarks x 1.25", "inter_ocular", scored, found, SCHEME, flags, trained, True, 6)


def make_page(tmp_path, results, comparisons=(), *, quoted=True):
    content = report.ReportContent(
        "run", "python", results, [], None, "", "{}", versions={}, datasets=[], comparisons=comparisons, quoted=quoted
    )
    report.write_report(tmp_path / "report.html", content)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("row", RAW, ids=lambda row: f"{row['data']}: {row['system']}")
def test_every_row_is_whole_and_in_range(row):
    assert {"system", "data", "scores", "protocol", "source"} <= row.keys() <= set(published.Quoted._fields)
    assert row["scores"] and row["scores"].keys() <= published.COLUMNS[row["data"]].keys()
    for column, value in row["scores"].items():
        low, high = {"AUC@0.10": (0.3, 0.8), "FR@0.10": (0, 15)}.get(column, (1, 16))
        assert low <= value <= high, column
    for cost, most in (("parameters_m", 100), ("gmacs", 30), ("file_mb", 10)):
        assert 0 < row.get(cost, 1) <= most
    assert len(row["source"]) > 10 and row["protocol"] and row["system"]


def test_subsets_are_on_the_side_of_the_mean_that_they_must_be():
    for row in RAW:
        s = row["scores"]
        if {"common", "challenging", "full"} <= s.keys() and "not the mean of its parts" not in row[
            "protocol"
        ]:  # 554 and 135 of 689 faces
            assert (554 * s["common"] + 135 * s["challenging"]) / 689 == pytest.approx(s["full"], abs=0.02), row["system"]
        if {"pose", "full"} <= s.keys():
            assert s["full"] < s["pose"] < 2.2 * s["full"], row["system"]


def test_no_row_stands_twice_and_none_is_from_memory_or_trained_on_the_test_faces():
    names = [(row["data"], row["system"]) for row in RAW]
    assert len(set(names)) == len(names)
    text = json.dumps(RAW).lower()
    assert not any(word in text for word in ("recall", "memory", " own calc", "hrffa"))


def test_figures_that_the_document_speaks_of():
    def full(data, system):
        (row,) = [r for r in published.rows(data) if r.system == system]
        return row.scores["full"]

    assert full("wflw", "H3R HRNet-W18, true box") == 3.81 and full("wflw", "H3R HRNet-W18, rectangle") == 3.95
    assert full("wflw", "HRNetV2-W18, published model") == 4.60 and full("wflw", "mmpose HRNetV2-W18") == 4.06
    assert full("wflw", "MobileFAN") == 5.09 and full("wflw", "MobileFAN, distilled") == 4.93
    assert published.rows("wflw")[0].system == "D-ViT" and published.rows("wflw")[0].scores["full"] == 3.75
    quoted = {row.system: row.scores for row in published.rows("300w") if row.source.startswith("Shukla")}
    assert quoted["Stud5CKD (Shukla, Huang)"] == {"unstated": 1.40, "MSE": 1.33} and quoted["TCDCN"] == {"MSE": 4.80}
    assert len(quoted) == 9


def test_an_unknown_data_set_is_named():
    with pytest.raises(UserError, match="300w"):
        published.rows("300")


def test_the_document_is_what_the_rows_make():
    assert (ROOT / "docs" / "literature.md").read_text(encoding="utf-8") == published.markdown()


def test_splits_of_a_network_join_and_subsets_of_wflw_get_their_columns():
    results = [
        make_result("student on the300w/partial_1a:common", 2.0),
        make_result("student on the300w:full", 3.0),
        make_result("student on the300w:train", 9.0),
        make_result("student on wflw:test", 4.0, flags=("pose", "unheard")),
        make_result("student on synthetic_faces/tiny:test", 5.0),
    ]
    on_300w, on_wflw = published.ours(results, [])
    assert (on_300w.system, on_300w.data) == ("student", "300w")
    # 1 px of 50 px is 2 %; the squared coordinate error of (3, 0) px is 9 / 2 px^2, so 18 %^2.
    expected = {"common": 4.0, "full": 6.0, "MSE": 18.0, "FR@0.10": 0.0}
    assert on_300w.scores == pytest.approx(expected)
    assert on_300w.protocol.endswith("; common 2 faces, full 2 faces")
    assert on_wflw.scores == pytest.approx({"full": 8.0, "pose": 8.0, "FR@0.10": 0.0, "AUC@0.10": 0.2}, abs=1e-3)
    assert on_wflw.parameters_m is None


def test_of_a_comparison_ours_are_means_over_seeds_with_their_cost():
    seeds = [make_result("s on the300w:full", error) for error in (1.0, 2.0)]
    found = comparison.Comparison("the300w:full", "plain", [comparison.Row("plain", seeds, [0, 1], 1_700_000, 138_000_000)])
    (own,) = published.ours([make_result("ignored on the300w:full", 7.0)], [found])
    assert own.scores["full"] == pytest.approx(3.0)
    assert (own.parameters_m, own.gmacs) == pytest.approx((1.7, 0.138))
    assert own.source == "this report, mean of 2 seeds"
    shown = published.table("300w", [own])
    assert shown.rows[0][0] == "plain\nours" and shown.rows[0][shown.header.index("full\nNME %")] == "3.00"
    assert len(shown.rows) == 1 + len(published.rows("300w")) and {len(row) for row in shown.rows} == {len(shown.header)}


def test_the_report_has_the_section_when_asked_and_only_for_data_that_was_scored(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "_curves", lambda content: [])  # figures take seconds and are not what is tested
    monkeypatch.setattr(report, "_points", lambda results: [])
    anchor = 'id="published-figures--quoted"'
    results = [make_result("student on wflw:test", 4.0)]
    text = make_page(tmp_path, results)
    assert anchor in text and "D-ViT" in text and published.WARNING[:30] in text.replace("&#x27;", "'")
    assert 'aria-label="WFLW"' in text and 'aria-label="300W"' not in text
    assert anchor not in make_page(tmp_path, results, quoted=False)
    assert anchor not in make_page(tmp_path, [make_result("synthetic_faces/tiny:test", 4.0)])
