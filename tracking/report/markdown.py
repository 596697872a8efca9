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
    Note,
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
    address = page.replace("%", "%25").replace("<", "%3C").replace(">", "%3E").replace("\n", "%0A")
    parts = [
        f"# {_plain(report.title)}",
        "\n".join(f"- {_plain(line)}" for line in report.lines),
        f"**{_plain(report.verdict)}**",
        f"Pictures are in [{_plain(page)}](<{address}>).",
    ]
    for section in report.sections:
        parts.append(f"## {_plain(section.title)}")
        for block in section.blocks:
            parts += _block(block)
    return "\n\n".join(part for part in parts if part) + "\n"


def _plain(text: str) -> str:
    """Somebody's words as Markdown that shows just them, in one line."""
    line = " ".join(visible(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # A line that begins so would be a list.
    return re.sub(
        r"^(\d+)([.)] )", r"\1\\\2", re.sub(r"^([-+])", r"\\\1", _SPECIAL.sub(r"\\\1", line))
    )


def _block(block: Block) -> Iterator[str]:
    match block:
        case Text(words):
            yield _plain(words)
        case Note(words):
            yield f"> {_plain(words)}"
        case Cards(cards):
            yield "\n".join(
                f"- {_plain(card.name)}: **{_plain(card.value)}**. {_plain(card.detail)}"
                for card in cards
            )
        case Facts(items):
            yield "\n".join(f"- {_plain(name)}: {_plain(value)}" for name, value in items)
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
    yield f"### {_plain(figure.title)}"
    yield _plain(figure.words)
    yield from _table(figure.table)


def _pictured(figure: Figure) -> str:
    """Content of the page only."""
    return f"*{_plain(figure.title)}* (picture). {_plain(figure.words)}".strip()


def _table(table: Table) -> Iterator[str]:
    if not table.rows:
        return
    if table.folded:
        yield f"### {_plain(table.folded)}"
    sides, numbers = ["---"] * len(table.head), slice(*table.numbers)
    sides[numbers] = ["---:"] * len(sides[numbers])
    rows = [[_plain(name) for name in table.head], sides]
    for row in table.rows:
        mark = "**" if row[0] == table.strong else ""
        rows.append([f"{mark}{_plain(str(cell))}{mark}" if cell != "" else "" for cell in row])
    yield "\n".join(f"| {' | '.join(row)} |" for row in rows)
