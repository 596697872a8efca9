"""Parallel coordinates: each complete trial as a line through its settings to its value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tracking.report.blocks import Block, Figure, note
from tracking.report.charts.axes import Scale, around, of_dimension
from tracking.report.charts.intervals import NARROW, WIDE
from tracking.report.charts.svg import Point, Svg
from tracking.report.formatting import count, score, short
from tracking.report.selectors import complete, is_winner, settings
from tracking.result import StudyResult, TrialRecord

_UNUSED: Final = 0.07
"""The part of an axis, at its low end, where trials pass that have no use for the setting."""

_GOOD: Final = 0.25
_ONE_ROW: Final = 9


def parallel_blocks(result: StudyResult) -> Iterator[Block]:
    trials = complete(result)
    if not trials:
        yield note("No trial is complete, so there is no line to draw.")
        return
    if not result.space:
        yield note("Nothing was searched, so there are no settings to draw.")
        return
    axes = [_Axis(result, name, trials) for name in result.space]
    legend = [
        ("course chosen", "the winner"),
        ("course good", "best quarter"),
        ("course", "others"),
    ]
    if len(trials) < 4:
        del legend[1]
    if len(trials) < 2:
        del legend[1]
    words = f"{count(len(trials), 'complete trial')}, from setting to setting to the value."
    if any(axis.partial for axis in axes):
        words += ' Lines that meet at "unused" are of trials that have no use for that setting.'
    yield Figure(
        "Settings and what came of them",
        words,
        str(_draw(result, trials, axes, wide=True)),
        str(_draw(result, trials, axes, wide=False)),
        tuple(legend),
    )


class _Axis:
    """A setting's axis. partial: some trial has no use for it."""

    def __init__(self, result: StudyResult, name: str, trials: list[TrialRecord]) -> None:
        self.name = name
        values = [trial.params[name] for trial in trials if name in trial.params]
        self.partial = len(values) < len(trials)
        self.scale: Scale = of_dimension(result.space[name], values)

    def place(self, trial: TrialRecord) -> float | None:
        """0 .. 1; None for a value that has no place."""
        if self.name not in trial.params:
            return 0.0
        place = self.scale.place(trial.params[self.name])
        return None if place is None else self.raised(place)

    def raised(self, place: float) -> float:
        """A place above the mark of trials that have no use for the setting, if any."""
        return _UNUSED + (1 - _UNUSED) * place if self.partial else place


def _draw(result: StudyResult, trials: list[TrialRecord], axes: list[_Axis], *, wide: bool) -> Svg:
    """Axes from left to right in a wide window, from top to bottom in a narrow one."""
    value = around([t.value for t in trials if t.value is not None], least=0.02)
    lanes = len(axes) + 1
    if wide:
        d = Svg(WIDE, 360, "Parallel coordinates of the complete trials")
        first, step, low, high = 34.0, (WIDE - 90) / (lanes - 1), 330.0, 44.0
    else:
        d = Svg(NARROW, 58.0 * lanes - 6, "Parallel coordinates of the complete trials")
        first, step, low, high = 24.0, 58.0, 8.0, NARROW - 8

    def at(lane: int, place: float) -> Point:
        along, across = first + lane * step, low + place * (high - low)
        return (along, across) if wide else (across, along)

    count_ = len(trials)
    good = max(1, round(_GOOD * count_)) if count_ >= 4 else 0
    for rank in range(count_ - 1, -1, -1):  # the best above the others
        trial = trials[rank]
        kind = "course"
        if is_winner(result, trial):
            kind += " chosen"
        elif rank < good:
            kind += " good"
        end = value.place(trial.value)
        places = [*(axis.place(trial) for axis in axes), end]
        points = [at(lane, place) for lane, place in enumerate(places) if place is not None]
        title = f"trial {trial.number}, {score(trial.value)}: "
        d.path(points, kind, title + settings(trial.params, result.space))
    for lane in range(lanes):
        axis = axes[lane] if lane < len(axes) else None
        d.line(at(lane, 0), at(lane, 1), "pole")
        ticks = value.ticks(5) if axis is None else axis.scale.ticks(5 if wide else 4)
        for place, words in ticks:
            raised = place if axis is None else axis.raised(place)
            _tick(d, at(lane, raised), short(words, 12), wide)
        if axis is not None and axis.partial:
            _tick(d, at(lane, 0), "unused", wide)
        name = "UAR" if axis is None else short(axis.name, 14)
        strong = "label strong" if axis is None else "label"
        x, y = at(lane, 1 if wide else 0)
        if wide:
            # Names of many axes stand in two rows, or they would run into each other.
            above = 32 if lanes > _ONE_ROW and lane % 2 else 18
            d.text((x, high - above), name, strong, "middle")
        else:
            d.text((low, y - 8), name, f"{strong} halo")
    return d


def _tick(d: Svg, place: Point, words: str, wide: bool) -> None:
    x, y = place
    if wide:
        d.line((x - 3, y), (x + 3, y), "axis")
        d.text((x + 6, y + 4), words, "tick halo")
    else:
        d.line((x, y - 3), (x, y + 3), "axis")
        side = "start" if x < 40 else "end" if x > NARROW - 40 else "middle"
        d.text((x, y + 15), words, "tick halo", side)
