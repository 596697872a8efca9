"""A picture of rows, each with a figure and how sure it is: points with intervals, or bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tracking.report.charts.axes import Linear
from tracking.report.charts.svg import Svg
from tracking.report.formatting import short

_WIDTH: Final = 400.0
_EDGE: Final = 14.0
_ROW: Final = 44.0


@dataclass(frozen=True)
class Row:
    """figure: as words, at the row's right end. single: the values that `value` is a mean of;
    before: what was thought earlier. low and high None or NaN: no interval."""

    label: str
    value: float
    figure: str
    low: float | None = None
    high: float | None = None
    single: tuple[float, ...] = ()
    before: float | None = None
    strong: bool = False
    title: str = ""

    def values(self) -> tuple[float | None, ...]:
        """All that is drawn of it."""
        return (self.value, self.low, self.high, self.before, *self.single)


def draw(rows: Sequence[Row], scale: Linear, label: str, axis: str, bars: bool = False) -> Svg:
    """Draw rows of values with their intervals.

    Args:
        rows: Rows from top to bottom.
        scale: Scale of all values.
        label: Title of the picture.
        axis: Name of the axis.
        bars: Bars from 0 in place of points.
    """
    bottom = 4 + _ROW * len(rows)
    d = Svg(_WIDTH, bottom + 42, label)

    def x(value: object) -> float:
        return _EDGE + min(max(scale.place(value), 0.0), 1.0) * (_WIDTH - 2 * _EDGE)

    for place, words in scale.ticks(5):
        across = _EDGE + place * (_WIDTH - 2 * _EDGE)
        d.path([(across, 4), (across, bottom)], "grid")
        d.add("text", "tick", words, x=across, y=bottom + 16, text_anchor="middle")
    d.add("text", "label", axis, x=_WIDTH, y=bottom + 35, text_anchor="end")
    for index, row in enumerate(rows):
        y = 4 + _ROW * (index + 0.72)
        kind = "strong" if row.strong else "plain"
        title = row.title or f"{row.label}: {row.figure}"
        d.add("text", f"name {kind} halo", short(row.label, 34), x=0, y=y - 14)
        d.add("text", f"figure {kind} halo", row.figure, x=_WIDTH, y=y - 14, text_anchor="end")
        if bars:
            width = max(x(row.value) - x(0.0), 1)
            d.add("rect", f"bar {kind}", title, x=x(0.0), y=y - 7, width=width, height=14)
        ends = x(row.low), x(row.high)
        d.path([(end, y) for end in ends], f"interval {kind}", title)
        for end in ends:
            d.path([(end, y - 5), (end, y + 5)], f"interval {kind}")
        for value in row.single:
            d.add("circle", "single", cx=x(value), cy=y, r=2.6)
        before = x(row.before)
        corners = [(before - 5, y), (before, y - 5), (before + 5, y), (before, y + 5)]
        d.path([*corners, corners[0]], "before", title)
        if not bars:
            d.add("circle", f"point {kind}", title, cx=x(row.value), cy=y, r=5)
    return d
