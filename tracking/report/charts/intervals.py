"""A picture of rows, each with a figure and how sure it is: points with intervals, or bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tracking.report.charts.axes import Choices, Frame, Linear
from tracking.report.charts.svg import Svg
from tracking.report.formatting import is_number, short

WIDE: Final = 860.0
NARROW: Final = 350.0

_WIDE_ROW: Final = 34.0
_NARROW_ROW: Final = 50.0


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


def draw(
    rows: Sequence[Row], scale: Linear, label: str, axis: str, *, wide: bool, bars: bool = False
) -> str:
    """Draw rows of values with their intervals, as SVG.

    Args:
        rows: Rows from top to bottom.
        scale: Scale of all values.
        label: Title of the picture.
        axis: Name of the axis.
        wide: Whether labels are at the left, for a wide window; else above the rows.
        bars: Bars from 0 in place of points.
    """
    width, height = (WIDE, _WIDE_ROW) if wide else (NARROW, _NARROW_ROW)
    names = 26 + 8.2 * max(len(row.label) for row in rows)
    left, right = (min(names, 260.0), width - 80) if wide else (2.0, width - 2)
    bottom = 8 + height * len(rows)
    d = Svg(width, bottom + 44, label)
    frame = Frame(d, left, 8, right, bottom, scale, Choices(tuple(range(len(rows)))))
    for place, words in scale.ticks(8 if wide else 5):
        x = frame.across(place)
        d.line((x, 8), (x, bottom), "grid")
        d.text((x, bottom + 17), words, "tick", "middle")
    d.text((right, bottom + 36), axis, "label", "end")
    for index, row in enumerate(rows):
        middle = 8 + height * (index + 0.5)
        kind = "strong" if row.strong else "plain"
        if wide:
            y = middle
            d.text((left - 18, y + 4), short(row.label, 34), f"name {kind}", "end")
            d.text((width, y + 4), row.figure, f"figure {kind}", "end")
        else:
            y = middle + 10
            d.text((left, middle - 8), short(row.label, 34), f"name {kind}")
            d.text((right, middle - 8), row.figure, f"figure {kind}", "end")
        _row(frame, row, y, kind, bars)
    return str(d)


def _row(frame: Frame, row: Row, y: float, kind: str, bars: bool) -> None:
    d = frame.drawing

    def x(value: float) -> float:
        place = frame.x.place(value)
        assert place is not None
        return frame.across(min(max(place, 0.0), 1.0))

    title = row.title or f"{row.label}: {row.figure}"
    if bars:
        start = x(0.0)
        d.rectangle((start, y - 7), (max(x(row.value) - start, 1), 14), f"bar {kind}", title)
    if is_number(row.low) and is_number(row.high):
        assert row.low is not None and row.high is not None
        low, high = x(row.low), x(row.high)
        d.line((low, y), (high, y), f"interval {kind}", title)
        for end in (low, high):
            d.line((end, y - 5), (end, y + 5), f"interval {kind}")
    for value in row.single:
        if is_number(value):
            d.circle((x(value), y), 2.6, "single")
    if row.before is not None and is_number(row.before):
        d.diamond((x(row.before), y), 5, "before", title)
    if not bars:
        d.circle((x(row.value), y), 5, f"point {kind}", title)
