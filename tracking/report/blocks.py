"""Parts of a report, whatever it is written as: page.py makes HTML of it, markdown.py
Markdown. Texts are plain; who writes them out escapes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from tracking.report.charts.svg import Svg


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    words: str


@dataclass(frozen=True)
class Note:
    """A paragraph on what is missing or has to be taken with care."""

    words: str


@dataclass(frozen=True)
class Card:
    """A figure in large type: what it is, the figure, and what to think of it."""

    name: str
    value: str
    detail: str
    strong: bool = False


@dataclass(frozen=True)
class Cards:
    cards: Sequence[Card]


@dataclass(frozen=True)
class Facts:
    """Names and what they are."""

    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """numbers: the columns from .. to that are flush right. strong: the first cell of the row that
    stands out. folded: the page opens it on demand, under this title. roomy: a column that the page
    leaves out where the window is narrow."""

    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    numbers: tuple[int, int | None] = (1, None)
    strong: object = None
    folded: str = ""
    roomy: str = ""


WORDS: Final = (0, 0)
"""`Table.numbers` of a table that has none."""


@dataclass(frozen=True)
class Figure:
    """A picture. words: what it shows and how to read it. legend: (class of style.css, meaning).
    table: the same in numbers, which Markdown shows in place of the picture. wide: drawn for a wide
    window, and scrolled in a narrow one."""

    title: str
    words: str
    picture: Svg
    legend: Sequence[tuple[str, str]] = ()
    table: Table | None = None
    wide: bool = False


@dataclass(frozen=True)
class Gallery:
    """Small pictures side by side, as many as the window has room for; large: two at most."""

    figures: Sequence[Figure]
    large: bool = False


@dataclass(frozen=True)
class Code:
    """Commands to type."""

    lines: str


Block: TypeAlias = Text | Note | Cards | Facts | Table | Figure | Gallery | Code


@dataclass(frozen=True)
class Section:
    """key: its anchor."""

    key: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Report:
    """title: the study; lines: what stands below it; verdict: the whole in a sentence or three."""

    title: str
    lines: Sequence[str]
    verdict: str
    sections: Sequence[Section]
