"""Pieces of one self-contained HTML page. Text is escaped on its way in, unless it is `Html` already."""

import html
from collections.abc import Iterable, Sequence


class Html(str):
    """Text that is HTML already: made here, or SVG that escaped its own texts."""


STYLE = """
:root { color-scheme: light; --ink: #1b2430; --soft: #5a6675; --line: #dde3ea; --tint: #f5f8fb; --mark: #0072b2; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 68rem; padding: 1.5rem 1rem 4rem; color: var(--ink); background: #fff;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-bottom: .25rem; border-bottom: 2px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; overflow-wrap: anywhere; }
p { margin: .4rem 0; } .soft, figcaption { color: var(--soft); font-size: .875rem; }
nav { font-size: .875rem; margin: .8rem 0; } 
nav a { display: inline-block; padding: .3rem 0; margin-right: 1rem; color: var(--mark); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr));
  gap: .6rem; margin: 1rem 0 .6rem; }
.card { background: var(--tint); border: 1px solid var(--line); border-radius: .5rem; padding: .6rem .8rem; }
.card b { display: block; font-size: 1.55rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: .8125rem; line-height: 1.35; display: block; }
.notice { border-left: 4px solid #d55e00; background: #fdf5ef; padding: .5rem .8rem; margin: .5rem 0; }
.wide { overflow-x: auto; margin: .4rem 0 1rem; }
table { border-collapse: collapse; font-size: .875rem; min-width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { background: var(--tint); white-space: nowrap; vertical-align: bottom; }
tbody th { font-weight: 600; min-width: 9rem; overflow-wrap: break-word; }
th .soft { font-weight: 400; } td .soft, th .soft { font-size: .8125rem; }
@media (min-width: 60rem) { .identity { width: 19rem; } } .number { text-align: right; white-space: nowrap; }
td.text { min-width: 8rem; overflow-wrap: anywhere; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1rem; }
figure { margin: 0; min-width: 0; } figure img { width: 100%; max-width: 36rem; height: auto; display: block; }
.faces { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(47%, 9.5rem), 1fr)); gap: .6rem; }
.faces svg { width: 100%; height: auto; display: block; border-radius: .35rem; }
.faces figcaption { overflow-wrap: anywhere; line-height: 1.3; padding-top: .2rem; }
.legend { width: 2.4rem; height: 1.5rem; vertical-align: middle; background: #8a8f96; border-radius: .25rem;
  margin-right: .4rem; }
pre { background: var(--tint); border: 1px solid var(--line); border-radius: .4rem; padding: .6rem .8rem;
  overflow-x: auto; font: .8125rem/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
details { margin: .6rem 0; } summary { cursor: pointer; font-weight: 600; padding: .3rem 0; }
@media print { body { max-width: none; } .wide { overflow: visible; } nav { display: none; }
  figure, .card { break-inside: avoid; } }
"""

# The browser itself refuses anything that is not in the file.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def text(value: object) -> Html:
    """Returns a value as HTML: `Html` as it is, anything else escaped."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def join(parts: Iterable[object], between: str = "") -> Html:
    """Returns the parts in a row, each escaped unless `Html`."""
    return Html(between.join(text(part) for part in parts))


def element(name: str, *content: object, **attributes: str) -> Html:
    """Returns <name attributes>content</name>; `class_` stands for class."""
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{given}>{join(content)}</{name}>")


def section(title: str, *content: object) -> Html:
    """Returns a section under a heading, with an anchor made from its title; empty where there is no content."""
    if not any(content):
        return Html("")
    return element("section", element("h2", title), *content, id=anchor(title))


def anchor(title: str) -> str:
    """Returns the anchor of a section."""
    return "".join(c if c.isalnum() else "-" for c in title.lower())


def table(header: Sequence[str], rows: Sequence[Sequence[object]], *, caption: str, numbers: Iterable[int] = ()) -> Html:
    """Returns a table that scrolls sideways inside itself on narrow screens.

    Args:
      header: column titles; the first column names the row.
      rows: cells.
      caption: what the table shows, for those who do not see the heading above it.
      numbers: indices of the columns to set right.
    """
    right = set(numbers)

    def cell(n: int, value: object) -> Html:
        if n == 0:
            return element("th", value, scope="row")
        return element("td", value, class_="number" if n in right else "text")

    head = join(
        element("th", title, scope="col", **({"class_": "number"} if n in right else {})) for n, title in enumerate(header)
    )
    body = join(element("tr", join(cell(n, value) for n, value in enumerate(row))) for row in rows)
    grid = element("table", element("thead", element("tr", head)), element("tbody", body))
    # A region that can be focused: a keyboard can scroll it, and a screen reader says what it is.
    return element("div", grid, class_="wide", role="region", tabindex="0", aria_label=caption)


def figure(source: str, alternative: str, caption: object) -> Html:
    """Returns a picture given as a data: address, its text for those who cannot see it, and a caption."""
    if not source.startswith("data:"):
        raise ValueError("a report is one file: pictures are data: addresses")
    picture = Html(f'<img src="{html.escape(source)}" alt="{html.escape(alternative)}">')
    return element("figure", picture, element("figcaption", caption))


def details(title: str, content: object) -> Html:
    """Returns content folded away under its title; no script needed."""
    return element("details", element("summary", title), content)


def document(title: str, *content: object) -> str:
    """Returns the whole page."""
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style>"
    )
    return f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{join(content, chr(10))}\n</body>\n</html>\n'
