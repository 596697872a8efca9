"""What the searched settings did: their importance, the value against each of them alone, and each
complete trial as a line through its settings to its value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tracking.report.blocks import Block, Figure, Gallery, Note, Table, Text
from tracking.report.charts import intervals
from tracking.report.charts.axes import Choices, Frame, Linear, Scale, around, of_dimension
from tracking.report.charts.intervals import Row
from tracking.report.charts.svg import Point, Svg
from tracking.report.formatting import count, is_number, listed, percent, score, setting, short
from tracking.report.selectors import complete, explained, in_state, reached, settings, winner
from tracking.result import StudyResult, TrialRecord
from tracking.tags import COMPLETE, PRUNED

_UNUSED: Final = 0.07
"""The part of an axis, at its low end, where trials pass that have no use for the setting."""

_GOOD: Final = 0.25
_ONE_ROW: Final = 9


def importance_blocks(result: StudyResult) -> Iterator[Block]:
    importances = result.importances
    values = {k: value for k, value in importances.values.items() if is_number(value.mean)}
    trials = count(importances.trials, "complete trial")
    if not values:
        yield Note(f"Too few trials: of {trials} nothing can be said about what mattered.")
        return
    if not importances.enough:
        yield Note(
            f"Too few trials: of {trials} the intervals are so wide that the order below is"
            " arbitrary. Do not choose a setting by it."
        )
    rows = [
        Row(
            name,
            100 * value.mean,
            percent(value.mean),
            100 * value.low,
            100 * value.high,
            title=f"{name}, {explained(name)}" if explained(name) else name,
            strong=importances.enough and index == 0,
        )
        for index, (name, value) in enumerate(values.items())
    ]
    highest = max(max(row.value, row.high or 0.0) for row in rows)
    scale = Linear(0.0, min(100.0, max(highest, 10.0) * 1.04))
    label = "Share of the difference between good trials and all trials"
    yield Figure(
        label,
        f"{importances.method}, over {trials}; lines are {percent(0.95)} intervals of bootstrap"
        " samples of the trials. A setting that the search kept in a narrow range seems less"
        " important than it is.",
        intervals.draw(rows, scale, label, "importance [%]", bars=True),
        table=Table(
            ("setting", "importance", "95 % interval"),
            [
                (name, percent(value.mean), f"{percent(value.low)} to {percent(value.high)}")
                for name, value in values.items()
            ],
        ),
    )


def slices_blocks(result: StudyResult) -> Iterator[Block]:
    whole = complete(result)
    if not whole or not result.space:
        why = "Nothing was searched" if whole else "No trial is complete"
        yield Note(f"{why}, so there is no slice to draw.")
        return
    pruned = [trial for trial in in_state(result, PRUNED) if reached(trial) is not None]
    trials = [*pruned, *whole]
    yield Text(
        "Validation UAR against one setting at a time, whatever the others were."
        + (" Hollow points are pruned trials at their last value." if pruned else "")
        + " The ringed one is the winner."
    )
    used = [name for name in result.space if any(name in trial.params for trial in trials)]
    yield Gallery([_slice(result, name, trials) for name in used])
    if unused := [name for name in result.space if name not in used]:
        yield Note(f"No trial had a use for {listed(unused)}.")


def _slice(result: StudyResult, name: str, trials: list[TrialRecord]) -> Figure:
    having = [trial for trial in trials if name in trial.params]
    across = of_dimension(result.space[name], [trial.params[name] for trial in having])
    frame = Frame(
        f"Validation UAR against {name}", across, around(map(reached, trials), least=0.02)
    )
    best = winner(result)
    for trial in having:
        x, y = frame.at(trial.params[name], reached(trial))
        if isinstance(across, Choices):  # side by side, where many share a value
            room = (frame.right - frame.left) / len(across.values)
            x += (trial.number * 7 % 11 - 5) / 5 * min(14.0, room / 4)
        if trial is best:
            frame.add("circle", "ring", cx=x, cy=y, r=7.5)
        kind, r = ("complete", 3.6) if trial.state == COMPLETE else ("pruned", 3.2)
        value = setting(trial.params[name])
        title = f"trial {trial.number}: {name} {value}, {score(reached(trial))}"
        frame.add("circle", kind, title, cx=x, cy=y, r=r)
    words = explained(name)
    words = words[:1].upper() + words[1:] + "." if words else ""
    if without := len(trials) - len(having):
        words += f" {count(without, 'trial')} had no use for it."
    return Figure(name, words.strip(), frame)


def parallel_blocks(result: StudyResult) -> Iterator[Block]:
    trials = complete(result)
    if not trials or not result.space:
        yield Note(
            "Nothing was searched, so there are no settings to draw."
            if trials
            else "No trial is complete, so there is no line to draw."
        )
        return
    axes = [_Axis(result, name, trials) for name in result.space]
    legend = [("course chosen", "the winner")]
    if len(trials) >= 4:
        legend.append(("course good", "best quarter"))
    if len(trials) >= 2:
        legend.append(("course", "others"))
    words = f"{count(len(trials), 'complete trial')}, from setting to setting to the value."
    if any(axis.partial for axis in axes):
        words += ' Lines that meet at "unused" are of trials that have no use for that setting.'
    picture = _parallel(result, trials, axes)
    yield Figure("Settings and what came of them", words, picture, legend, wide=True)


class _Axis:
    """A setting's axis. partial: some trial has no use for it."""

    def __init__(self, result: StudyResult, name: str, trials: list[TrialRecord]) -> None:
        self.name = name
        values = [trial.params[name] for trial in trials if name in trial.params]
        self.partial = len(values) < len(trials)
        self.scale: Scale = of_dimension(result.space[name], values)

    def place(self, trial: TrialRecord) -> float:
        if self.name not in trial.params:
            return 0.0
        return self.raised(self.scale.place(trial.params[self.name]))

    def raised(self, place: float) -> float:
        """A place above the mark of trials that have no use for the setting, if any."""
        return _UNUSED + (1 - _UNUSED) * place if self.partial else place


def _parallel(result: StudyResult, trials: list[TrialRecord], axes: list[_Axis]) -> Svg:
    value = around([trial.value for trial in trials], least=0.02)
    d = Svg(860, 360, "Parallel coordinates of the complete trials")
    low, high = 330.0, 44.0

    def at(lane: int, place: float) -> Point:
        return 34 + lane * (d.width - 90) / len(axes), low + place * (high - low)

    best, good = winner(result), max(1, round(_GOOD * len(trials))) if len(trials) >= 4 else 0
    for rank, trial in reversed(list(enumerate(trials))):  # the best above the others
        kind = "course chosen" if trial is best else "course good" if rank < good else "course"
        places = [*(axis.place(trial) for axis in axes), value.place(trial.value)]
        title = f"trial {trial.number}, {score(trial.value)}: "
        d.path(
            [at(lane, place) for lane, place in enumerate(places)],
            kind,
            title + settings(trial.params, result.space),
        )
    lanes = [
        (
            short(axis.name, 14),
            "label",
            [(axis.raised(place), words) for place, words in axis.scale.ticks(5)]
            + [(0.0, "unused")] * axis.partial,
        )
        for axis in axes
    ]
    for lane, (name, kind, ticks) in enumerate([*lanes, ("UAR", "label strong", value.ticks(5))]):
        d.path([at(lane, 0), at(lane, 1)], "pole")
        for place, words in ticks:
            x, y = at(lane, place)
            d.path([(x - 3, y), (x + 3, y)], "axis")
            d.add("text", "tick halo", short(words, 12), x=x + 6, y=y + 4)
        # Names of many axes stand in two rows, or they would run into each other.
        above = 32 if len(axes) >= _ONE_ROW and lane % 2 else 18
        x, _ = at(lane, 1)
        d.add("text", kind, name, x=x, y=high - above, text_anchor="middle")
    return d
