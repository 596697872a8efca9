"""Axes: the place of a value, 0 .. 1, and the ticks. They are linear, logarithmic, or have one
place for each choice."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from tracking.report.charts.svg import Point, Svg
from tracking.report.formatting import is_number, quantity, setting, short
from tracking.result import Choices as ChoicesDimension
from tracking.result import Dimension, ParameterValue

_BELOW: Final = 17  # from an axis to its words' baseline
_EDGE: Final = 0.96  # words beyond end where the picture does


@dataclass(frozen=True)
class Linear:
    """A linear axis, low < high. whole: values are whole numbers, such as epochs."""

    low: float
    high: float
    whole: bool = False

    def place(self, value: object) -> float:
        return (value - self.low) / (self.high - self.low) if is_number(value) else math.nan

    def ticks(self, most: int) -> list[tuple[float, str]]:
        # 1, 2 or 5 times a power of ten.
        raw = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(n * power for n in (1, 2, 5, 10) if n * power >= raw * (1 - 1e-9))
        step = max(1.0, step) if self.whole else step
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        large = max(abs(self.low), abs(self.high)) >= 1e5 or digits > 5
        values = [number * step for number in range(first, last + 1)]
        return [(self.place(v), quantity(v) if large else f"{v:.{digits}f}") for v in values]


@dataclass(frozen=True)
class Log:
    """A logarithmic axis, 0 < low < high."""

    low: float
    high: float

    def place(self, value: object) -> float:
        if not is_number(value) or value <= 0:
            return math.nan
        return math.log(value / self.low) / math.log(self.high / self.low)

    def ticks(self, most: int) -> list[tuple[float, str]]:
        first = math.ceil(math.log10(self.low) - 1e-9)
        last = math.floor(math.log10(self.high) + 1e-9)
        values = [10.0**power for power in range(first, last + 1)]
        if len(values) < 2:
            values = [self.low, math.sqrt(self.low * self.high), self.high]
        every = math.ceil(len(values) / most)
        return [(self.place(value), quantity(float(f"{value:.2g}"))) for value in values[::every]]


@dataclass(frozen=True)
class Choices:
    """An axis of choices in equal steps."""

    values: tuple[ParameterValue, ...]

    def place(self, value: object) -> float:
        for index, choice in enumerate(self.values):
            # 1 is not True here.
            if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                return (index + 0.5) / len(self.values)
        return math.nan

    def ticks(self, most: int) -> list[tuple[float, str]]:
        every = math.ceil(len(self.values) / most)
        return [(self.place(value), setting(value)) for value in self.values[::every]]


Scale: TypeAlias = Linear | Log | Choices
"""`place` of a value is 0 .. 1, NaN where it has none: not finite, or no choice. `ticks` are places
and their words, at most so many."""


def of_dimension(dimension: Dimension, values: Iterable[ParameterValue]) -> Scale:
    """The scale of a searched setting.

    Args:
        dimension: Its range or choices.
        values: Values of the trials; the scale is widened to hold them, as an enqueued one may lie
            outside its range.
    """
    if isinstance(dimension, ChoicesDimension):
        scale = Choices(dimension.choices)
        for value in values:
            if math.isnan(scale.place(value)):
                scale = Choices((*scale.values, value))
        return scale
    numbers = [value for value in (dimension.low, dimension.high, *values) if is_number(value)]
    if dimension.log:
        numbers = [value for value in numbers if value > 0]
    if not numbers:
        return Linear(0.0, 1.0)
    low, high = min(numbers), max(numbers)
    if dimension.type == "int" and not dimension.log and high - low <= 12:
        return Choices(tuple(range(int(low), int(high) + 1)))
    return Log(low, high) if dimension.log and low < high else around(numbers, share=0.0)


def counted(first: int, last: int) -> Linear:
    """A scale of whole numbers, with a little room beside either end.

    Args:
        first: The least of them.
        last: The greatest of them.
    """
    last = max(last, first + 1)
    room = 0.02 * (last - first)
    return Linear(first - room, last + room, whole=True)


def around(values: Iterable[object], share: float = 0.06, least: float = 1e-9) -> Linear:
    """A scale from the least to the greatest value, and a margin.

    Args:
        values: Those that are finite count; none: 0 .. 1.
        share: The margin on either side, as a share of the values' span.
        least: Minimum distance of the two ends, before the margin.
    """
    finite = [value for value in values if is_number(value)]
    if not finite:
        return Linear(0.0, 1.0)
    low, high = min(finite), max(finite)
    missing = max(0.0, least - (high - low))
    if high - low + missing <= 1e-12 * max(1.0, abs(high)):
        missing = abs(high) / 10 or 1.0
    low, high = low - missing / 2, high + missing / 2
    margin = share * (high - low)
    return Linear(low - margin, high + margin)


class Frame(Svg):
    """A picture with two axes, their grid and their ticks."""

    def __init__(
        self, label: str, x: Scale, y: Scale, names: tuple[str, str] | None = None
    ) -> None:
        """names: of the axes. A picture that has them is as wide as the page, one that has none is
        small, for a gallery."""
        super().__init__(*((860, 340) if names else (290, 190)), label)
        self.x, self.y = x, y
        self.left, self.right = 46.0, self.width - 8
        self.top, self.bottom = (26.0, self.height - 40) if names else (12.0, self.height - 26)
        for place, words in y.ticks(5):
            self.level(place, "grid")
            height = self._up(place) + 4
            self.add("text", "tick", words, x=self.left - 8, y=height, text_anchor="end")
        self.level(0.0, "axis")
        below = self.bottom + _BELOW
        for place, words in x.ticks(10 if names else 5):
            across = self._across(place)
            self.path([(across, self.bottom), (across, self.bottom + 4)], "axis")
            side, shift = ("middle", 0) if place < _EDGE else ("end", 5)
            self.add("text", "tick", short(words, 12), x=across + shift, y=below, text_anchor=side)
        if names:
            height = below + _BELOW
            self.add("text", "label", names[0], x=self.right, y=height, text_anchor="end")
            self.add("text", "label", names[1], x=self.left, y=self.top - 10)

    def at(self, x: object, y: object) -> Point:
        """The pixels of two values; NaN where one has no place."""
        return self._across(self.x.place(x)), self._up(self.y.place(y))

    def level(self, place: float, kind: str) -> None:
        """A line across, at a place on the y axis."""
        height = self._up(place)
        self.path([(self.left, height), (self.right, height)], kind)

    def _across(self, place: float) -> float:
        return self.left + place * (self.right - self.left)

    def _up(self, place: float) -> float:
        return self.bottom - place * (self.bottom - self.top)
