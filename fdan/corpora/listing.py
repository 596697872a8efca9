"""What a corpus reader gives: the rows of a corpus, and what it could not use with the reason."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fdan.errors import DataError

MODALITIES: Final = ("acoustic", "visual")
PARTS: Final = ("train", "validation", "test")

AUDIO: Final = (".wav", ".flac", ".ogg", ".mp3", ".m4a")
VIDEO: Final = (".avi", ".mp4", ".mov", ".mkv", ".webm")
IMAGE: Final = (".jpg", ".jpeg", ".png", ".bmp")


@dataclass(frozen=True)
class Source:
    """One domain of a task: a corpus on disk, and which of its modalities is meant."""

    corpus: str
    path: Path
    modality: str

    def __str__(self) -> str:
        return f"{self.corpus}:{self.path}"


@dataclass(frozen=True)
class Row:
    """One media file. `part` is the corpus's own train, validation or test, where it has one."""

    path: Path
    emotion: str
    speaker: str | None
    utterance: str
    part: str | None = None


@dataclass(frozen=True)
class Problem:
    """Something that should have been a row and is not, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Listing:
    """Rows in a fixed order, problems worth telling, and counts of what is left out on purpose."""

    rows: tuple[Row, ...]
    problems: tuple[Problem, ...] = ()
    passed_over: dict[str, int] = field(default_factory=dict)


def files_below(root: Path, suffixes: Iterable[str]) -> list[Path]:
    """Media files below `root` in the order of their relative paths, links followed once.

    Hidden files and macOS's `._name` companions are not media, whatever their suffix says.

    Raises:
        DataError: a folder below `root` cannot be listed.
    """
    wanted = frozenset(suffixes)
    found: list[Path] = []
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot list {error.filename}: {error.strerror}") from error

    for folder, folders, names in os.walk(root, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [
            name for name in sorted(folders) if not name.startswith(".") and name != "__MACOSX"
        ]
        for name in names:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in wanted:  # noqa: PTH122
                found.append(Path(folder, name))
    return sorted(found, key=str)  # all begin alike


def suffixes(modality: str) -> tuple[str, ...]:
    """Suffixes of a corpus of recordings for one modality, the preferred ones first.

    A video's sound track serves as speech where there is no sound file.
    """
    return AUDIO + VIDEO if modality == "acoustic" else VIDEO


def one_each(rows: Iterable[tuple[Row, int]]) -> tuple[list[Row], int]:
    """One row an utterance: the one of the lowest rank, then the first.

    Also how many were second copies of the one kept, that is, of its rank: that a video gives way
    to its sound file is as it should be.
    """
    ranked: dict[str, list[tuple[int, Row]]] = {}
    for row, rank in rows:
        ranked.setdefault(row.utterance, []).append((rank, row))
    kept = []
    copies = 0
    for entries in ranked.values():
        lowest = min(rank for rank, _ in entries)
        same = [row for rank, row in entries if rank == lowest]
        kept.append(same[0])
        copies += len(same) - 1
    return kept, copies
