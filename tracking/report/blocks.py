"""Parts of a report, whatever it is written as: page.py makes HTML of it, markdown.py
Markdown. Texts are plain; who writes them out escapes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias


@dataclass(frozen=True)
class Text:
    """A paragraph. kind: "note" for what is missing or has to be taken with care."""

    words: str
    kind: Literal["plain", "note"] = "plain"


@dataclass(frozen=True)
class Card:
    """A figure in large type: what it is, the figure, and what to think of it."""

    name: str
    value: str
    detail: str
    strong: bool = False


@dataclass(frozen=True)
class Cards:
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Facts:
    """Names and what they are. code: the values are to be read letter by letter."""

    items: tuple[tuple[str, str], ...]
    code: bool = False


class Column(NamedTuple):
    """number: flush right. roomy: left out where the window is narrow."""

    name: str
    number: bool = False
    roomy: bool = False


def columns(*names: str) -> tuple[Column, ...]:
    """Columns of words."""
    return tuple(Column(name) for name in names)


def numbers(*names: str) -> tuple[Column, ...]:
    """Columns of numbers."""
    return tuple(Column(name, number=True) for name in names)


@dataclass(frozen=True)
class Table:
    """strong: rows that stand out. folded: the page opens it on demand, under this title."""

    head: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    strong: frozenset[int] = frozenset()
    folded: str = ""


@dataclass(frozen=True)
class Figure:
    """A picture. wide, narrow: SVG for either window, narrow "" where one serves both. words: what
    it shows and how to read it. legend: (class of style.css, meaning). table: the same in numbers,
    which Markdown shows in place of the picture."""

    title: str
    words: str
    wide: str
    narrow: str = ""
    legend: tuple[tuple[str, str], ...] = ()
    table: Table | None = None


@dataclass(frozen=True)
class Gallery:
    """Small pictures side by side, as many as the window has room for; large: two at most."""

    figures: tuple[Figure, ...]
    large: bool = False


@dataclass(frozen=True)
class Code:
    """Commands to type."""

    lines: str


Block: TypeAlias = "Text | Cards | Facts | Table | Figure | Gallery | Code"


@dataclass(frozen=True)
class Section:
    """key: its anchor."""

    key: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Report:
    """title: the study; lines: what stands below it; verdict: the whole in a sentence or three."""

    title: str
    lines: tuple[str, ...]
    verdict: str
    sections: tuple[Section, ...]


def note(words: str) -> Text:
    """A remark on what is missing."""
    return Text(words, "note")
