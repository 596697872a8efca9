"""Pictures as SVG, for inside the page: shapes have classes, and the page's style gives them their
colours, light or dark. Axes are linear, logarithmic, or have one place for each choice."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from tracking.report.formatting import escape, is_number, quantity, score, setting, short
from tracking.result import Choices as ChoicesDimension
from tracking.result import Dimension, ParameterValue

_BELOW: Final = 17  # from an axis to its words' baseline
_EDGE: Final = 0.96  # words beyond end where the picture does
_ROW: Final = 44.0
_ROWS_WIDTH: Final = 400.0
_ROWS_EDGE: Final = 14.0  # half a tick's words

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
        if "nan" in map(_n, attributes.values()):
            return
        placed = "".join(f' {k.replace("_", "-")}="{_n(v)}"' for k, v in attributes.items())
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


def _n(value: float | str) -> str:
    """A tenth of a pixel is fine enough."""
    text = value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


class Linear(NamedTuple):
    """A linear axis, low < high."""

    low: float
    high: float
    whole: bool = False

    def place(self, value: object) -> float:
        return (value - self.low) / (self.high - self.low) if is_number(value) else math.nan

    def ticks(self, most: int) -> list[tuple[ParameterValue, str]]:
        # 1, 2 or 5 times a power of ten.
        raw = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(n * power for n in (1, 2, 5, 10) if n * power >= raw * (1 - 1e-9))
        step = max(1.0, step) if self.whole else step
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        large = max(abs(self.low), abs(self.high)) >= 1e5 or digits > 5
        values = [number * step for number in range(first, last + 1)]
        return [(v, quantity(v) if large else f"{v:.{digits}f}") for v in values]


class Log(NamedTuple):
    """A logarithmic axis, 0 < low < high."""

    low: float
    high: float

    def place(self, value: object) -> float:
        if not is_number(value) or value <= 0:
            return math.nan
        return math.log(value / self.low) / math.log(self.high / self.low)

    def ticks(self, most: int) -> list[tuple[ParameterValue, str]]:
        first = math.ceil(math.log10(self.low) - 1e-9)
        last = math.floor(math.log10(self.high) + 1e-9)
        values = [10.0**power for power in range(first, last + 1)]
        if len(values) < 2:
            values = [self.low, math.sqrt(self.low * self.high), self.high]
        every = math.ceil(len(values) / most)
        return [(value, quantity(float(f"{value:.2g}"))) for value in values[::every]]


class Choices(NamedTuple):
    """An axis of choices in equal steps."""

    values: tuple[ParameterValue, ...]

    def place(self, value: object) -> float:
        # 1 is not True here.
        same = [c == value and isinstance(c, bool) == isinstance(value, bool) for c in self.values]
        return (same.index(True) + 0.5) / len(same) if any(same) else math.nan

    def ticks(self, most: int) -> list[tuple[ParameterValue, str]]:
        every = math.ceil(len(self.values) / most)
        return [(value, setting(value)) for value in self.values[::every]]


Scale: TypeAlias = Linear | Log | Choices
"""`place` of a value is 0 .. 1, NaN where it has none: not finite, or no choice. `ticks` are values
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
    numbers = [value for value in numbers if value > 0 or not dimension.log]
    low, high = min(numbers, default=0.0), max(numbers, default=1.0)
    if dimension.type == "int" and not dimension.log and high - low <= 12:
        return Choices(tuple(range(int(low), int(high) + 1)))
    return Log(low, high) if dimension.log and low < high else around(numbers, share=0.0)


def around(
    values: Iterable[object], share: float = 0.06, least: float = 1e-9, whole: bool = False
) -> Linear:
    """A scale from the least to the greatest value, and a margin.

    Args:
        values: Those that are finite count; none: 0 .. 1.
        share: The margin on either side, as a share of the values' span.
        least: Minimum distance of the two ends, before the margin.
        whole: Whether they are whole numbers, such as epochs.
    """
    finite = [value for value in values if is_number(value)]
    if not finite:
        return Linear(0.0, 1.0)
    low, high = min(finite), max(finite)
    missing = max(0.0, least - (high - low))
    if high - low + missing <= 1e-12 * max(1.0, abs(high)):
        missing = abs(high) / 10 or 1.0
    margin = missing / 2 + share * (high - low + missing)
    return Linear(low - margin, high + margin, whole)


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
        for value, words in y.ticks(5):
            self.level(value, "grid")
            height = self.at(None, value)[1] + 4
            self.add("text", "tick", words, x=self.left - 8, y=height, text_anchor="end")
        self.path([(self.left, self.bottom), (self.right, self.bottom)], "axis")
        below = self.bottom + _BELOW
        for value, words in x.ticks(10 if names else 5):
            across = self.at(value, None)[0]
            self.path([(across, self.bottom), (across, self.bottom + 4)], "axis")
            side, shift = ("middle", 0) if x.place(value) < _EDGE else ("end", 5)
            self.add("text", "tick", short(words, 12), x=across + shift, y=below, text_anchor=side)
        if names:
            height = below + _BELOW
            self.add("text", "label", names[0], x=self.right, y=height, text_anchor="end")
            self.add("text", "label", names[1], x=self.left, y=self.top - 10)

    def at(self, x: object, y: object) -> Point:
        """The pixels of two values; NaN where one has no place."""
        across = self.left + self.x.place(x) * (self.right - self.left)
        return across, self.bottom - self.y.place(y) * (self.bottom - self.top)

    def level(self, y: object, kind: str) -> None:
        """A line across, at a value on the y axis."""
        height = self.at(None, y)[1]
        self.path([(self.left, height), (self.right, height)], kind)


class Row(NamedTuple):
    """single: the values that `value` is a mean of; before: what was thought earlier. low and high
    None or NaN: no interval."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    single: tuple[float, ...] = ()
    before: float | None = None
    strong: bool = False
    figure: str = ""
    """`value` as words, at the row's right end, if not as a score"""
    title: str = ""

    def values(self) -> tuple[float | None, ...]:
        """All that is drawn of it."""
        return (self.value, self.low, self.high, self.before, *self.single)


def rows_picture(
    rows: Sequence[Row], scale: Linear, label: str, axis: str, bars: bool = False
) -> Svg:
    """Draw rows of values with their intervals.

    Args:
        rows: Rows from top to bottom.
        scale: Scale of all values.
        label: Title of the picture.
        axis: Name of the axis.
        bars: Bars from 0 in place of points.
    """
    bottom = 4 + _ROW * len(rows)
    d = Svg(_ROWS_WIDTH, bottom + 42, label)

    def x(value: object) -> float:
        return _ROWS_EDGE + min(max(scale.place(value), 0.0), 1.0) * (_ROWS_WIDTH - 2 * _ROWS_EDGE)

    for value, words in scale.ticks(5):
        d.path([(x(value), 4), (x(value), bottom)], "grid")
        d.add("text", "tick", words, x=x(value), y=bottom + 16, text_anchor="middle")
    d.add("text", "label", axis, x=_ROWS_WIDTH, y=bottom + 35, text_anchor="end")
    for index, row in enumerate(rows):
        y = 4 + _ROW * (index + 0.72)
        kind = "strong" if row.strong else "plain"
        figure = row.figure or score(row.value)
        title = row.title or f"{row.label}: {figure}"
        d.add("text", f"name {kind} halo", short(row.label, 34), x=0, y=y - 14)
        d.add("text", f"figure {kind} halo", figure, x=_ROWS_WIDTH, y=y - 14, text_anchor="end")
        if bars:
            width = max(x(row.value) - x(0.0), 1)
            d.add("rect", f"bar {kind}", title, x=x(0.0), y=y - 7, width=width, height=14)
        ends = x(row.low), x(row.high)
        d.path([(end, y) for end in ends], f"interval {kind}", title)
        for end in ends:
            d.path([(end, y - 5), (end, y + 5)], f"interval {kind}")
        for single in row.single:
            d.add("circle", "single", cx=x(single), cy=y, r=2.6)
        before = x(row.before)
        corners = [(before - 5, y), (before, y - 5), (before + 5, y), (before, y + 5)]
        d.path([*corners, corners[0]], "before", title)
        if not bars:
            d.add("circle", f"point {kind}", title, cx=x(row.value), cy=y, r=5)
    return d
