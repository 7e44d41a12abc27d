"""The suite's tables, plot and section."""

import json
import math
import xml.etree.ElementTree as ElementTree

import pytest

from lmkd.evaluation import page, robustness
from lmkd.evaluation.robustness import Entry, Robustness

NASTY = "<b>&$x:test"


def found(*, name="the300w:common", attacks=True, **changes):
    entries = tuple(
        Entry(kind, strength, f"{kind} of {strength} <units>", factor * strength + 4.0, 10.0 * strength, 5.0, 20)
        for kind, factor in (("blur", 0.5), ("low_resolution", 2.0))
        for strength in (1, 2, 3)
    )
    attacked = tuple(Entry("attack", e, f"within {e}/255", 4.5 + 3 * e, 50.0, 7.25, 20) for e in (0, 2, 8))
    clean = Entry("clean", 0, "as they are", 4.0, 0.0, 5.0, 20)
    whole = Robustness(
        name, "best", "landmarks x 1.25", "inter_ocular", True, 0.10, 20, 1, 554, clean, entries, attacked if attacks else ()
    )
    return whole._replace(**changes)


def test_the_mean_is_over_kinds_and_strengths():
    # blur 4.5 5 5.5, low resolution 6 8 10: 39 / 6.
    assert found().mean_corrupted == pytest.approx(6.5)
    assert math.isnan(found(entries=()).mean_corrupted)


def test_the_terminal_table_has_every_number_and_says_what_was_scored():
    lines = robustness.text(found()).splitlines()
    assert "20 faces evaluated, 1 skipped, the first 21 of 554" in lines[0] and "flip test" in lines[0]
    (blur,) = [line.split() for line in lines if line.startswith("blur")]
    assert blur == ["blur", "4.00", "(0.0)", "4.50", "(10.0)", "5.00", "(20.0)", "5.50", "(30.0)", "5.00"]
    (coarse,) = [line.split() for line in lines if line.startswith("low resolution")]
    assert coarse[-1] == "8.00"
    assert "mean over kinds and strengths: NME 6.50 %" in lines
    assert [line.split() for line in lines if line.startswith("within 8")] == [["within", "8/255", "28.50", "50.00", "7.25"]]
    assert "attack" not in robustness.text(found(attacks=False)).lower()
    assert "the first" not in robustness.text(found(available=21))


def test_json_has_everything_and_no_nan():
    nothing = Entry("blur", 1, "x", math.nan, math.nan, math.nan, 0)
    plain = json.loads(json.dumps(robustness.to_dict(found(entries=(nothing,))), allow_nan=False))
    assert plain["entries"] == [{**nothing._asdict(), "nme_percent": None, "failure_percent": None, "error_px": None}]
    assert plain["clean"]["nme_percent"] == 4.0 and plain["mean_corrupted"] is None and len(plain["attacks"]) == 3


def test_the_section_escapes_its_texts_and_is_empty_without_results():
    assert robustness.section([]) == []
    text = page.section("Robustness", *robustness.section([found(name=NASTY), found()]))
    assert "<b>" not in text and "<units>" not in text and "&lt;b&gt;" in text
    assert text.count("<table>") == 6 and text.count("<img") == 1
    assert "low resolution of 3" not in text and "low_resolution of 3 &lt;units&gt;" in text  # a strength's own words
    assert ">5.50 (30.0)<" in text and ">28.50<" in text


@pytest.mark.parametrize(
    "given",
    [
        [found()],
        [found(name=NASTY), found(name="_hidden")],
        [found(entries=())],
        [found(attacks=False)],
        [found(clean=Entry("clean", 0, "", 0.0, 0.0, 0.0, 1))],  # no logarithm of 0
        [found(clean=Entry("clean", 0, "", math.nan, math.nan, math.nan, 0))],
    ],
)
def test_the_plot_is_one_svg(given):
    assert ElementTree.fromstring(robustness.figure(given)).tag.endswith("svg")


def test_the_plot_is_the_same_every_time():
    assert robustness.figure([found()]) == robustness.figure([found()])
