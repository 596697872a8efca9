"""A picture as SVG, for inside the page: shapes have classes, and the page's style gives them their
colours, light or dark."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from tracking.report.formatting import visible

Point = tuple[float, float]


@dataclass
class Svg:
    """A picture: elements in the order in which they are drawn, later ones above. Lengths are CSS
    pixels at the picture's full width; y runs downward. What has no place, NaN, is not drawn."""

    width: float
    height: float
    label: str
    """what the picture shows, for who cannot see it"""
    parts: list[str] = field(default_factory=list)

    def add(self, element: str, kind: str, inside: str = "", **attributes: float | str) -> None:
        """An element of SVG.

        Args:
            element: Its name.
            kind: Classes of style.css.
            inside: Words of a text; of other elements, what a pointer that rests there is shown.
            attributes: Its places and sizes, an underscore for a hyphen.
        """
        placed = ""
        for name, value in attributes.items():
            if not isinstance(value, str):
                if math.isnan(value):
                    return
                value = _n(value)
            placed += f' {name.replace("_", "-")}="{value}"'
        words = escape(inside)
        if words and element != "text":
            words = f"<title>{words}</title>"
        self.parts.append(f'<{element}{placed} class="{kind}">{words}</{element}>')

    def path(self, points: Iterable[Point], kind: str, title: str = "") -> None:
        """A polyline.

        Args:
            points: Its corners; nothing is drawn of none.
            kind: Classes of style.css.
            title: Shown to a pointer that rests there.
        """
        course = "L".join(f"{_n(x)} {_n(y)}" for x, y in points if not math.isnan(x + y))
        if course:
            self.add("path", kind, title, d=f"M{course}")

    def __str__(self) -> str:
        return (
            f'<svg viewBox="0 0 {_n(self.width)} {_n(self.height)}" role="img"'
            f' aria-label="{escape(self.label)}">{"".join(self.parts)}</svg>'
        )


def escape(text: str) -> str:
    """Text for HTML and SVG, inside an element or an attribute."""
    return html.escape(visible(text), quote=True)


def _n(value: float) -> str:
    """A tenth of a pixel is fine enough."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text
