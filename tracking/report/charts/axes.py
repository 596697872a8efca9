"""Axes: the place of a value, 0 .. 1, and the ticks. They are linear, logarithmic, or have one
place for each choice."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from tracking.report.charts.svg import Point, Svg
from tracking.report.formatting import is_number, quantity, setting, short
from tracking.result import Choices as ChoicesDimension
from tracking.result import Dimension, ParameterValue

_BELOW: Final = 17  # from an axis to its words' baseline
_EDGE: Final = 0.96  # words beyond end where the picture does


class Scale(Protocol):
    """An axis."""

    def place(self, value: object) -> float | None:
        """0 .. 1; None for a value that has no place: not finite, or no choice."""

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """Places and their words, at most so many."""


@dataclass(frozen=True)
class Linear:
    """A linear axis, low < high. whole: values are whole numbers, such as epochs."""

    low: float
    high: float
    whole: bool = False

    def place(self, value: object) -> float | None:
        return (value - self.low) / (self.high - self.low) if is_number(value) else None

    def ticks(self, most: int) -> list[tuple[float, str]]:
        step = _step(self.high - self.low, most)
        step = max(1.0, step) if self.whole else step
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        large = max(abs(self.low), abs(self.high)) >= 1e5 or digits > 5
        return [
            (
                (number * step - self.low) / (self.high - self.low),
                quantity(number * step) if large else f"{number * step:.{digits}f}",
            )
            for number in range(first, last + 1)
        ]


@dataclass(frozen=True)
class Log:
    """A logarithmic axis, 0 < low < high."""

    low: float
    high: float

    def place(self, value: object) -> float | None:
        if not is_number(value) or value <= 0:
            return None
        return math.log(value / self.low) / math.log(self.high / self.low)

    def ticks(self, most: int) -> list[tuple[float, str]]:
        first = math.ceil(math.log10(self.low) - 1e-9)
        last = math.floor(math.log10(self.high) + 1e-9)
        powers = list(range(first, last + 1))
        if len(powers) < 2:
            return [(place, text) for place, text in self._few() if -1e-9 <= place <= 1 + 1e-9]
        every = math.ceil(len(powers) / most)
        ticks = []
        for power in powers[::every]:
            place = self.place(10.0**power)
            assert place is not None
            ticks.append((place, quantity(10.0**power)))
        return ticks

    def _few(self) -> list[tuple[float, str]]:
        ends = (self.low, math.sqrt(self.low * self.high), self.high)
        return [(self.place(value) or 0.0, f"{quantity(float(f'{value:.2g}'))}") for value in ends]


@dataclass(frozen=True)
class Choices:
    """An axis of choices in equal steps."""

    values: tuple[ParameterValue, ...]

    def place(self, value: object) -> float | None:
        for index, choice in enumerate(self.values):
            # 1 is not True here.
            if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                return (index + 0.5) / len(self.values)
        return None

    def ticks(self, most: int) -> list[tuple[float, str]]:
        every = math.ceil(len(self.values) / most)
        return [
            ((index + 0.5) / len(self.values), setting(value))
            for index, value in enumerate(self.values)
            if index % every == 0
        ]


def of_dimension(dimension: Dimension, values: Iterable[ParameterValue]) -> Scale:
    """The scale of a searched setting.

    Args:
        dimension: Its range or choices.
        values: Values of the trials; the scale is widened to hold them, as an enqueued one may lie
            outside its range.
    """
    if isinstance(dimension, ChoicesDimension):
        choices = list(dimension.choices)
        for value in values:
            if Choices(tuple(choices)).place(value) is None:
                choices.append(value)
        return Choices(tuple(choices))
    numbers = [value for value in (dimension.low, dimension.high, *values) if is_number(value)]
    if dimension.log:
        numbers = [value for value in numbers if value > 0]
    if not numbers:
        return Linear(0.0, 1.0)
    low, high = min(numbers), max(numbers)
    if dimension.type == "int" and not dimension.log and high - low <= 12:
        return Choices(tuple(range(int(low), int(high) + 1)))
    if dimension.log and low < high:
        return Log(low, high)
    return around((low, high), share=0.0)


def counted(first: int, last: int) -> Linear:
    """A scale of whole numbers, with a little room beside either end.

    Args:
        first: The least of them.
        last: The greatest of them.
    """
    last = max(last, first + 1)
    room = 0.02 * (last - first)
    return Linear(first - room, last + room, whole=True)


def around(values: Sequence[float], share: float = 0.06, least: float = 1e-9) -> Linear:
    """A scale from the least to the greatest value, and a margin.

    Args:
        values: Finite ones; none: 0 .. 1.
        share: The margin on either side, as a share of the values' span.
        least: Minimum distance of the two ends, before the margin.
    """
    if not values:
        return Linear(0.0, 1.0)
    low, high = min(values), max(values)
    missing = max(0.0, least - (high - low))
    if high - low + missing <= 1e-12 * max(1.0, abs(high)):
        missing = abs(high) / 10 or 1.0
    low, high = low - missing / 2, high + missing / 2
    margin = share * (high - low)
    return Linear(low - margin, high + margin)


def _step(span: float, most: int) -> float:
    """1, 2 or 5 times a power of ten."""
    raw = span / max(most, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    return next(times * power for times in (1, 2, 5, 10) if times * power >= raw * (1 - 1e-9))


@dataclass(frozen=True)
class Frame:
    """A rectangle with two axes; left, top, right, bottom in the drawing's pixels."""

    drawing: Svg
    left: float
    top: float
    right: float
    bottom: float
    x: Scale
    y: Scale

    def at(self, x: object, y: object) -> Point | None:
        """Position of a point, in pixels.

        Args:
            x: Its value on the x scale.
            y: Its value on the y scale.

        Returns:
            None where one of its values has no place.
        """
        across, up = self.x.place(x), self.y.place(y)
        if across is None or up is None:
            return None
        return self.across(across), self.up(up)

    def across(self, place: float) -> float:
        """Pixels of a place on the x axis, 0 .. 1."""
        return self.left + place * (self.right - self.left)

    def up(self, place: float) -> float:
        """Pixels of a place on the y axis, 0 .. 1."""
        return self.bottom - place * (self.bottom - self.top)

    def axes(self, across: str = "", up: str = "", most: tuple[int, int] = (8, 5)) -> None:
        """Draw the grid, the ticks and the axes' names.

        Args:
            across: Name of the x axis.
            up: Name of the y axis.
            most: Maximum number of ticks on x and y.
        """
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

    def level(self, y: object, kind: str) -> None:
        """Draw a line across.

        Args:
            y: Its value on the y scale.
            kind: Classes of style.css.
        """
        place = self.y.place(y)
        if place is not None:
            height = self.up(place)
            self.drawing.line((self.left, height), (self.right, height), kind)
