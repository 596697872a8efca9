"""The inner rectangle of a picture with two axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tracking.report.drawing import Drawing, Point
from tracking.report.scales import Scale
from tracking.report.words import short

_BELOW: Final = 17  # from an axis to its words' baseline
_EDGE: Final = 0.96  # words beyond end where the picture does


@dataclass(frozen=True)
class Frame:
    """left, top, right, bottom: of the rectangle, in the drawing's pixels."""

    drawing: Drawing
    left: float
    top: float
    right: float
    bottom: float
    x: Scale
    y: Scale

    def at(self, x: Any, y: Any) -> Point | None:
        """Where a point lies; None where one of its values has no place."""
        across, up = self.x.place(x), self.y.place(y)
        if across is None or up is None:
            return None
        return self.across(across), self.up(up)

    def across(self, place: float) -> float:
        """Pixels, of a place on the x axis, 0 .. 1."""
        return self.left + place * (self.right - self.left)

    def up(self, place: float) -> float:
        """Pixels, of a place on the y axis, 0 .. 1."""
        return self.bottom - place * (self.bottom - self.top)

    def axes(self, across: str = "", up: str = "", most: tuple[int, int] = (8, 5)) -> None:
        """Ticks with their words, and what the axes show. most: ticks on x and y."""
        d = self.drawing
        for place, words in self.y.ticks(most[1]):
            y = self.up(place)
            d.line((self.left, y), (self.right, y), "grid")
            d.text((self.left - 8, y + 4), words, "tick", "end")
        d.line((self.left, self.bottom), (self.right, self.bottom), "axis")
        for place, words in self.x.ticks(most[0]):
            x = self.across(place)
            d.line((x, self.bottom), (x, self.bottom + 4), "axis")
            side, shift = ("middle", 0) if place < _EDGE else ("end", 5)
            d.text((x + shift, self.bottom + _BELOW), short(words, 12), "tick", side)
        if across:
            d.text((self.right, self.bottom + 2 * _BELOW), across, "label", "end")
        if up:
            d.text((self.left, self.top - 10), up, "label")

    def level(self, y: Any, kind: str) -> None:
        """A line across at the height of y."""
        place = self.y.place(y)
        if place is not None:
            height = self.up(place)
            self.drawing.line((self.left, height), (self.right, height), kind)
