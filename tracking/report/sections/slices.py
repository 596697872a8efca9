"""Slices: the value against each setting alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tracking.report.blocks import Block, Figure, Gallery, Text, note
from tracking.report.charts.axes import Choices, Frame, Linear, around, of_dimension
from tracking.report.charts.svg import Svg
from tracking.report.formatting import count, listed, score, setting
from tracking.report.selectors import complete, explained, in_state, is_winner, reached
from tracking.result import StudyResult, TrialRecord
from tracking.tags import COMPLETE, PRUNED

_WIDTH: Final = 290.0
_HEIGHT: Final = 190.0


def slices_blocks(result: StudyResult) -> Iterator[Block]:
    trials = complete(result)
    if not trials or not result.space:
        yield note(
            "No trial is complete, so there is no slice to draw."
            if not trials
            else "Nothing was searched, so there is no slice to draw."
        )
        return
    pruned = [trial for trial in in_state(result, PRUNED) if reached(trial) is not None]
    values = [value for trial in (*trials, *pruned) if (value := reached(trial)) is not None]
    up = around(values, least=0.02)
    yield Text(
        "Validation UAR against one setting at a time, whatever the others were."
        + (" Hollow points are pruned trials at their last value." if pruned else "")
        + " The ringed one is the winner."
    )
    used = [n for n in result.space if any(n in trial.params for trial in (*trials, *pruned))]
    yield Gallery(tuple(_figure(result, name, trials, pruned, up) for name in used))
    if unused := [name for name in result.space if name not in used]:
        yield note(f"No trial had a use for {listed(unused)}.")


def _figure(
    result: StudyResult, name: str, trials: list[TrialRecord], pruned: list[TrialRecord], up: Linear
) -> Figure:
    having = [trial for trial in (*pruned, *trials) if name in trial.params]
    without = len(trials) + len(pruned) - len(having)
    across = of_dimension(result.space[name], [trial.params[name] for trial in having])
    d = Svg(_WIDTH, _HEIGHT, f"Validation UAR against {name}")
    frame = Frame(d, 42, 12, _WIDTH - 6, _HEIGHT - 26, across, up)
    frame.axes(most=(5, 5))
    for trial in having:
        place = frame.at(trial.params[name], reached(trial))
        if place is None:
            continue
        x, y = place
        if isinstance(across, Choices):  # side by side, where many share a value
            room = (frame.right - frame.left) / max(len(across.values), 1)
            x += (trial.number * 7 % 11 - 5) / 5 * min(14.0, room / 4)
        kind = "complete" if trial.state == COMPLETE else "pruned"
        value = setting(trial.params[name])
        title = f"trial {trial.number}: {name} {value}, {score(reached(trial))}"
        if is_winner(result, trial):
            d.circle((x, y), 7.5, "ring")
        d.circle((x, y), 3.6 if kind == "complete" else 3.2, kind, title)
    words = explained(name)
    words = words[:1].upper() + words[1:] + "." if words else ""
    if without:
        words += f" {count(without, 'trial')} had no use for it."
    return Figure(name, words.strip(), str(d))
