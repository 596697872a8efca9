"""Parts of a report, each as HTML and as Markdown. Their texts are plain; they escape them."""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

from tracking.report.drawing import Svg
from tracking.report.formatting import escape, plain, visible

_LINES: Final = ("record", "baseline", "course", "curve", "interval")
_SHAPES: Final = {"before": "M6 6L11 1L16 6L11 11Z", "failed": "M7 2L15 10M7 10L15 2"}


class Text(NamedTuple):
    """A paragraph."""

    words: str

    def html(self) -> str:
        return f"<p>{escape(self.words)}</p>"

    def markdown(self) -> str:
        return plain(self.words)


class Note(NamedTuple):
    """A paragraph on what is missing or has to be taken with care."""

    words: str

    def html(self) -> str:
        return f'<p class="note">{escape(self.words)}</p>'

    def markdown(self) -> str:
        return f"> {plain(self.words)}"


class Code(NamedTuple):
    """Commands to type."""

    lines: str

    def html(self) -> str:
        return f"<pre><code>{escape(self.lines)}</code></pre>"

    def markdown(self) -> str:
        fence = "`" * max(3, *(1 + len(run) for run in re.findall("`*", self.lines)))
        return f"{fence}bash\n{visible(self.lines)}\n{fence}"


class Cards(NamedTuple):
    """Figures in large type: what each is, the figure, and what to think of it. The first one
    stands out."""

    cards: Sequence[tuple[str, str, str]]

    def html(self) -> str:
        cards = (
            f'<div class="card"><h3>{escape(name)}</h3>'
            f'<p class="value">{escape(value)}</p><p>{escape(detail)}</p></div>'
            for name, value, detail in self.cards
        )
        return f'<div class="cards">{"".join(cards)}</div>'

    def markdown(self) -> str:
        cards = (map(plain, card) for card in self.cards)
        return "\n".join(f"- {name}: **{value}**. {detail}" for name, value, detail in cards)


class Facts(NamedTuple):
    """Names and what they are."""

    items: Sequence[tuple[str, str]]

    def html(self) -> str:
        items = ""
        for name, value in self.items:
            words = escape(value)
            if value.startswith(("http://", "https://")):
                words = f'<a href="{words}">{words}</a>'
            items += f"<dt>{escape(name)}</dt><dd>{words}</dd>"
        return f"<dl>{items}</dl>"

    def markdown(self) -> str:
        return "\n".join(f"- {plain(name)}: {plain(value)}" for name, value in self.items)


class Table(NamedTuple):
    """numbers: the columns from .. to that are flush right. strong: the first cell of the row that
    stands out. folded: the page opens it on demand, under this title. roomy: a column that the page
    leaves out where the window is narrow. Nothing is written of a table without rows."""

    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    numbers: tuple[int, int | None] = (1, None)
    strong: object = None
    folded: str = ""
    roomy: str = ""

    def html(self) -> str:
        if not self.rows:
            return ""
        kinds = ["roomy" * (name == self.roomy) for name in self.head]
        numbers = slice(*self.numbers)
        kinds[numbers] = ["number"] * len(kinds[numbers])

        def row(cell: str, values: Sequence[object], kind: str = "") -> str:
            cells = (
                f'<{cell} class="{kind}">{escape(str(value))}</{cell[:2]}>'
                for value, kind in zip(values, kinds, strict=True)
            )
            return f"<tr{kind}>{''.join(cells)}</tr>"

        rows = [row("td", r, ' class="strong"' * (r[0] == self.strong)) for r in self.rows]
        head = row('th scope="col"', self.head)
        table = (
            f'<div class="scroll" tabindex="0"><table><thead>{head}</thead>'
            f"<tbody>{''.join(rows)}</tbody></table></div>"
        )
        if not self.folded:
            return table
        return f"<details><summary>{escape(self.folded)}</summary>{table}</details>"

    def markdown(self) -> str:
        if not self.rows:
            return ""
        sides, numbers = ["---"] * len(self.head), slice(*self.numbers)
        sides[numbers] = ["---:"] * len(sides[numbers])
        rows = [[plain(name) for name in self.head], sides]
        for row in self.rows:
            mark = "**" if row[0] == self.strong else ""
            rows.append([f"{mark}{plain(str(cell))}{mark}" if cell != "" else "" for cell in row])
        title = f"### {plain(self.folded)}\n\n" if self.folded else ""
        return title + "\n".join(f"| {' | '.join(row)} |" for row in rows)


WORDS: Final = (0, 0)
"""`Table.numbers` of a table that has none."""


class Figure(NamedTuple):
    """A picture. words: what it shows and how to read it. legend: (class of style.css, meaning).
    table: the same in numbers, which Markdown shows in place of the picture. wide: drawn for a wide
    window, and scrolled in a narrow one."""

    title: str
    words: str
    picture: Svg
    legend: Sequence[tuple[str, str]] = ()
    table: Table | None = None
    wide: bool = False

    def html(self) -> str:
        signs = "".join(
            f'<li><svg viewBox="0 0 22 12" aria-hidden="true">{_sign(kind)}</svg>{escape(meaning)}'
            "</li>"
            for kind, meaning in self.legend
        )
        legend = f'<ul class="legend">{signs}</ul>' if signs else ""
        words = f"<figcaption>{escape(self.words)}</figcaption>" if self.words else ""
        picture = str(self.picture)
        if self.wide:
            picture = f'<div class="scroll" tabindex="0">{picture}</div>'
        return f"<figure><h3>{escape(self.title)}</h3>{words}{legend}{picture}</figure>"

    def markdown(self) -> str:
        title, words = plain(self.title), plain(self.words)
        if self.table is None:
            return f"*{title}* (picture). {words}".strip()
        return "\n\n".join(filter(None, (f"### {title}", words, self.table.markdown())))


def _sign(kind: str) -> str:
    """The mark before a legend's words: the shape in the picture."""
    first = kind.split()[0]
    if first in _LINES:
        return f'<line x1="0" y1="6" x2="22" y2="6" class="{kind}"/>'
    if first in _SHAPES:
        return f'<path d="{_SHAPES[first]}" class="{kind}"/>'
    return f'<circle cx="11" cy="6" r="{2.6 if first == "single" else 4.4}" class="{kind}"/>'


class Gallery(NamedTuple):
    """Small pictures side by side, as many as the window has room for; large: two at most."""

    figures: Sequence[Figure]
    large: bool = False

    def html(self) -> str:
        figures = "".join(figure.html() for figure in self.figures)
        return f'<div class="gallery{" large" * self.large}">{figures}</div>'

    def markdown(self) -> str:
        if any(figure.table is None for figure in self.figures):
            return "\n".join(f"- {figure.markdown()}" for figure in self.figures)
        return "\n\n".join(figure.markdown() for figure in self.figures)


Block: TypeAlias = Text | Note | Code | Cards | Facts | Table | Figure | Gallery
