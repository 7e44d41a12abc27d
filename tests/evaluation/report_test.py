"""The report: one file, nothing from the network, everything escaped, pictures only where they are wanted."""

import base64
import html.parser
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest

from lmkd.core import geometry, schemes
from lmkd.evaluation import faces, page, plots, report, rows, scores, tables

SCHEME = schemes.get("inner51")
NASTY = '<b>&"x.jpg'


def make_rows(n=12, seed=0):
    """Faces whose errors grow with their index, so that the worst is the last; face 1 was skipped."""
    generator = np.random.default_rng(seed)
    truth = generator.uniform(20, 100, (n, 51, 2))
    truth[:, [19, 28]] = [[30, 50], [80, 50]]  # outer eye corners 50 px apart
    predicted = truth + np.array([1.0, 0.0]) * (1 + np.arange(n))[:, None, None] / 2
    evaluated = np.ones(n, np.uint8)
    evaluated[1] = 0
    predicted[1] = np.nan
    keys = [f"{NASTY}{i}" for i in range(n)]
    ones = np.ones((n, 51), np.float32)
    return rows.FaceRows(keys, predicted, truth, ones, ones, generator.integers(0, 2, (n, 2)).astype(np.uint8), evaluated)


def make_result(name="the300w:common", checkpoint="best", *, seed=0, **changes):
    found = make_rows(seed=seed)
    scored = scores.score(found, SCHEME, ("pose", "<i>blur</i>"))
    text = "trained on 2012 of 3148 training images"
    result = report.Result(
        name, checkpoint, "landmarks", "inter_ocular", scored, found, SCHEME, ("pose", "<i>blur</i>"), text, True, 300, "mean"
    )
    return result._replace(**changes)


def make_pictures(result):
    nme = rows.nme_per_face(result.rows, result.scheme)
    affine = geometry.resize_affine(2.0)
    image = np.full((64, 64, 3), 90, np.uint8)
    chosen = report.select_faces(result.rows, nme, count=2)
    return [report.face_picture(result.rows, n, image, affine, nme[n], rank) for n, rank in chosen]


def make_content(**changes):
    results = [make_result(checkpoint="best"), make_result(checkpoint="last", seed=1)]
    content = report.ReportContent(
        title=f"run {NASTY}",
        command="python -m lmkd.main --config='<script>'",
        results=results,
        history=[{"step": s, "loss": 1 / s, "loss/heatmap": 1 / s} for s in range(1, 500)]
        + [{"step": 499, "validation/nme": 7.0}],
        faces=make_pictures(results[0]),
        cost=[("part", "parameters", "MACs"), ("stem <1>", "10", "20")],
        config_json='{"html": "</pre><script>alert(1)</script>"}',
        versions={"python": "3.11", "jax": "<0.10>"},
        datasets=[report.DatasetProvenance("the300w", "partial_1a", "train", 2012, 3148, "1136 images", "research <only>")],
        notices=["12 records skipped: <b>.jpg"],
    )
    return content._replace(**changes)


def write(tmp_path, content):
    report.write_report(tmp_path / "report.html", content)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    return (tmp_path / "report.html").read_text(encoding="utf-8")


class Page(html.parser.HTMLParser):
    """Reads a page: its tags with attributes, its text, and whether every element is closed in order."""

    VOID = {"meta", "img", "image", "path", "circle", "br"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.open, self.crossed = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.crossed.append(tag)

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """The text of the report of `make_content`."""
    return write(tmp_path_factory.mktemp("report"), make_content())


def decoded_pictures(text):
    """All data: pictures of a page: (kind, bytes)."""
    found = re.findall(r'"data:(image/[a-z+]+);base64,([A-Za-z0-9+/=]+)"', text)
    return [(kind, base64.b64decode(content)) for kind, content in found]


def test_the_report_is_one_file_that_needs_nothing_else(full):
    read = Page(full)
    assert (read.open, read.crossed) == ([], [])
    assert "http:" not in full and "https:" not in full
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in read.tags}
    for _, attributes in read.tags:
        for name in ("src", "href", "srcset", "data", "action", "style"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    for kind, content in decoded_pictures(full):
        if kind == "image/svg+xml":
            linked = re.findall(rb'(?:href|src)="([^"]*)"|url\(([^)]*)\)', content)
            assert all((a or b).startswith((b"#", b"data:")) for a, b in linked)


def test_what_stands_in_it(full):
    content = make_content()
    text = Page(full).text
    overall = content.results[0].scores.overall
    for value in (
        f"{overall.nme_percent:.2f} %", f"{overall.auc[1]:.4f}", "trained on 2012 of 3148 training images",
        "landmarks crop", "inter_ocular", "with flip test", "points read by mean", "11 faces evaluated, 1 skipped",
        "best (step 300)", "last (step 300)", "12 records skipped: <b>.jpg", "research <only>", "1136 images", "3148",
        "jax <0.10>", '"</pre><script>alert(1)</script>"', "stem <1>", "mouth", "<i>blur</i>", "--config='<script>'",
    ):  # fmt: skip
        assert value in text
    # Beside every score: headline, both rows of the score table, both breakdowns.
    assert text.count("trained on 2012 of 3148") == 5


def test_texts_are_escaped(full):
    for raw in ("<b>&", "<script>", "<i>blur", "<only>", "<0.10>"):
        assert raw not in full
    assert "&lt;b&gt;&amp;&quot;x.jpg11" in full  # the worst face's key, in its caption


def test_pictures_have_words_and_tables_have_headers(full):
    read = Page(full)
    assert all(a.get("alt") for tag, a in read.tags if tag == "img")
    assert all(a.get("aria-label") or "aria-hidden" in a for tag, a in read.tags if tag == "svg")
    regions = [a for tag, a in read.tags if tag == "div" and a.get("class") == "wide"]
    assert len(regions) == sum(tag == "table" for tag, _ in read.tags) >= 8
    assert all(a["aria-label"] and a["tabindex"] == "0" for a in regions)
    assert {a["scope"] for tag, a in read.tags if tag == "th"} == {"col", "row"}


def test_no_faces_leaves_every_picture_of_a_face_out(full, tmp_path):
    with_faces, without = full, write(tmp_path, make_content(faces=None))
    assert [kind for kind, _ in decoded_pictures(with_faces)].count("image/jpeg") == 6
    assert {kind for kind, _ in decoded_pictures(without)} == {"image/svg+xml"}
    assert not any(b"jpeg" in content for _, content in decoded_pictures(without))
    assert "Pictures of faces were left out of this report (--no_faces)." in Page(without).text
    assert "x.jpg" not in without.replace(f"run {NASTY}", "").split("</header>")[1]  # no keys of faces either


def test_a_report_without_results_is_still_a_page(tmp_path):
    text = write(tmp_path, make_content(results=[], history=[], faces=[], cost="", datasets=[], versions={}))
    read = Page(text)
    assert "No scores: nothing was evaluated." in read.text and "12 records skipped" in read.text
    assert (read.open, read.crossed) == ([], [])


def test_a_result_without_a_single_scored_face(tmp_path):
    empty = make_rows()._replace(evaluated=np.zeros(12, np.uint8))
    result = make_result(rows=empty, scores=scores.score(empty, SCHEME, ("pose", "blur")))
    assert "0 faces evaluated, 12 skipped" in Page(write(tmp_path, make_content(results=[result], faces=[]))).text


def test_faces_without_a_score_are_told(tmp_path):
    lame = make_rows()
    lame.visible[4, 19] = 0
    result = make_result(rows=lame, scores=scores.score(lame, SCHEME, ("pose", "blur")))
    assert "1 evaluated faces have no score" in Page(write(tmp_path, make_content(results=[result]))).text


def test_the_last_checkpoints_breakdown_is_folded_under_the_best(full, tmp_path):
    read = Page(full)
    assert [tag for tag, _ in read.tags].count("details") == 2  # the last checkpoint's tables, and the config
    alone = Page(write(tmp_path, make_content(results=[make_result(checkpoint="last")])))
    assert [tag for tag, _ in alone.tags].count("details") == 1


def test_scores_of_a_sub_scheme_are_drawn_with_its_points(tmp_path):
    scheme = schemes.get("300w68")
    generator = np.random.default_rng(0)
    truth = generator.uniform(0, 100, (5, 68, 2))
    ones = np.ones((5, 68), np.float32)
    found = rows.FaceRows(list("abcde"), truth + 1, truth, ones, ones, np.zeros((5, 0), np.uint8), np.ones(5, np.uint8))
    result = make_result(rows=found, scheme=scheme, flags=(), scores=scores.score(found, scheme, (), target="inner51"))
    assert "scheme inner51" in Page(write(tmp_path, make_content(results=[result], faces=None))).text


def test_headline_is_the_first_network_s_best_checkpoint():
    last, best = make_result("a", "last"), make_result("a", "best")
    assert report.headline([last, best]) is best
    assert report.headline([last]) is last
    assert report.headline([]) is None
    other = best._replace(name="another network on it")
    assert report.headline([last, other]) is last and report.headline([last, other, best]) is best


def test_select_faces_by_hand():
    found = make_rows(9)
    nme = np.array([0.5, 0.0, 0.1, 0.9, 0.3, 0.2, 0.4, np.nan, 0.6])  # face 1 was skipped, face 7 has no score
    # In order of NME: 2, 5, 4, 6, 0, 8, 3.
    best, median, worst = [(2, "best"), (5, "best")], [(4, "median"), (6, "median")], [(3, "worst"), (8, "worst")]
    assert report.select_faces(found, nme, count=2) == best + median + worst


@pytest.mark.parametrize("scored, expected", [(0, 0), (1, 1), (2, 2), (4, 4), (7, 7), (40, 18)])
def test_select_faces_shows_no_face_twice(scored, expected):
    found = make_rows(42)
    nme = np.full(42, np.nan)
    nme[2 : 2 + scored] = np.arange(scored)[::-1]
    chosen = [n for n, _ in report.select_faces(found, nme)]
    assert len(chosen) == len(set(chosen)) == expected


def test_a_picture_maps_points_back_into_the_crop():
    found = make_rows()
    affine = np.array([[2.0, 0.0, 10.0], [0.0, 2.0, -4.0]])
    picture = report.face_picture(found, 3, np.zeros((64, 64, 3), np.uint8), affine, 0.04, "worst")
    np.testing.assert_allclose(picture.truth_px, (found.truth_px[3] - [10, -4]) / 2)
    np.testing.assert_allclose(picture.predicted_px, (found.predicted_px[3] - [10, -4]) / 2)


def test_face_svg_draws_what_counts_where_it_is():
    image = np.zeros((32, 32, 3), np.uint8)
    image[..., 0] = 200  # red
    truth = np.array([[3.0, 4.0], [10.0, 11.0], [np.nan, np.nan]])
    predicted = np.array([[5.0, 4.0], [12.0, 11.0], [20.0, 21.0]])
    face = faces.FacePicture(image, predicted, truth, NASTY, 0.05, "best", np.array([1, 0, 0]))
    text = faces.face_svg(face)
    assert 'viewBox="-.5 -.5 32 32"' in text and "&lt;b&gt;" in text and "NME 5.00 %" in text
    assert text.count('cx="3.0" cy="4.0"') == 2 and 'cx="10.0" cy="11.0"' not in text and "nan" not in text
    assert all(f'cx="{x:.1f}" cy="{y:.1f}"' in text for x, y in predicted)
    assert "M3.0 4.0L5.0 4.0" in text
    ((kind, content),) = decoded_pictures(text)
    blue, green, red = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[16, 16]
    assert kind == "image/jpeg" and red > 190 and blue < 10 and green < 10


def test_mean_point_errors_by_hand():
    found = make_rows(2)._replace(evaluated=np.ones(2, np.uint8))
    found.predicted_px[0] = found.truth_px[0] + [3.0, 4.0]  # 5 px
    found.predicted_px[1] = found.truth_px[1] + [0.0, 10.0]
    found.visible[1, 7] = 0
    found.visible[:, 9] = 0
    mean = plots.mean_point_errors(found, SCHEME, "inter_ocular")
    np.testing.assert_allclose(mean[[0, 7]], [7.5 / 50, 5 / 50])
    assert np.isnan(mean[9])


def test_training_figure_draws_only_what_was_logged():
    assert plots.training_figure([{"step": 1, "learning_rate": 0.1}]) == ""
    assert plots.training_figure([]) == ""
    only_loss = plots.training_figure([{"step": s, "loss": float("nan") if s == 2 else 1.0} for s in range(1, 4)])
    both = plots.training_figure([{"step": 1, "loss": 1.0}, {"step": 1, "validation/nme": 5.0}])
    assert [text.count('<g id="axes_') for text in (only_loss, both)] == [1, 2]


def test_figures_are_the_same_every_time():
    curve = plots.Curve("a", "best", np.array([0.01, 0.02, np.nan]))
    assert plots.ced_figure([curve], (0.08,)) == plots.ced_figure([curve], (0.08,))


def test_summary_text_is_aligned():
    other = make_result("own_faces:a_longer_name", "last", provenance="trained on 10 of 10 images", flip_test=False)
    header, rule, *lines = report.summary_text([make_result(), other]).splitlines()
    assert set(rule) == {"-"} and len(lines) == 4
    end = header.index("NME %") + len("NME %")
    assert [line[:end].split()[-1] for line in lines[:2]] == [
        f"{r.scores.overall.nme_percent:.2f}" for r in (make_result(), other)
    ]
    assert lines[2:] == [
        "the300w:common: trained on 2012 of 3148 training images",
        "own_faces:a_longer_name: trained on 10 of 10 images",
    ]
    assert report.summary_text([]) == "no scores: nothing was evaluated"


def test_a_threshold_that_a_result_lacks_leaves_its_cell_empty():
    found = make_rows()
    narrow = make_result(scores=scores.score(found, SCHEME, ("a", "b"), thresholds=(0.05,)))
    header, _, first, second, *_ = report.summary_text([narrow, make_result()]).splitlines()
    columns = ["FR@0.05 %", "FR@0.08 %", "AUC@0.10"]
    ends = [header.index(c) + len(c) for c in columns]
    cells = [[line.ljust(len(header))[e - 6 : e].strip() for e in ends] for line in (first, second)]
    assert [bool(cell) for cell in cells[0]] == [True, False, False]
    assert [bool(cell) for cell in cells[1]] == [False, True, True]


def test_page_escapes_but_not_twice():
    assert page.element("p", "<", page.Html("<b></b>"), title='"') == '<p title="&quot;">&lt;<b></b></p>'
    assert tables.fixed(float("nan")) == "-"
    with pytest.raises(ValueError, match="one file"):
        page.figure("faces.png", "", "")


def test_scores_and_report_need_no_jax():
    code = "import sys, lmkd.evaluation.report, lmkd.evaluation.evaluator; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_curves_of_several_models_on_one_set_have_dashes_of_their_own():
    dashes = plots._dashes(["best", "onnx of best", "last", "best", "tflite_int8 of best"])
    assert dashes["best"] == "-" and dashes["last"] == "--"
    assert len(set(map(str, dashes.values()))) == 4
