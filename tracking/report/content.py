"""A study's report, section by section, out of its result alone."""

from __future__ import annotations

from typing import Final

from tracking.report import (
    confusion,
    cost,
    curves,
    data,
    embedding,
    failures,
    history,
    importance,
    parallel,
    provenance,
    ranking,
    slices,
    winner,
)
from tracking.report.blocks import Report
from tracking.report.words import count, moment, sentence, short
from tracking.result import StudyResult

_SECTIONS = (
    winner,
    ranking,
    history,
    importance,
    parallel,
    slices,
    confusion,
    embedding,
    curves,
    cost,
    failures,
    data,
    provenance,
)

_WORDS: Final = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}


def content(result: StudyResult) -> Report:
    counts = ", ".join(f"{n} {_WORDS.get(state, state)}" for state, n in result.counts.items() if n)
    state = "complete" if result.state == "COMPLETE" else f"{result.state.lower()}"
    lines = (
        short(result.task),
        f"{sum(result.counts.values())} of {count(result.wanted, 'trial')} ended"
        + (f" ({counts})" if counts else ""),
        f"{state}: {short(result.reason, 200)}" if result.reason else state,
        f"written {moment(result.written)}",
    )
    return Report(
        f"Study {short(result.study, 60)}",
        tuple(sentence(line).rstrip(".") for line in lines),
        winner.verdict(result),
        tuple(module.section(result) for module in _SECTIONS),
    )
