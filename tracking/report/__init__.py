"""A study's report: one HTML page that needs nothing else, and the same as Markdown, out of the
study's result.json alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from fdan.errors import FdanError
from tracking.report.content import content
from tracking.report.markdown import markdown
from tracking.report.page import page
from tracking.result import StudyResult

REPORT: Final = "report.html"


def write(study: Path, out: Path | None = None) -> list[Path]:
    """Write the report of the study in this folder; returns the page and, beside it, the Markdown.

    out: the page's file (default: REPORT in the study's folder). Each is written whole or not at
    all. Raises ResultError where the folder holds no result, FdanError for a file that is no
    page's, OSError.
    """
    if out is not None and out.suffix.lower() not in (".html", ".htm"):
        raise FdanError(f"{out}: a page's name ends in .html; the Markdown lies beside it")
    made = content(StudyResult.load(study))
    file = out or study / REPORT
    beside = file.with_suffix(".md")
    _replace(file, page(made))
    _replace(beside, markdown(made, file.name))
    return [file, beside]


def _replace(file: Path, text: str) -> None:
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
