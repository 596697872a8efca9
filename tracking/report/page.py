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
    Facts,
    Figure,
    Gallery,
    Note,
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
        case Text(words):
            return f"<p>{escape(words)}</p>"
        case Note(words):
            return f'<p class="note">{escape(words)}</p>'
        case Cards(cards):
            return f'<div class="cards">{"".join(map(_card, cards))}</div>'
        case Facts(items):
            pairs = (f"<dt>{escape(name)}</dt><dd>{_linked(value)}</dd>" for name, value in items)
            return f"<dl>{''.join(pairs)}</dl>"
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
    words = escape(value)
    return f'<a href="{words}">{words}</a>' if value.startswith(("http://", "https://")) else words


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
    words = f"<figcaption>{escape(figure.words)}</figcaption>" if figure.words else ""
    picture = str(figure.picture)
    if figure.wide:
        picture = f'<div class="scroll" tabindex="0">{picture}</div>'
    return f"<figure><h3>{escape(figure.title)}</h3>{words}{legend}{picture}</figure>"


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
    if not table.rows:
        return ""
    kinds = [["roomy"] * (name == table.roomy) for name in table.head]
    for kind in kinds[slice(*table.numbers)]:
        kind.append("number")
    classes = [f' class="{" ".join(kind)}"' if kind else "" for kind in kinds]
    head = "".join(
        f'<th scope="col"{kind}>{escape(name)}</th>'
        for name, kind in zip(table.head, classes, strict=True)
    )
    rows = ""
    for row in table.rows:
        cells = "".join(
            f"<td{kind}>{escape(str(cell))}</td>" for cell, kind in zip(row, classes, strict=True)
        )
        rows += (
            f'<tr class="strong">{cells}</tr>' if row[0] == table.strong else f"<tr>{cells}</tr>"
        )
    made = (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
    if not table.folded:
        return made
    return f"<details><summary>{escape(table.folded)}</summary>{made}</details>"
