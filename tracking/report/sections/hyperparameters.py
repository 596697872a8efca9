"""What the searched settings did: their importance, the value against each of them alone, and each
complete trial as a line through its settings to its value."""

from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

from tracking.report import drawing
from tracking.report.blocks import WORDS, Block, Figure, Gallery, Note, Table, Text
from tracking.report.formatting import (
    count,
    is_number,
    listed,
    percent,
    score,
    sentence,
    setting,
    short,
)
from tracking.report.selectors import complete, explained, in_state, reached, settings, winner
from tracking.result import (
    LARGER,
    SMALLER,
    UNKNOWN,
    UNSEEN,
    Importance,
    ParameterValue,
    StudyResult,
    TrialRecord,
)
from tracking.tags import COMPLETE, PRUNED

_UNUSED: Final = 0.07
"""The part of an axis, at its low end, where trials pass that have no use for the setting."""

_VERDICTS: Final = {
    LARGER: "larger than the noise",
    SMALLER: "smaller than the noise",
    UNSEEN: "no effect seen",
    UNKNOWN: "an effect; noise unknown",
}

_QUARTERS: Final = 4
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
    yield from _shares(result, values, trials)
    yield from _effects(result)


def _shares(result: StudyResult, values: Mapping[str, Importance], trials: str) -> Iterator[Block]:
    importances = result.importances
    rows = [
        drawing.Row(
            name,
            100 * value.mean,
            100 * value.low,
            100 * value.high,
            figure=percent(value.mean),
            title=", ".join(filter(None, (name, explained(name)))),
            strong=importances.enough and index == 0,
        )
        for index, (name, value) in enumerate(values.items())
    ]
    highest = max(max(row.value, row.high or 0.0) for row in rows)
    scale = drawing.Linear(0.0, min(100.0, max(highest, 10.0) * 1.04))
    label = "Share of the difference between good trials and all trials"
    yield Figure(
        label,
        f"{importances.method}, over {trials}; lines are {percent(0.95)} intervals of bootstrap"
        " samples of the trials. A setting that the search kept in a narrow range seems less"
        " important than it is.",
        drawing.rows_picture(rows, scale, label, "importance [%]", bars=True),
        table=Table(
            ("setting", "importance", "95 % interval"),
            [
                (name, percent(value.mean), f"{percent(value.low)} to {percent(value.high)}")
                for name, value in values.items()
            ],
        ),
    )


def _effects(result: StudyResult) -> Iterator[Block]:
    """Of each setting whether its effect is larger than the noise of the seed."""
    if not result.effects:
        return
    noise = None if result.confirm is None else result.confirm.noise
    measured = (
        "the noise of the seed was not measured: confirm with two seeds or more"
        if noise is None
        else f"the seed alone moves a value by {score(noise)} (standard deviation, from confirming)"
    )
    yield Text(
        f"Effect and noise: {measured}. An effect is the standard deviation of the complete trials'"
        " values by a fit of this setting alone; whether there is one is a permutation test at 5 %,"
        " corrected for the number of settings."
    )
    yield Table(
        ("setting", "effect", "p", "beside the noise"),
        [
            (name, score(effect.deviation), score(effect.p), _VERDICTS[effect.verdict])
            for name, effect in result.effects.items()
        ],
        WORDS,
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
    up = drawing.around(map(reached, trials), least=0.02)
    across = drawing.of_dimension(result.space[name], [trial.params[name] for trial in having])
    frame = drawing.Frame(f"Validation UAR against {name}", across, up)
    best = winner(result)
    for trial in having:
        x, y = frame.at(trial.params[name], reached(trial))
        if isinstance(across, drawing.Choices):  # side by side, where many share a value
            room = (frame.right - frame.left) / len(across.values)
            x += (trial.number * 7 % 11 - 5) / 5 * min(14.0, room / 4)
        if trial is best:
            frame.add("circle", "ring", cx=x, cy=y, r=7.5)
        kind, r = ("complete", 3.6) if trial.state == COMPLETE else ("pruned", 3.2)
        value = setting(trial.params[name])
        title = f"trial {trial.number}: {name} {value}, {score(reached(trial))}"
        frame.add("circle", kind, title, cx=x, cy=y, r=r)
    words = sentence(explained(name))
    if without := len(trials) - len(having):
        words += f" {count(without, 'trial')} had no use for it."
    return Figure(name, words.strip(), frame)


def parallel_blocks(result: StudyResult) -> Iterator[Block]:
    trials = complete(result)
    if not trials or not result.space:
        nothing = "No trial is complete, so there is no line"
        if trials:
            nothing = "Nothing was searched, so there are no settings"
        yield Note(f"{nothing} to draw.")
        return
    legend = [("course chosen", "the winner")]
    if len(trials) >= _QUARTERS:
        legend.append(("course good", "best quarter"))
    if len(trials) > 1:
        legend.append(("course", "others"))
    words = f"{count(len(trials), 'complete trial')}, from setting to setting to the value."
    if any(name not in trial.params for trial in trials for name in result.space):
        words += ' Lines that meet at "unused" are of trials that have no use for that setting.'
    title = "Settings and what came of them"
    yield Figure(title, words, _parallel(result, trials), legend, wide=True)


_Lane: TypeAlias = tuple[str, list[tuple[float, str]], list[float]]
"""Name and ticks of an axis, and the place of each trial on it."""


def _lane(result: StudyResult, name: str, trials: list[TrialRecord]) -> _Lane:
    """A setting's axis. Trials that have no use for it pass below its scale."""
    values = [trial.params[name] for trial in trials if name in trial.params]
    scale = drawing.of_dimension(result.space[name], values)
    foot = _UNUSED if len(values) < len(trials) else 0.0

    def place(value: ParameterValue) -> float:
        return foot + (1 - foot) * scale.place(value)

    ticks = [(place(value), words) for value, words in scale.ticks(5)]
    places = [place(t.params[name]) if name in t.params else 0.0 for t in trials]
    return (short(name, 14), ticks + [(0.0, "unused")] * (foot > 0), places)


def _parallel(result: StudyResult, trials: list[TrialRecord]) -> drawing.Svg:
    value = drawing.around([trial.value for trial in trials], least=0.02)
    lanes = [_lane(result, name, trials) for name in result.space]
    ticks = [(value.place(tick), words) for tick, words in value.ticks(5)]
    lanes.append(("UAR", ticks, [value.place(trial.value) for trial in trials]))
    d = drawing.Svg(860, 360, "Parallel coordinates of the complete trials")
    low, high = 330.0, 44.0

    def at(lane: int, place: float) -> drawing.Point:
        return 34 + lane * (d.width - 90) / (len(lanes) - 1), low + place * (high - low)

    best = winner(result)
    good = round(len(trials) / _QUARTERS) if len(trials) >= _QUARTERS else 0
    for rank, trial in reversed(list(enumerate(trials))):  # the best above the others
        kind = "course chosen" if trial is best else "course good" if rank < good else "course"
        points = [at(n, places[rank]) for n, (_, _, places) in enumerate(lanes)]
        title = settings(trial.params, result.space)
        d.path(points, kind, f"trial {trial.number}, {score(trial.value)}: {title}")
    for n, (name, ticks, _) in enumerate(lanes):
        d.path([at(n, 0), at(n, 1)], "pole")
        for place, words in ticks:
            x, y = at(n, place)
            d.path([(x - 3, y), (x + 3, y)], "axis")
            d.add("text", "tick halo", short(words, 12), x=x + 6, y=y + 4)
        # Names of many axes stand in two rows, or they would run into each other.
        y = high - (32 if len(lanes) > _ONE_ROW and n % 2 else 18)
        kind = "label strong" if n == len(lanes) - 1 else "label"
        d.add("text", kind, name, x=at(n, 1)[0], y=y, text_anchor="middle")
    return d
