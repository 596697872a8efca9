"""How the search went: its trials; what it took, and what pruning saved; what failed, and why."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from tracking.report.blocks import Block, Cards, Figure, Note, Table, Text
from tracking.report.drawing import Frame, around
from tracking.report.formatting import (
    NOTHING,
    count,
    duration,
    hours,
    is_number,
    percent,
    score,
    sentence,
    short,
    thousands,
)
from tracking.report.selectors import complete, in_state, reached, settings, winner
from tracking.result import StudyResult
from tracking.tags import COMPLETE, FAIL, PRUNED

_FAILURES: Final = 15


def history_blocks(result: StudyResult) -> Iterator[Block]:
    values = {
        trial.number: value
        for trial in result.trials
        if trial.state != FAIL and (value := reached(trial)) is not None
    }
    if not values:
        yield Note("No trial came to a value, so there is no history to draw.")
        return
    records: list[tuple[int, float]] = []
    for trial in sorted(complete(result), key=lambda trial: trial.number):
        if not records or values[trial.number] > records[-1][1]:
            records.append((trial.number, values[trial.number]))
    words = f"{count(len(result.trials), 'trial')} of {result.wanted}."
    if records:
        number, value = records[-1]
        later = count(sum(trial.number > number for trial in result.trials), "trial")
        words += f" The best value, {score(value)}, came with trial {number}, {later} before"
        words += " the end."
    if any(trial.number in values for trial in in_state(result, PRUNED)):
        words += " Pruned trials stand at the last value that they reported."
    yield Figure(
        "Validation UAR of each trial",
        words,
        _history(result, values, records),
        _legend(result),
        Table(("trial", "best so far"), [(number, score(value)) for number, value in records]),
        wide=True,
    )
    if len(complete(result)) == 1:
        yield Note("One complete trial is a point, not a course.")


def _legend(result: StudyResult) -> list[tuple[str, str]]:
    states = {trial.state for trial in result.trials}
    signs = (
        (COMPLETE in states, "complete", "complete"),
        (COMPLETE in states, "record", "best so far"),
        (winner(result) is not None, "chosen", "the winner"),
        (PRUNED in states, "pruned", "pruned"),
        (FAIL in states, "failed", "failed"),
        (is_number(result.baseline), "baseline", "logistic regression"),
    )
    return [(kind, meaning) for drawn, kind, meaning in signs if drawn]


def _history(
    result: StudyResult, values: Mapping[int, float], records: list[tuple[int, float]]
) -> Frame:
    last = max(trial.number for trial in result.trials)
    frame = Frame(
        "Validation UAR of each trial, in the order of their numbers",
        around((0, last), 0.02, least=1, whole=True),
        around([*values.values(), result.baseline], least=0.02),
        ("trial", "validation UAR"),
    )
    frame.level(result.baseline, "baseline")
    course: list[tuple[int, float]] = []
    for number, value in records:
        course += [(number, course[-1][1]), (number, value)] if course else [(number, value)]
    course += [(last, value) for _, value in course[-1:]]
    frame.path([frame.at(*corner) for corner in course], "record")
    best = winner(result)
    for trial in result.trials:
        number, reached_value = trial.number, values.get(trial.number)
        x, y = frame.at(number, reached_value)
        if trial.state == FAIL:
            left, right, up, down = x - 4, x + 4, frame.bottom - 11, frame.bottom - 3
            cross = [(left, up), (right, down), (x, (up + down) / 2), (left, down), (right, up)]
            frame.path(cross, "failed", f"trial {number}: {short(trial.reason)}")
            continue
        kind = "complete" if trial.state == COMPLETE else "pruned"
        kind, r = ("chosen", 5.5) if trial is best else (kind, 3.8)
        title = f"trial {number}, {trial.state.lower()}: {settings(trial.params, result.space)}"
        frame.add("circle", kind, f"{score(reached_value)}, {title}", cx=x, cy=y, r=r)
    return frame


def cost_blocks(result: StudyResult) -> Iterator[Block]:
    cost = result.cost
    trained, planned = cost.epochs_trained, cost.epochs_planned
    saved, pruned = planned - trained, in_state(result, PRUNED)
    on_cpu = cost.device == "cpu"
    time = f"{duration(cost.trial_seconds)} of trials"
    if cost.confirm_seconds:
        time += f", {duration(cost.confirm_seconds)} of confirming"
    if saved > 0:
        worth = ""
        if trained and is_number(cost.trial_seconds):
            pace = duration(saved * cost.trial_seconds / trained)
            worth = f", about {pace} at the pace of the others"
        gain = thousands(saved), f"{percent(saved / planned)} of {thousands(planned)}{worth}."
    elif pruned:
        gain = "0", "What was stopped had trained as much elsewhere."
    else:
        gain = NOTHING, "No trial was stopped early."
    total = hours(cost.trial_seconds + cost.confirm_seconds)
    spent = ("CPU hours" if on_cpu else "GPU hours", total, f"{time}.")
    most = f"Of trials of {result.epochs} epochs at most."
    epochs = ("Epochs trained", thousands(trained), most)
    yield Cards((spent, epochs, ("Epochs saved by pruning", *gain)))
    where = "on CPU cores" if on_cpu else f"on {short(cost.device, 60)}"
    yield Text(f"Hours are the trials' own time {where}, one after the other, without waiting.")
    if pruned:
        middle = sorted(trial.epochs for trial in pruned)[len(pruned) // 2]
        yield Text(
            f"{len(pruned)} of {count(len(result.trials), 'trial')} were pruned by"
            f" {result.pruner}, half of them by epoch {middle} of {result.epochs}."
        )
    if lost := [trial.interruptions for trial in result.trials if trial.interruptions]:
        yield Note(
            f"{count(sum(lost), 'interruption')} in {count(len(lost), 'trial')}: a worker was"
            " lost and another one went on from the newest checkpoint."
        )


def failures_blocks(result: StudyResult) -> Iterator[Block]:
    failed = in_state(result, FAIL)
    if not failed:
        yield Text("No trial failed.")
        return
    yield Text(f"{len(failed)} of {count(len(result.trials), 'trial')} failed.")
    reasons = [sentence(short(t.reason, 200) or "no reason was recorded") for t in failed]
    same = Counter(reasons)
    if len(same) < len(failed):
        yield Table(("reason", "trials"), same.most_common(_FAILURES))
    yield Table(
        ("trial", "after", "reason", "settings"),
        [
            (t.number, count(t.epochs, "epoch"), reason, settings(t.params, result.space))
            for t, reason in zip(failed, reasons, strict=True)
        ],
        (1, 2),
        folded="" if len(failed) <= _FAILURES else "Each of them",
    )
    if len(failed) == len(result.trials):
        yield Note("Every trial failed: look at the first reason before anything is run again.")
