"""A report as one HTML page that needs nothing else: no script, style and pictures inside it."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Final

from tracking.report.blocks import (
    Block,
    Card,
    Cards,
    Code,
    Column,
    Facts,
    Figure,
    Gallery,
    Report,
    Section,
    Table,
    Text,
)
from tracking.report.charts.svg import escape

_FORBID: Final = "default-src 'none'; style-src 'unsafe-inline'"
"""Whatever a file's name or a reason contains: the browser runs and loads nothing for this page."""


def page(report: Report) -> str:
    """HTML."""
    entries = "".join(
        f'<a href="#{section.key}">{escape(section.title)}</a>' for section in report.sections
    )
    lines = "".join(f"<li>{escape(line)}</li>" for line in report.lines)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_FORBID}">
<meta name="color-scheme" content="light dark">
<title>{escape(report.title)}</title>
<style>
{_style()}</style>
</head>
<body>
<nav aria-label="Sections">{entries}</nav>
<main>
<header>
<h1>{escape(report.title)}</h1>
<ul class="lines">{lines}</ul>
<p class="verdict">{escape(report.verdict)}</p>
</header>
{"".join(map(_section, report.sections))}
<footer>fdan-search</footer>
</main>
</body>
</html>
"""


@cache
def _style() -> str:
    return resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")


def _section(section: Section) -> str:
    inside = "\n".join(map(_block, section.blocks))
    title = escape(section.title)
    return f'<section id="{section.key}">\n<h2>{title}</h2>\n{inside}\n</section>\n'


def _block(block: Block) -> str:
    match block:
        case Text(words, kind):
            return f'<p class="{kind}">{escape(words)}</p>'
        case Cards(cards):
            return f'<div class="cards">{"".join(map(_card, cards))}</div>'
        case Facts(items):
            inside = "".join(
                f"<dt>{escape(name)}</dt><dd>{_linked(value)}</dd>" for name, value in items
            )
            return f"<dl>{inside}</dl>"
        case Table():
            return _table(block)
        case Figure():
            return _figure(block)
        case Gallery(figures, large):
            size = "gallery large" if large else "gallery"
            return f'<div class="{size}">{"".join(map(_figure, figures))}</div>'
        case Code(lines):
            return f"<pre><code>{escape(lines)}</code></pre>"


def _linked(value: str) -> str:
    if value.startswith(("http://", "https://")):
        return f'<a href="{escape(value)}">{escape(value)}</a>'
    return escape(value)


def _card(card: Card) -> str:
    kind = "card strong" if card.strong else "card"
    return (
        f'<div class="{kind}"><h3>{escape(card.name)}</h3><p class="value">{escape(card.value)}</p>'
        f"<p>{escape(card.detail)}</p></div>"
    )


def _figure(figure: Figure) -> str:
    legend = "".join(
        f'<li><svg viewBox="0 0 22 12" aria-hidden="true">{_sign(kind)}</svg>{escape(meaning)}</li>'
        for kind, meaning in figure.legend
    )
    legend = f'<ul class="legend">{legend}</ul>' if legend else ""
    picture = f'<div class="wide">{figure.wide}</div><div class="narrow">{figure.narrow}</div>'
    words = f"<figcaption>{escape(figure.words)}</figcaption>" if figure.words else ""
    return (
        f"<figure><h3>{escape(figure.title)}</h3>{words}{legend}"
        f"{picture if figure.narrow else figure.wide}</figure>"
    )


_LINES: Final = ("record", "baseline", "course", "curve", "interval")
_DIAMOND: Final = "M6 6L11 1L16 6L11 11Z"
_CROSS: Final = "M7 2L15 10M7 10L15 2"


def _sign(kind: str) -> str:
    """The mark before a legend's words: the shape in the picture."""
    first = kind.split()[0]
    if first in _LINES:
        return f'<line x1="0" y1="6" x2="22" y2="6" class="{kind}"/>'
    if first == "before":
        return f'<path d="{_DIAMOND}" class="{kind}"/>'
    if first == "failed":
        return f'<path d="{_CROSS}" class="{kind}"/>'
    return f'<circle cx="11" cy="6" r="{2.6 if first == "single" else 4.4}" class="{kind}"/>'


def _table(table: Table) -> str:
    head = "".join(
        f'<th scope="col"{_kind(column)}>{escape(column.name)}</th>' for column in table.head
    )
    rows = []
    for index, row in enumerate(table.rows):
        cells = "".join(
            f"<td{_kind(column)}>{escape(cell)}</td>"
            for cell, column in zip(row, table.head, strict=True)
        )
        strong = ' class="strong"' if index in table.strong else ""
        rows.append(f"<tr{strong}>{cells}</tr>")
    made = (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
    if not table.folded:
        return made
    return f"<details><summary>{escape(table.folded)}</summary>{made}</details>"


def _kind(column: Column) -> str:
    kinds = " ".join(["number"] * column.number + ["roomy"] * column.roomy)
    return f' class="{kinds}"' if kinds else ""
