"""What the study's figures rest on: its data, and checks, versions, settings and the command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from fdan.emotions import EMOTIONS
from tracking.report.blocks import Block, Code, Facts, Table, Text, columns, note, numbers
from tracking.report.formatting import count, listed, moment, sentence, setting, short, thousands
from tracking.result import Part, StudyResult

_MOST: Final = 20
_NAMES: Final = {"visual": "faces", "acoustic": "speech"}


def data_blocks(result: StudyResult) -> Iterator[Block]:
    origin, parts = result.origin, result.parts
    split = origin.get("split", {})
    yield Facts(
        (
            ("task", result.task),
            ("split", ", ".join(f"{name} {setting(value)}" for name, value in split.items())),
            ("fingerprint", result.data),
        )
    )
    if parts:
        yield _by_emotion(parts)
        yield _by_speaker(parts)
    else:
        yield note("The parts of the data were not counted.")
    if not result.unreadable:
        yield Text("Every file could be read.")
        return
    yield note(
        f"{count(len(result.unreadable), 'file')} could not be read, and"
        f" {'is' if len(result.unreadable) == 1 else 'are'} in no part."
    )
    rows = tuple(
        (short(file.path, 200), sentence(short(file.reason, 200)))
        for file in result.unreadable[:_MOST]
    )
    if len(result.unreadable) > _MOST:
        rows = (*rows, (f"{len(result.unreadable) - _MOST} more", ""))
    yield Table(columns("file", "reason"), rows, folded="" if len(rows) <= 5 else "These files")


def _title(part: Part) -> str:
    return f"{_NAMES.get(part.modality, part.modality)}, {part.part}"


def _by_emotion(parts: Sequence[Part]) -> Table:
    names = list(dict.fromkeys([*EMOTIONS, *(name for part in parts for name in part.emotions)]))
    rows = [(name, *(thousands(part.emotions.get(name, 0)) for part in parts)) for name in names]
    rows.append(("all", *(thousands(sum(part.emotions.values())) for part in parts)))
    head = (*columns("emotion"), *numbers(*map(_title, parts)))
    return Table(head, tuple(rows), frozenset([len(rows) - 1]))


def _by_speaker(parts: Sequence[Part]) -> Table:
    rows = []
    for part in parts:
        speakers = part.speakers
        who = listed([f"{name} ({thousands(n)})" for name, n in speakers.items()], 16)
        rows.append((_title(part), str(len(speakers)) if speakers else "–", who or "not known"))
    head = (*columns("part"), *numbers("speakers"), *columns("who, and how many samples"))
    return Table(head, tuple(rows))


def provenance_blocks(result: StudyResult) -> Iterator[Block]:
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
    """Address of the study's page on a server, else of the database."""
    if not result.tracking_uri.startswith("http"):
        return result.tracking_uri
    return result.tracking_uri.rstrip("/") + (result.page or "")
