"""A study's report, section by section, out of its result alone."""

from __future__ import annotations

from typing import Final

from tracking.report.blocks import Report, Section
from tracking.report.formatting import count, moment, sentence, short
from tracking.report.sections.confusion import confusion_blocks
from tracking.report.sections.cost import cost_blocks
from tracking.report.sections.curves import curves_blocks
from tracking.report.sections.failures import failures_blocks
from tracking.report.sections.feature_space import feature_space_blocks
from tracking.report.sections.history import history_blocks
from tracking.report.sections.importance import importance_blocks
from tracking.report.sections.parallel import parallel_blocks
from tracking.report.sections.provenance import data_blocks, provenance_blocks
from tracking.report.sections.ranking import ranking_blocks
from tracking.report.sections.slices import slices_blocks
from tracking.report.sections.winner import verdict, winner_blocks
from tracking.result import StudyResult
from tracking.tags import COMPLETE, FAIL, PRUNED

_SECTIONS: Final = (
    ("winner", "Winner", winner_blocks),
    ("ranking", "Ranking", ranking_blocks),
    ("history", "History", history_blocks),
    ("importance", "Importance of settings", importance_blocks),
    ("parallel", "Parallel coordinates", parallel_blocks),
    ("slices", "Slices", slices_blocks),
    ("confusion", "Confusion", confusion_blocks),
    ("features", "Feature space", feature_space_blocks),
    ("curves", "Learning curves", curves_blocks),
    ("cost", "Cost", cost_blocks),
    ("failures", "Failures", failures_blocks),
    ("data", "Data", data_blocks),
    ("provenance", "Checks and provenance", provenance_blocks),
)

_WORDS: Final = {COMPLETE: "complete", PRUNED: "pruned", FAIL: "failed"}


def content(result: StudyResult) -> Report:
    """The whole report, not yet written as HTML or Markdown."""
    counts = ", ".join(f"{n} {_WORDS.get(state, state)}" for state, n in result.counts.items() if n)
    state = result.state.lower()
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
        verdict(result),
        tuple(Section(key, title, tuple(blocks(result))) for key, title, blocks in _SECTIONS),
    )
