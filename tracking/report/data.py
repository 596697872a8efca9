"""What the study had to go by: samples by emotion and speaker, and files that could not be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from fdan.emotions import EMOTIONS
from tracking.report.blocks import Block, Facts, Section, Table, Text, columns, note, numbers
from tracking.report.words import count, listed, sentence, setting, short, thousands
from tracking.result import Part, StudyResult

_MOST: Final = 20
_NAMES: Final = {"visual": "faces", "acoustic": "speech"}


def section(result: StudyResult) -> Section:
    return Section("data", "Data", tuple(_blocks(result)))


def _blocks(result: StudyResult) -> Iterator[Block]:
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
        (short(one.path, 200), sentence(short(one.reason, 200)))
        for one in result.unreadable[:_MOST]
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
