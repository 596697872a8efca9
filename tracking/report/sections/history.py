"""How the search went, trial by trial."""

from __future__ import annotations

from collections.abc import Iterator

from tracking.report.blocks import Block, Figure, Table, Text, columns, note, numbers
from tracking.report.charts.axes import Frame, around, counted
from tracking.report.charts.intervals import NARROW, WIDE
from tracking.report.charts.svg import Point, Svg
from tracking.report.formatting import count, is_number, score, short
from tracking.report.selectors import complete, is_winner, reached, settings, winner
from tracking.result import StudyResult, TrialRecord
from tracking.tags import COMPLETE, FAIL, PRUNED

_KINDS = {COMPLETE: "complete", PRUNED: "pruned"}


def history_blocks(result: StudyResult) -> Iterator[Block]:
    ended = [t for t in result.trials if t.state != FAIL and reached(t) is not None]
    if not ended:
        yield note("No trial came to a value, so there is no history to draw.")
        return
    records = _records(result)
    last = records[-1] if records else None
    words = f"{count(len(result.trials), 'trial')} of {result.wanted}."
    if last is not None:
        words += (
            f" The best value, {score(last[1])}, came with trial {last[0]},"
            f" {count(sum(t.number > last[0] for t in result.trials), 'trial')} before the end."
        )
    if any(trial.state == PRUNED for trial in ended):
        words += " Pruned trials stand at the last value that they reported."
    yield Figure(
        "Validation UAR of each trial",
        words,
        str(_draw(result, ended, records, wide=True)),
        str(_draw(result, ended, records, wide=False)),
        tuple(_legend(result)),
        Table(
            (*columns("trial"), *numbers("best so far")),
            tuple((str(number), score(value)) for number, value in records),
        ),
    )
    if len(complete(result)) == 1:
        yield Text("One complete trial is a point, not a course.", "note")


def _legend(result: StudyResult) -> Iterator[tuple[str, str]]:
    states = {trial.state for trial in result.trials}
    if COMPLETE in states:
        yield "complete", "complete"
        yield "record", "best so far"
    if winner(result) is not None:
        yield "chosen", "the winner"
    if PRUNED in states:
        yield "pruned", "pruned"
    if FAIL in states:
        yield "failed", "failed"
    if is_number(result.baseline):
        yield "baseline", "logistic regression"


def _records(result: StudyResult) -> list[tuple[int, float]]:
    """Complete trials that were better than all before them."""
    records: list[tuple[int, float]] = []
    for trial in sorted(complete(result), key=lambda trial: trial.number):
        if (value := reached(trial)) is not None and (not records or value > records[-1][1]):
            records.append((trial.number, value))
    return records


def _draw(
    result: StudyResult, ended: list[TrialRecord], records: list[tuple[int, float]], *, wide: bool
) -> Svg:
    width, height = (WIDE, 340.0) if wide else (NARROW, 280.0)
    values = [value for trial in ended if (value := reached(trial)) is not None]
    if is_number(result.baseline):
        values.append(result.baseline)
    last = max(trial.number for trial in result.trials)
    d = Svg(width, height, "Validation UAR of each trial, in the order of their numbers")
    frame = Frame(
        d,
        44,
        26,
        width - 8,
        height - 40,
        counted(0, last),
        around(values, least=0.02),
    )
    frame.axes("trial", "validation UAR", (10 if wide else 5, 5))
    if is_number(result.baseline):
        frame.level(result.baseline, "baseline")
    course: list[Point] = []
    for (_, before), (number, value) in zip([(0, 0.0), *records], records, strict=False):
        if course:
            course.append(_point(frame, number, before))
        course.append(_point(frame, number, value))
    if records:
        course.append(_point(frame, last, records[-1][1]))
    d.path(course, "record")
    for trial in result.trials:
        value, number = reached(trial), trial.number
        title = f"trial {number}, {trial.state.lower()}: {settings(trial.params, result.space)}"
        if trial.state == FAIL or value is None:
            if trial.state == FAIL:
                across = frame.x.place(number)
                assert across is not None
                place = (frame.across(across), frame.bottom - 7)
                d.cross(place, 4, "failed", f"trial {number}: {short(trial.reason)}")
            continue
        kind = _KINDS.get(trial.state, "pruned")
        if is_winner(result, trial):
            kind = "chosen"
        radius = 5.5 if kind == "chosen" else 3.8
        d.circle(_point(frame, number, value), radius, kind, f"{score(value)}, {title}")
    return d


def _point(frame: Frame, number: int, value: float) -> Point:
    place = frame.at(number, value)
    assert place is not None
    return place
