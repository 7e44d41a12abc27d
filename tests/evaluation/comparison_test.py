"""Methods against a baseline: the statistics by hand or by theory, the tables' cells, the report's section."""

import html.parser
import json
import math

import numpy as np
import pytest

from lmkd.core import schemes
from lmkd.core.errors import UserError
from lmkd.evaluation import comparison_tables, plots, report, rows, scores
from lmkd.evaluation.comparison import Comparison, Row, check, gain, paired, pareto, pooled_nme, summary

SCHEME = schemes.get("inner51")
FLAGS = ("pose", "blur")
NASTY = '<i>&"|*$x'


def make_result(nme_percent, *, keys=None, undefined=(), **changes):
    """A result whose faces have exactly these NMEs; the first half has the flag `pose`, none has `blur`."""
    nme = np.asarray(nme_percent, np.float64)
    n = len(nme)
    truth = np.tile(np.linspace(20, 70, 51)[:, None], (n, 1, 2))
    truth[:, [19, 28]] = [[30, 50], [80, 50]]  # outer eye corners 50 px apart
    predicted = truth + np.array([0.5, 0.0]) * nme[:, None, None]  # 1 % of 50 px
    ones = np.ones((n, 51), np.float32)
    flags = np.stack([np.arange(n) < n / 2, np.zeros(n)], axis=1).astype(np.uint8)
    found = rows.FaceRows(
        list(keys or (f"face {i}" for i in range(n))), predicted, truth, ones, ones, flags, np.ones(n, np.uint8)
    )
    found.visible[list(undefined), 19] = 0  # no normalising distance
    scored = scores.score(found, SCHEME, FLAGS)
    given = report.Result("a on b:test", "last", "landmarks", "inter_ocular", scored, found, SCHEME, FLAGS, "trained")
    return given._replace(**changes)


def make_row(name, *per_seed, parameters=400_000, macs=75_000_000, **more):
    """A row with a seed for each list of per-face NMEs in %, or for each result."""
    results = [r if isinstance(r, report.Result) else make_result(r) for r in per_seed]
    return Row(name, results, list(range(len(results))), parameters, macs, **more)


def make_comparison(**changes):
    table = [
        make_row("plain", [2.0, 4, 6, 8], [4.0, 6, 8, 10], seconds=60.0, shares={"heatmap": 1.0}, steps=1400),
        make_row(
            f"all {NASTY}", [1.0, 3, 5, 7], [3.0, 5, 7, 9], seconds=150.0, robustness=9.5, attacked={0: 5.0, 8: 20.0},
            shares={"heatmap": 0.993, "critic": 0.007}, steps=1400, macs=30_500_000,
        ),
    ]  # fmt: skip
    return Comparison("b:test", "plain", table, True)._replace(**changes)


def test_means_and_deviations_over_seeds_by_hand():
    found = summary(make_row("x", [2.0, 4, 6, 8], [4.0, 6, 8, 10], [3.0, 3, 12, 14]))
    # Means of the seeds: 5, 7, 8: mean 20 / 3, squared distances 25/9 + 1/9 + 16/9 = 42/9, over 2.
    assert found.nme_percent.values == pytest.approx((5, 7, 8))
    assert found.nme_percent.mean == pytest.approx(20 / 3)
    assert found.nme_percent.sd == pytest.approx(math.sqrt(42 / 18))
    # Above 10 %: 0, 0 and 2 of 4 faces.
    assert found.failure_percent[0.10].values == pytest.approx((0, 0, 50))
    assert found.failure_percent[0.10].sd == pytest.approx(math.sqrt(2500 / 3))
    # AUC up to 10 %: mean of max(0, 10 - NME) over 10.
    assert found.auc[0.10].values == pytest.approx((0.5, 0.3, 0.35))
    assert found.by_subset["pose"].values == pytest.approx((3, 5, 3))
    assert math.isnan(found.by_subset["blur"].mean)
    # Every point of a face is off by its NME along one axis: half the mean of 4, 16, 36, 64; of 16 to 100; of 9, 9, 144, 196.
    assert found.mse_percent2.values == pytest.approx((15, 27, 44.75))
    assert found.by_group["mouth"].mean == pytest.approx(20 / 3)


def test_one_seed_has_no_deviation():
    assert math.isnan(summary(make_row("x", [1.0, 2.0])).nme_percent.sd)


def test_a_constant_shift_is_certain_whatever_the_faces():
    base = np.random.default_rng(0).lognormal(1, 1, 100) + 3
    found = paired(make_row("x", base - 0.25), make_row("plain", base))
    assert (found.gain, *found.over_faces[:2]) == pytest.approx((0.25, 0.25, 0.25))
    assert (found.over_faces.share_above_zero, found.faces) == (1.0, 100)
    assert found.over_faces_and_seeds is None  # one seed a side tells nothing about seeds


def test_the_interval_over_faces_has_the_width_of_theory():
    generator = np.random.default_rng(1)
    base, gain = generator.lognormal(1, 1, 400) + 3, generator.normal(0.1, 0.5, 400)
    found = paired(make_row("x", base - gain), make_row("plain", base))
    error = gain.std() / math.sqrt(400)
    assert found.gain == pytest.approx(gain.mean())
    assert found.over_faces.low == pytest.approx(gain.mean() - 1.96 * error, abs=0.06 * error)
    assert found.over_faces.high == pytest.approx(gain.mean() + 1.96 * error, abs=0.06 * error)


def test_the_share_above_zero_is_that_of_the_normal_law():
    gain = np.random.default_rng(2).normal(0, 1, 400)
    gain += 0.5 * gain.std() / math.sqrt(400) - gain.mean()  # half a standard error above 0
    found = paired(make_row("x", 10 - gain), make_row("plain", [10.0] * 400))
    assert found.over_faces.share_above_zero == pytest.approx(0.6915, abs=0.015)


def test_seeds_are_drawn_on_each_side():
    # All faces alike, so that nothing but the seeds counts: the baseline's mean is 5, 6 or 7 in 1, 2, 1 of 4 draws.
    plain, ours = make_row("plain", [5.0] * 8, [7.0] * 8), make_row("x", [5.5] * 8, [5.5] * 8)
    found = paired(ours, plain)
    assert (found.gain, *found.over_faces[:2]) == pytest.approx((0.5, 0.5, 0.5))
    assert found.over_faces_and_seeds[:2] == pytest.approx((-0.5, 1.5))
    assert found.over_faces_and_seeds.share_above_zero == pytest.approx(0.75, abs=0.02)
    turned = paired(plain, ours)
    assert (turned.gain, *turned.over_faces_and_seeds[:2]) == pytest.approx((-0.5, -1.5, 0.5))


def test_seeds_of_one_side_alone_give_no_interval_over_seeds():
    assert paired(make_row("x", [1.0, 2]), make_row("plain", [2.0, 3], [3.0, 4])).over_faces_and_seeds is None


def test_faces_are_paired_by_key():
    base = np.random.default_rng(3).lognormal(1, 1, 50) + 3
    order = np.random.default_rng(4).permutation(50)
    turned = make_result((base - 0.25)[order], keys=[f"face {i}" for i in order])
    found = paired(make_row("x", turned), make_row("plain", base))
    assert found.over_faces[:2] == pytest.approx((0.25, 0.25))


def test_a_face_without_a_score_is_left_out_on_both_sides():
    plain = make_row("plain", make_result([2.0, 4, 6, 100], undefined=[3]), make_result([2.0, 4, 6, 50]))
    ours = make_row("x", make_result([99.0, 3, 5, 1], undefined=[0]), make_result([9.0, 3, 5, 1]))
    found = paired(ours, plain)
    assert (found.faces, found.gain) == (2, pytest.approx(1.0))
    assert found.over_faces[:2] == pytest.approx((1.0, 1.0))


def test_no_face_with_a_score():
    found = paired(make_row("x", make_result([1.0], undefined=[0])), make_row("plain", [1.0]))
    assert found.faces == 0 and math.isnan(found.gain) and math.isnan(found.over_faces.low)


def test_other_faces_are_refused():
    other = make_result([1.0, 2, 3], keys=["face 0", "face 1", "face 9"])
    with pytest.raises(UserError, match=r"1 faces missing \('face 2'\) and 1 faces too many \('face 9'\)"):
        paired(make_row("x", other), make_row("plain", [1.0, 2, 3]))


def test_draws_come_in_chunks_and_are_the_same_every_time():
    base = np.random.default_rng(5).lognormal(1, 1, 1500)  # more draws than fit one chunk
    plain, ours = make_row("plain", base, base + 1), make_row("x", base[::-1], base)
    assert paired(ours, plain, draws=1000) == paired(ours, plain, draws=1000)
    assert paired(ours, plain, draws=1000) != paired(ours, plain, draws=1000, seed=1)


def test_pareto_by_hand():
    table = [
        make_row("small", [9.0], macs=10),
        make_row("worse than small", [9.5], macs=10),
        make_row("middle", [5.0], macs=20),
        make_row("middle again", [5.0], macs=20),
        make_row("dear", [5.0], macs=30),
        make_row("large", [4.0], macs=40),
        make_row("undefined", make_result([1.0], undefined=[0]), macs=5),
    ]
    assert pareto(table) == ("small", "middle", "middle again", "large")
    assert pareto([]) == ()


def test_pooled_errors_are_those_of_all_seeds():
    np.testing.assert_allclose(pooled_nme(make_row("x", [1.0, 2], [3.0, 4])), [0.01, 0.02, 0.03, 0.04])


def test_check_names_all_that_differs_at_once():
    good = make_comparison()
    check(good)
    odd = make_row(
        "odd",
        make_result([2.0, 4, 6, 8], normaliser="box", crop_protocol="rectangle"),
        make_result([1.0] * 3, flip_test=True, checkpoint="best"),
    )
    with pytest.raises(UserError) as caught:
        check(good._replace(rows=[*good.rows, odd]))
    for told in (
        "row 'odd', seed 0: normaliser 'box', but 'inter_ocular' in 'plain'",
        "row 'odd', seed 0: crop 'rectangle'",
        "row 'odd', seed 1: flip test True",
        "row 'odd', seed 1: checkpoint 'best'",
        "row 'odd', seed 1: 1 faces missing ('face 3')",
        "(5 problems)",
    ):
        assert told in str(caught.value)


def test_a_missing_baseline_is_told_with_the_nearest_name():
    with pytest.raises(UserError, match=r"unknown baseline 'plian' \(comparison on b:test\)\. Did you mean 'plain'\?"):
        check(make_comparison(baseline="plian"))


def test_a_row_may_name_its_own_baseline():
    rows = [
        make_row("small", [6.0, 8]),
        make_row("small, taught", [5.0, 8]),
        make_row("large", [2.0, 4], compared_with="small"),
        make_row("large, taught", [2.0, 3], compared_with="large"),
    ]
    found = Comparison("b:test", "small", rows)
    gains = [gain(found, row) for row in rows]
    assert gains[0] is None
    assert [g.gain for g in gains[1:]] == pytest.approx([0.5, 4.0, 0.5])  # by hand: means 7, 6.5, 3, 2.5
    cells = cells_of(comparison_tables.comparison_markdown(found), "Methods, b:test")[r"gain \[faces\] \[faces, seeds\]"]
    assert cells["small"] == "baseline"
    assert cells["large, taught"].startswith("+0.50 ") and cells["large, taught"].endswith(" on large")
    with pytest.raises(UserError, match="unknown baseline 'lrage'.*Did you mean 'large'"):
        check(found._replace(rows=[*rows[:3], rows[3]._replace(compared_with="lrage")]))


def test_rows_that_are_no_rows():
    good = make_comparison()
    short = make_row("short", [1.0] * 4)._replace(seeds=[0, 1])
    empty = make_row("empty")
    with pytest.raises(UserError) as caught:
        check(good._replace(rows=[*good.rows, good.rows[0], short, empty]))
    for told in ("row 'plain' is there 2 times", "'short' has 1 results for 2 seeds", "'empty' has 0 results for 0 seeds"):
        assert told in str(caught.value)


def cells_of(markdown, title):
    """The cells of one table of a Markdown text: header title -> row name -> cell."""
    lines = markdown[markdown.index(f"**{title}") :].splitlines()[2:]
    table = [line.removeprefix("| ").removesuffix(" |").replace(r"\|", "\0").split(" | ") for line in lines[: lines.index("")]]
    assert len({len(row) for row in table}) == 1, table
    header, _, *found = table
    return {title: {row[0]: row[n].strip() for row in found} for n, title in enumerate(header)}


def test_markdown_has_the_right_cells():
    text = comparison_tables.comparison_markdown(make_comparison())
    methods = cells_of(text, "Methods, b:test")
    plain, ours = methods["NME %"]
    assert list(methods["NME %"].values()) == ["6.00 ± 1.41", "5.00 ± 1.41"]  # seeds 5 and 7, 4 and 6: sd sqrt(2)
    gain = methods[r"gain \[faces\] \[faces, seeds\]"]
    assert gain[plain] == "baseline"
    assert gain[ours].startswith(r"+1.00 \[+1.00, +1.00\] \[-1.")
    assert methods["FR@0.08 %"] == {plain: "12.5 ± 17.7", ours: "12.5 ± 17.7"}
    assert methods["AUC@0.10"] == {plain: "0.400 ± 0.141", ours: "0.500 ± 0.141"}
    assert methods["seeds"] == {plain: "2", ours: "2"}
    assert (methods["MACs M"][ours], methods["parameters M"][ours]) == ("30.5", "0.400")
    assert methods["corrupted NME %"] == {plain: "", ours: "9.50"}
    assert methods["attacked 0 / 8 NME %"] == {plain: "", ours: "5.00 / 20.00"}
    assert methods["training min"] == {plain: "1.0", ours: "2.5"}
    assert methods["steps"] == {plain: "1400", ours: "1400"}
    subsets = cells_of(text, "NME % by subset of faces, b:test")
    assert subsets["pose"] == {plain: "4.00 ± 1.41", ours: "3.00 ± 1.41"}
    assert subsets["blur"] == {plain: "-", ours: "-"}
    assert cells_of(text, "NME % by group of points, b:test")["mouth"][plain] == "6.00 ± 1.41"
    shares = cells_of(text, "Shares of the student's gradient, %")
    assert shares["heatmap"] == {plain: "100.0", ours: "99.3"}
    assert shares["critic"] == {plain: "", ours: "0.7 (not used)"}


def test_markdown_reads_no_name_as_markup():
    text = comparison_tables.comparison_markdown(make_comparison())
    assert r'| all &lt;i>&amp;"\|\*$x |' in text and "<i>" not in text


def test_columns_without_a_figure_and_tables_without_a_column_are_left_out():
    text = comparison_tables.comparison_markdown(Comparison("b:test", "plain", [make_row("plain", [1.0, 2])]))
    assert "corrupted" not in text and "attacked" not in text and "training" not in text and "gradient" not in text
    assert "One seed each" in text and "±" not in text


def test_text_is_aligned_and_fits_a_terminal():
    lines = comparison_tables.comparison_text(make_comparison()).splitlines()
    assert max(map(len, lines)) <= 120
    rule = next(n for n, line in enumerate(lines) if line and set(line) == {"-"})
    header, plain, ours = lines[rule - 1], lines[rule + 1], lines[rule + 2]
    end = header.index("NME %") + len("NME %")
    assert plain[:end].endswith("6.00 ± 1.41") and ours[:end].endswith("5.00 ± 1.41")
    assert sum(line.startswith("plain ") for line in lines) >= 5  # the wide table in parts, and three others


def test_json_has_every_seed_and_no_nan():
    found = json.loads(json.dumps(comparison_tables.to_json(make_comparison()), allow_nan=False))
    assert (found["split"], found["baseline"], found["pareto"]) == ("b:test", "plain", [f"all {NASTY}"])
    plain, ours = found["rows"]
    assert plain["gain"] is None and ours["gain"]["gain"] == pytest.approx(1.0)
    assert ours["gain"]["over_faces_and_seeds"]["share_above_zero"] > 0.5
    assert [r["scores"]["overall"]["nme_percent"] for r in plain["results"]] == pytest.approx([5, 7])
    assert plain["summary"]["failure_percent"]["0.08"]["values"] == [0.0, 25.0]
    assert plain["summary"]["by_subset"]["blur"]["mean"] is None
    assert ours["attacked"] == {"0": 5.0, "8": 20.0} and ours["seeds"] == [0, 1]


class Page(html.parser.HTMLParser):
    """A page's text, its tags with attributes, and whether elements are closed in order."""

    VOID = {"meta", "img", "br"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.open, self.crossed = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.crossed.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


def make_page(tmp_path, *comparisons):
    content = report.ReportContent(
        "run", "python", [make_result([1.0, 2.0])], [], None, "", "{}", versions={}, datasets=[], comparisons=comparisons
    )
    report.write_report(tmp_path / "report.html", content)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_report_has_the_section_and_escapes_names(tmp_path):
    text = make_page(tmp_path, make_comparison())
    read = Page(text)
    assert (read.open, read.crossed) == ([], [])
    assert "<i>" not in text and f"all {NASTY}" in read.texts
    sections = [a["id"] for tag, a in read.tags if tag == "section"]
    assert sections[:2] == ["scores", "comparison"]
    pictures = [a["alt"] for tag, a in read.tags if tag == "img"]
    assert sum("Cumulative error distributions of all methods" in alt for alt in pictures) == 1
    assert sum("Mean NME against multiply-accumulates" in alt and "On the front: all" in alt for alt in pictures) == 1
    # Both parts of the main table, subsets, groups and shares.
    assert sum(a.get("aria-label", "").startswith(("Methods", "NME %", "Shares")) for _, a in read.tags) == 5
    assert {"6.00", "± 1.41", "+1.00", "[+1.00, +1.00]"} <= set(read.texts)


def test_no_comparison_no_section_and_no_front_unless_asked(tmp_path):
    assert 'id="comparison"' not in make_page(tmp_path)
    text = make_page(tmp_path, make_comparison(fronts=False))
    assert 'id="comparison"' in text and "Mean NME against" not in text


def test_every_one_of_many_curves_looks_different():
    looks = {(plots._COLOURS[n % 7], plots._DASHES[(n + 1) % 5]) for n in range(35)}
    assert len(looks) == 35 and "#000000" not in plots._COLOURS
    curves = [plots.Curve(f"method {n}", "", np.linspace(0.01, 0.2, 50)) for n in range(12)]
    drawn = plots.compared_ced_figure(curves, (0.08,))
    assert drawn.count('<g id="line2d') > 12 and drawn == plots.compared_ced_figure(curves, (0.08,))


@pytest.mark.parametrize("points", [
    [],
    [plots.FrontPoint("alone", 10, 5.0, math.nan, True)],
    [plots.FrontPoint("$undefined", 10, math.nan, math.nan, False), plots.FrontPoint("_b", 10**9, 4.0, 0.1, True)],
    [plots.FrontPoint(f"method number {n} of twenty", 10**7, 5 + n / 100, 0.1, not n) for n in range(20)],
])  # fmt: skip
def test_the_front_is_drawn_for_any_points(points):
    assert plots.front_figure(points).startswith("<?xml")


def test_the_axis_of_the_front_leaves_room_for_its_labels():
    points = [plots.FrontPoint("a" * 28, 10**8, 5.0, 0.1, True), plots.FrontPoint("b", 10**6, 9.0, 0.1, True)]
    low, high = plots._limits_with_labels(points)
    # 28 letters of 5.1 pt and a gap of 6 pt, of an axis of about 316 pt: the point lies in the left half.
    assert low < 10**6 and math.log(10**8 / low) / math.log(high / low) == pytest.approx(1 - 148.8 / 316, abs=0.01)
