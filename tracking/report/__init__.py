"""A study's report: one HTML page that needs nothing else, and the same as Markdown, out of the
study's result.json alone."""

from importlib import resources
from pathlib import Path
from string import Template
from typing import Final, NamedTuple

from fdan.errors import FdanError
from fdan.files import write_atomic
from tracking.report.blocks import Block
from tracking.report.formatting import count, escape, moment, plain, sentence, short
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
    """Write the report of a study, as HTML and beside it as Markdown, each whole or not at all.

    Args:
        study: The study's folder.
        out: The page's file; None: REPORT in the study's folder.

    Returns:
        The page and the Markdown.

    Raises:
        ResultError: The folder holds no result.
        FdanError: `out` is not named as a page.
        OSError: A file cannot be written.
    """
    if out is not None and out.suffix.lower() not in (".html", ".htm"):
        raise FdanError(f"{out}: a page's name ends in .html; the Markdown lies beside it")
    report = _report(StudyResult.load(study))
    file = out or study / REPORT
    beside = file.with_suffix(".md")
    write_atomic(file, _html(report))
    write_atomic(beside, _markdown(report, file.name))
    return [file, beside]


class _Report(NamedTuple):
    title: str
    lines: list[str]
    """what stands below the title"""
    verdict: str
    """the whole in a sentence or three"""
    sections: list[tuple[str, str, list[Block]]]
    """anchor, title and blocks of each"""


def _report(result: StudyResult) -> _Report:
    counts = ", ".join(f"{n} {_WORDS.get(state, state)}" for state, n in result.counts.items() if n)
    ended = f"{sum(result.counts.values())} of {count(result.wanted, 'trial')} ended"
    state = result.state.lower()
    lines = (
        short(result.task),
        f"{ended} ({counts})" if counts else ended,
        f"{state}: {short(result.reason, 200)}" if result.reason else state,
        f"written {moment(result.written)}",
    )
    return _Report(
        f"Study {short(result.study, 60)}",
        [sentence(line).rstrip(".") for line in lines],
        " ".join([verdict(result), *absences(result)]),
        [(key, title, list(blocks(result))) for key, title, blocks in _SECTIONS],
    )


def _html(report: _Report) -> str:
    """One page that needs nothing else: no script, style and pictures inside it."""
    sections = ""
    for key, title, blocks in report.sections:
        inside = "\n".join(block.html() for block in blocks)
        sections += f'<section id="{key}">\n<h2>{title}</h2>\n{inside}\n</section>\n\n'
    folder = resources.files(__package__)
    return Template(folder.joinpath("page.html").read_text(encoding="utf-8")).substitute(
        title=escape(report.title),
        style=folder.joinpath("style.css").read_text(encoding="utf-8"),
        entries="".join(f'<a href="#{key}">{title}</a>' for key, title, _ in report.sections),
        lines="".join(f"<li>{escape(line)}</li>" for line in report.lines),
        verdict=escape(report.verdict),
        sections=sections,
    )


def _markdown(report: _Report, page: str) -> str:
    """The same, where pictures become their tables, or stay in the page beside it."""
    address = page.replace("%", "%25").replace("<", "%3C").replace(">", "%3E").replace("\n", "%0A")
    parts = [
        f"# {plain(report.title)}",
        "\n".join(f"- {plain(line)}" for line in report.lines),
        f"**{plain(report.verdict)}**",
        f"Pictures are in [{plain(page)}](<{address}>).",
    ]
    for _, title, blocks in report.sections:
        parts += [f"## {title}", *(block.markdown() for block in blocks)]
    return "\n\n".join(filter(None, parts)) + "\n"
