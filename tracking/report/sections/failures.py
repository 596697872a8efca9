"""What failed, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tracking.report.blocks import Block, Table, Text, columns, note, numbers
from tracking.report.formatting import count, sentence, short
from tracking.report.selectors import in_state, settings
from tracking.result import StudyResult
from tracking.tags import FAIL

_MOST: Final = 15


def failures_blocks(result: StudyResult) -> Iterator[Block]:
    failed = in_state(result, FAIL)
    if not failed:
        yield Text("No trial failed.")
        return
    yield Text(f"{len(failed)} of {count(len(result.trials), 'trial')} failed.")
    same: dict[str, int] = {}
    for trial in failed:
        words = short(trial.reason, 200) or "no reason was recorded"
        same[words] = same.get(words, 0) + 1
    if len(same) < len(failed):
        rows = sorted(same.items(), key=lambda pair: -pair[1])
        yield Table(
            (*columns("reason"), *numbers("trials")),
            tuple((sentence(words), str(n)) for words, n in rows[:_MOST]),
        )
    yield Table(
        (*columns("trial"), *numbers("after"), *columns("reason", "settings")),
        tuple(
            (
                str(trial.number),
                count(trial.epochs, "epoch"),
                sentence(short(trial.reason, 200) or "no reason was recorded"),
                settings(trial.params, result.space),
            )
            for trial in failed
        ),
        folded="" if len(failed) <= _MOST else "Each of them",
    )
    if result.trials and len(failed) == len(result.trials):
        yield note("Every trial failed: look at the first reason before anything is run again.")
