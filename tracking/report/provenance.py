"""How far the study can be relied on and done again: checks, versions, settings, the command."""

from __future__ import annotations

from collections.abc import Iterator

from tracking.report.blocks import Block, Code, Facts, Section, Table, Text, columns, note
from tracking.report.words import count, moment, setting
from tracking.result import StudyResult


def section(result: StudyResult) -> Section:
    return Section("provenance", "Checks and provenance", tuple(_blocks(result)))


def _blocks(result: StudyResult) -> Iterator[Block]:
    broken = [check for check in result.checks if not check.ok]
    if not result.checks:
        yield note("No checks were recorded.")
    else:
        if broken:
            verb = "does" if len(broken) == 1 else "do"
            yield note(f"{count(len(broken), 'check')} of {len(result.checks)} {verb} not hold.")
        else:
            yield Text(f"All {count(len(result.checks), 'check')} hold.")
        yield Table(
            columns("check", "holds", "detail"),
            tuple(
                (check.name, "yes" if check.ok else "NO", check.detail) for check in result.checks
            ),
        )
    yield Text("The same command continues the study, or extends it with a higher --trials:")
    yield Code(result.command)
    yield Facts(
        (
            ("study", result.study),
            ("study id", result.study_id),
            ("MLflow experiment", result.experiment),
            ("MLflow", _address(result)),
            ("sampler, pruner", f"{result.sampler}, {result.pruner}"),
            ("git", result.git or "not a repository"),
            ("written", moment(result.written)),
        )
    )
    if result.fixed:
        yield Table(
            columns("setting", "value"),
            tuple((name, setting(value)) for name, value in sorted(result.fixed.items())),
            folded="Settings that were not searched",
        )
    if result.versions:
        yield Table(
            columns("package", "version"), tuple(sorted(result.versions.items())), folded="Versions"
        )


def _address(result: StudyResult) -> str:
    """Of the study's page, where a server has one; else of the database."""
    if not result.tracking_uri.startswith("http"):
        return result.tracking_uri
    return result.tracking_uri.rstrip("/") + (result.page or "")
