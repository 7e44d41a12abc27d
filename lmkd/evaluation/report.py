"""`report.html`: what a run reached and what it was, in one file that needs no network and no script.

    write_report(workdir / "report.html", ReportContent(title=..., command=..., results=[...], history=[...], ...))
    print(summary_text(results))

`content` says what goes in, `tables`, `plots` and `faces` make the parts, `page` joins them and escapes every text.
"""

import os
from collections.abc import Sequence

import numpy as np

from lmkd.evaluation import comparison_tables, page, plots, published, robustness, tables
from lmkd.evaluation import faces as face_pictures
from lmkd.evaluation.content import DatasetProvenance, ReportContent, Result, headline, scored_points
from lmkd.evaluation.faces import RANKS, FacePicture, face_picture, select_faces
from lmkd.evaluation.files import whole_file
from lmkd.evaluation.page import Html
from lmkd.evaluation.rows import nme_per_face
from lmkd.evaluation.scores import threshold_label
from lmkd.evaluation.tables import summary_text


def write_report(path: str | os.PathLike, content: ReportContent) -> None:
    """Writes the report, whole or not at all."""
    text = page.document(content.title, *_page(content))
    with whole_file(path) as file:
        file.write(text)


def _page(content: ReportContent) -> list[Html]:
    sections = {
        "Scores": tables.scores(content.results),
        "Comparison": comparison_tables.section(content.comparisons),
        "By subset and group": tables.breakdown(content.results),
        "Curves": _curves(content),
        "Errors by point": _points(content.results),
        "Robustness": robustness.section(content.robustness),
        "Published figures, quoted": published.section(content.results, content.comparisons) if content.quoted else [],
        "Faces": _faces(content.faces, headline(content.results)),
        "Cost": _cost(content.cost),
        "Data": _data(content.datasets),
        "Config": [page.details("The whole config (JSON)", page.element("pre", content.config_json))],
        "Versions": [page.table(("what", "version"), sorted(content.versions.items()), caption="Versions")]
        if content.versions
        else [],
    }
    links = [page.element("a", title, href=f"#{page.anchor(title)}") for title, parts in sections.items() if parts]
    return [
        page.element("header", page.element("h1", content.title), *_opening(content)),
        page.element("nav", *links, aria_label="Sections"),
        page.element("main", *(page.section(title, *parts) for title, parts in sections.items())),
    ]


def _opening(content: ReportContent) -> list[Html]:
    notices = [
        page.element("p", notice, class_="notice", role="note") for notice in (*content.notices, *_lost(content.results))
    ]
    first = headline(content.results)
    if first is None:
        return [page.element("p", "No scores: nothing was evaluated."), *notices, page.element("pre", content.command)]
    s = first.scores
    cards = [("NME", f"{tables.fixed(s.overall.nme_percent)} %", f"95 %: {tables.interval(s)}")]
    for t, failure, auc in zip(s.thresholds, s.overall.failure_percent, s.overall.auc, strict=True):
        cards.append((f"FR@{threshold_label(t)}", f"{tables.fixed(failure)} %", f"faces with NME above {100 * t:g}\u00a0%"))
        cards.append((f"AUC@{threshold_label(t)}", tables.fixed(auc, 4), f"of the CED up to {100 * t:g}\u00a0%"))
    flip = "with flip test" if first.flip_test else "without flip test"
    faces = f"{s.evaluated} faces evaluated, {s.skipped} skipped"
    read = f", points read by {first.decoder}" if first.decoder else ""
    protocol = f"{first.crop_protocol} crop, {first.normaliser} normaliser, {flip}, scheme {s.scheme}{read}"
    return [
        page.element("p", page.element("b", first.name), f", {first.checkpoint} checkpoint: {protocol}; {faces}."),
        page.element("p", first.provenance, class_="soft"),
        page.element("div", *(_card(*card) for card in cards), class_="cards"),
        *notices,
        page.element("p", "Command", class_="soft"),
        page.element("pre", content.command),
    ]


def _card(name: str, value: str, note: str) -> Html:
    return page.element("div", page.element("span", name), page.element("b", value), page.element("span", note), class_="card")


def _lost(results: Sequence[Result]) -> list[str]:
    """Notices on evaluated faces that have no score."""
    return [
        f"{r.name} ({r.checkpoint}): {r.scores.undefined} evaluated faces have no score (no annotated point, "
        f"or no {r.normaliser} distance); they are in no mean."
        for r in results
        if r.scores.undefined
    ]


def _curves(content: ReportContent) -> list[Html]:
    figures = []
    if content.results:
        several = len({r.crop_protocol for r in content.results}) > 1
        curves = [
            plots.Curve(f"{r.name}, {r.crop_protocol}" if several else r.name, r.checkpoint, _nme(r)) for r in content.results
        ]
        thresholds = sorted({t for r in content.results for t in r.scores.thresholds})
        told = "; ".join(
            f"{r.name} {r.checkpoint}: NME {tables.fixed(r.scores.overall.nme_percent)} %" for r in content.results
        )
        caption = "Cumulative error distribution (CED): share of faces with at most the given NME. Dotted: thresholds."
        drawn = plots.ced_figure(curves, thresholds)
        figures.append(_svg_figure(drawn, f"Cumulative error distributions. {told}", caption))
    training = plots.training_figure(content.history)
    if training:
        first, last = content.history[0].get("step"), content.history[-1].get("step")
        told = f"Training losses and validation NME from step {first} to step {last}"
        caption = "Training: losses (log scale where all are above 0) and validation NME."
        figures.append(_svg_figure(training, told, caption))
    return [page.element("div", *figures, class_="figures")] if figures else []


def _points(results: Sequence[Result]) -> list[Html]:
    first = headline(results)
    if first is None or not first.scores.overall.faces:
        return []
    rows, scheme = scored_points(first)
    mean = plots.mean_point_errors(rows, scheme, first.normaliser)
    worst = int(np.nanargmax(mean))
    told = f"largest at {scheme.names[worst]} (index {worst}), {100 * mean[worst]:.2f} %"
    bars = plots.point_figure(rows, scheme, first.normaliser)
    shape = plots.shape_figure(rows, scheme, first.normaliser)
    about = f"{first.name}, {first.checkpoint} checkpoint"
    figures = [
        _svg_figure(bars, f"Mean error of each point, {told}", f"Mean error of each point; {told}. {about}."),
        _svg_figure(shape, "The mean face, each point sized by its mean error", f"The same on the mean true face. {about}."),
    ]
    return [page.element("div", *figures, class_="figures")]


def _faces(faces: Sequence[FacePicture] | None, first: Result | None) -> list[Html]:
    if faces is None:
        return [page.element("p", "Pictures of faces were left out of this report (--no_faces).")]
    if not faces:
        return [page.element("p", "There are no faces to show.")]
    about = f" {first.name}, {first.checkpoint} checkpoint." if first else ""
    key = page.element(
        "p",
        Html(face_pictures.face_legend_svg()),
        f"Blue ring: true point. Yellow dot: predicted point.{about}",
        class_="soft",
    )
    parts = [key]
    for rank in dict.fromkeys((*RANKS, *(face.rank for face in faces))):
        pictures = [
            page.element(
                "figure",
                Html(face_pictures.face_svg(face)),
                page.element("figcaption", f"{100 * face.nme:.2f} % ", face.key),
            )
            for face in faces
            if face.rank == rank
        ]
        if pictures:
            parts += [page.element("h3", f"{rank} faces, by NME"), page.element("div", *pictures, class_="faces")]
    return parts


def _cost(cost: Sequence[Sequence[object]] | str) -> list[Html]:
    if not cost:
        return []
    if isinstance(cost, str):
        return [page.element("pre", cost)]
    return [page.table([str(c) for c in cost[0]], cost[1:], caption="Cost", numbers=range(1, len(cost[0])))]


def _data(datasets: Sequence[DatasetProvenance]) -> list[Html]:
    header = ("data set", "config", "split", "found", "published", "missing", "licence")
    rows = [
        [
            d.name,
            d.config,
            d.split,
            str(d.found),
            "none stated" if d.published is None else str(d.published),
            d.missing or "nothing",
            d.licence,
        ]
        for d in datasets
    ]
    return [page.table(header, rows, caption="Data sets", numbers=(3, 4))] if rows else []


def _nme(result: Result) -> np.ndarray:
    rows, scheme = scored_points(result)
    return nme_per_face(rows, scheme, result.normaliser)


def _svg_figure(svg: str, alternative: str, caption: str) -> Html:
    return page.figure(face_pictures.data_uri(svg, "image/svg+xml"), alternative, caption)


__all__ = [
    "DatasetProvenance", "FacePicture", "ReportContent", "Result", "face_picture", "headline", "select_faces",
    "summary_text", "write_report",
]  # fmt: skip
