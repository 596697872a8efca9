"""A report as Markdown: the same words and tables; pictures become their tables, or stay in the
page beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from tracking.report.blocks import (
    Block,
    Cards,
    Code,
    Facts,
    Figure,
    Gallery,
    Report,
    Table,
    Text,
)
from tracking.report.formatting import visible

_SPECIAL: Final = re.compile(r"([\\`*_\[\]{}|#~$])")


def markdown(report: Report, page: str) -> str:
    """Write a report as Markdown.

    Args:
        report: The report.
        page: Name of the HTML file beside it, which has the pictures.
    """
    parts = [f"# {plain(report.title)}"]
    parts.append("\n".join(f"- {plain(line)}" for line in report.lines))
    parts.append(f"**{plain(report.verdict)}**")
    parts.append(f"Pictures are in [{plain(page)}](<{_address(page)}>).")
    for section in report.sections:
        parts.append(f"## {plain(section.title)}")
        for block in section.blocks:
            parts += _block(block)
    return "\n\n".join(part for part in parts if part) + "\n"


def plain(text: str) -> str:
    """Somebody's words as Markdown that shows just them, in one line."""
    line = " ".join(visible(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # A line that begins so would be a list.
    return re.sub(
        r"^(\d+)([.)] )", r"\1\\\2", re.sub(r"^([-+])", r"\\\1", _SPECIAL.sub(r"\\\1", line))
    )


def _address(name: str) -> str:
    return name.replace("%", "%25").replace("<", "%3C").replace(">", "%3E").replace("\n", "%0A")


def _block(block: Block) -> Iterator[str]:
    match block:
        case Text(words, kind):
            yield f"> {plain(words)}" if kind == "note" else plain(words)
        case Cards(cards):
            yield "\n".join(
                f"- {plain(card.name)}: **{plain(card.value)}**. {plain(card.detail)}"
                for card in cards
            )
        case Facts(items):
            yield "\n".join(f"- {plain(name)}: {plain(value)}" for name, value in items)
        case Table():
            yield from _table(block)
        case Figure():
            yield from _figure(block)
        case Gallery(figures) if any(figure.table is None for figure in figures):
            yield "\n".join(f"- {_pictured(figure)}" for figure in figures)
        case Gallery(figures):
            for figure in figures:
                yield from _figure(figure)
        case Code(lines):
            fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", lines)), default=0))
            yield f"{fence}bash\n{visible(lines)}\n{fence}"


def _figure(figure: Figure) -> Iterator[str]:
    if figure.table is None:
        yield _pictured(figure)
        return
    yield f"### {plain(figure.title)}"
    yield plain(figure.words)
    yield from _table(figure.table)


def _pictured(figure: Figure) -> str:
    """Content of the page only."""
    return f"*{plain(figure.title)}* (picture). {plain(figure.words)}".strip()


def _table(table: Table) -> Iterator[str]:
    if not table.rows:
        return
    if table.folded:
        yield f"### {plain(table.folded)}"
    rows = [
        "| " + " | ".join(plain(column.name) for column in table.head) + " |",
        "| " + " | ".join("---:" if column.number else "---" for column in table.head) + " |",
    ]
    for index, row in enumerate(table.rows):
        mark = "**" if index in table.strong else ""
        cells = (f"{mark}{plain(cell)}{mark}" if cell else "" for cell in row)
        rows.append("| " + " | ".join(cells) + " |")
    yield "\n".join(rows)
