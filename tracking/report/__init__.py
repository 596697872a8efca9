"""A study's report: one HTML page that needs nothing else, and the same as Markdown, out of the
study's result.json alone."""

from __future__ import annotations

from pathlib import Path

from fdan.errors import FdanError
from fdan.files import write_atomic
from tracking.report.content import content
from tracking.report.markdown import markdown
from tracking.report.page import page
from tracking.result import REPORT, StudyResult


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
    made = content(StudyResult.load(study))
    file = out or study / REPORT
    beside = file.with_suffix(".md")
    write_atomic(file, page(made))
    write_atomic(beside, markdown(made, file.name))
    return [file, beside]
