"""A study's report: one HTML page that needs nothing else, and the same as Markdown, out of the
study's result.json alone."""

from pathlib import Path
from typing import Final

from tracking.nested_result import NESTED_REPORT, NestedResult, load_result
from tracking.report.formatting import count, moment, sentence, short
from tracking.report.nested import nested_page
from tracking.report.page import Page
from tracking.report.sections.confusion import confusion_blocks
from tracking.report.sections.curves import curves_blocks
from tracking.report.sections.feature_space import feature_space_blocks
from tracking.report.sections.history import cost_blocks, failures_blocks, history_blocks
from tracking.report.sections.hyperparameters import (
    importance_blocks,
    parallel_blocks,
    slices_blocks,
)
from tracking.report.sections.provenance import absences, data_blocks, provenance_blocks
from tracking.report.sections.ranking import ranking_blocks
from tracking.report.sections.winner import verdict, winner_blocks
from tracking.result import REPORT, StudyResult
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


def write(study: Path, out: Path | None = None) -> list[Path]:
    """Write the report of a study, nested or not, as HTML and beside it as Markdown, each whole or
    not at all.

    Args:
        study: The study's folder.
        out: The page's file; None: REPORT in the study's folder, NESTED_REPORT in a nested one's.

    Returns:
        The page and the Markdown.

    Raises:
        ResultError: The folder holds no result.
        FdanError: `out` is not named as a page.
        OSError: A file cannot be written.
    """
    result = load_result(study)
    if isinstance(result, NestedResult):
        return nested_page(result).write(out or study / NESTED_REPORT)
    return _page(result).write(out or study / REPORT)


def _page(result: StudyResult) -> Page:
    counts = ", ".join(f"{n} {_WORDS.get(state, state)}" for state, n in result.counts.items() if n)
    ended = f"{sum(result.counts.values())} of {count(result.wanted, 'trial')} ended"
    state = result.state.lower()
    lines = (
        short(result.task),
        f"{ended} ({counts})" if counts else ended,
        f"{state}: {short(result.reason, 200)}" if result.reason else state,
        f"written {moment(result.written)}",
    )
    return Page(
        f"Study {short(result.study, 60)}",
        [sentence(line).rstrip(".") for line in lines],
        " ".join([verdict(result), *absences(result)]),
        [(key, title, list(blocks(result))) for key, title, blocks in _SECTIONS],
    )
