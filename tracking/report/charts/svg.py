"""A picture as SVG, for inside the page: shapes have classes, and the page's style gives them their
colours, light or dark."""

from __future__ import annotations

import html
from collections.abc import Sequence

from tracking.report.formatting import visible

Point = tuple[float, float]


class Svg:
    """A picture: elements in the order in which they are drawn, later ones above. Lengths are CSS
    pixels at the picture's full width; y runs downward."""

    def __init__(self, width: float, height: float, label: str) -> None:
        """label: what the picture shows, for who cannot see it."""
        self.width, self.height = width, height
        self._label = label
        self._parts: list[str] = []

    def line(self, a: Point, b: Point, kind: str, title: str = "") -> None:
        """A straight line.

        Args:
            a: One end.
            b: The other one.
            kind: Classes of style.css.
            title: Shown to a pointer that rests there.
        """
        ends = f'x1="{_n(a[0])}" y1="{_n(a[1])}" x2="{_n(b[0])}" y2="{_n(b[1])}"'
        self._add("line", f'{ends} class="{kind}"', title)

    def path(self, points: Sequence[Point], kind: str, title: str = "") -> None:
        """A polyline.

        Args:
            points: Its corners; nothing is drawn of none.
            kind: Classes of style.css.
            title: Shown to a pointer that rests there.
        """
        if points:
            course = "L".join(f"{_n(x)} {_n(y)}" for x, y in points)
            self._add("path", f'd="M{course}" class="{kind}"', title)

    def circle(self, centre: Point, radius: float, kind: str, title: str = "") -> None:
        """A circle.

        Args:
            centre: Its middle.
            radius: Distance from the middle to an edge.
            kind: Classes of style.css.
            title: Shown to a pointer that rests there.
        """
        place = f'cx="{_n(centre[0])}" cy="{_n(centre[1])}" r="{_n(radius)}"'
        self._add("circle", f'{place} class="{kind}"', title)

    def rectangle(
        self, corner: Point, size: Point, kind: str, title: str = "", opacity: float | None = None
    ) -> None:
        """A rectangle along the axes.

        Args:
            corner: The upper left one.
            size: Width and height.
            kind: Classes of style.css.
            title: Shown to a pointer that rests there.
            opacity: Opacity of the fill, 0 .. 1; None leaves that to the style.
        """
        width, height = size
        place = f'x="{_n(corner[0])}" y="{_n(corner[1])}" width="{_n(width)}" height="{_n(height)}"'
        shade = "" if opacity is None else f' fill-opacity="{opacity:.2f}"'
        self._add("rect", f'{place} class="{kind}"{shade}', title)

    def cross(self, centre: Point, radius: float, kind: str, title: str = "") -> None:
        """A cross of two diagonals.

        Args:
            centre: Its middle.
            radius: Distance from the middle to an edge.
            kind: Classes of style.css.
            title: Shown to a pointer that rests there.
        """
        (x, y), r = centre, radius
        falling = f"M{_n(x - r)} {_n(y - r)}L{_n(x + r)} {_n(y + r)}"
        rising = f"M{_n(x - r)} {_n(y + r)}L{_n(x + r)} {_n(y - r)}"
        self._add("path", f'd="{falling}{rising}" class="{kind}"', title)

    def diamond(self, centre: Point, radius: float, kind: str, title: str = "") -> None:
        """A square that stands on a corner.

        Args:
            centre: Its middle.
            radius: Distance from the middle to an edge.
            kind: Classes of style.css.
            title: Shown to a pointer that rests there.
        """
        (x, y), r = centre, radius
        upper = f"M{_n(x - r)} {_n(y)}L{_n(x)} {_n(y - r)}L{_n(x + r)} {_n(y)}"
        self._add("path", f'd="{upper}L{_n(x)} {_n(y + r)}Z" class="{kind}"', title)

    def text(self, place: Point, words: str, kind: str = "", anchor: str = "start") -> None:
        """Words in one line.

        Args:
            place: Anchor of the baseline.
            words: Plain text, escaped here.
            kind: Classes of style.css.
            anchor: One of start, middle and end.
        """
        x, y = _n(place[0]), _n(place[1])
        side = "" if anchor == "start" else f' text-anchor="{anchor}"'
        named = f' class="{kind}"' if kind else ""
        self._parts.append(f'<text x="{x}" y="{y}"{named}{side}>{escape(words)}</text>')

    def __str__(self) -> str:
        return (
            f'<svg viewBox="0 0 {_n(self.width)} {_n(self.height)}" role="img"'
            f' aria-label="{escape(self._label)}">{"".join(self._parts)}</svg>'
        )

    def _add(self, element: str, attributes: str, title: str) -> None:
        if title:
            self._parts.append(
                f"<{element} {attributes}><title>{escape(title)}</title></{element}>"
            )
        else:
            self._parts.append(f"<{element} {attributes}/>")


def escape(text: str) -> str:
    """Text for HTML and SVG, inside an element or an attribute."""
    return html.escape(visible(text), quote=True)


def _n(value: float) -> str:
    """A tenth of a pixel is fine enough."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text
