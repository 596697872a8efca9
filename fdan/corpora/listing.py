"""Result of a corpus reader: the corpus's rows, and what it could not use with the reason."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fdan.errors import DataError

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
    """Rows in a fixed order, problems worth showing, and counts of what is left out on purpose."""

    rows: tuple[Row, ...]
    problems: tuple[Problem, ...] = ()
    skipped: dict[str, int] = field(default_factory=dict)


def find_files(root: Path, suffixes: Iterable[str]) -> list[Path]:
    """Media files below a folder in the order of their relative paths, links followed once.

    Hidden files and macOS's `._name` companions are not media, whatever their suffix says.

    Args:
        root: The folder.
        suffixes: Suffixes of media files, in lower case with their dot.

    Raises:
        DataError: A folder below `root` cannot be listed.
    """
    wanted = frozenset(suffixes)
    files: list[Path] = []
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
                files.append(Path(folder, name))
    return sorted(files, key=str)  # all begin alike


def media_suffixes(modality: str) -> tuple[str, ...]:
    """Suffixes of a corpus of recordings for one modality, the preferred ones first.

    A video's sound track serves as speech where there is no sound file.
    """
    return AUDIO + VIDEO if modality == "acoustic" else VIDEO


def deduplicate(rows: Iterable[tuple[Row, int]]) -> tuple[tuple[Row, ...], dict[str, int]]:
    """One row of each utterance: the first of those of the lowest rank.

    Args:
        rows: Rows, each with its rank.

    Returns:
        The rows, and `second copy` with how many others had the same rank, if there were any: that
        a video gives way to its sound file is as it should be.
    """
    ranked: dict[str, list[tuple[int, Row]]] = {}
    for row, rank in rows:
        ranked.setdefault(row.utterance, []).append((rank, row))
    chosen: list[Row] = []
    copies = 0
    for entries in ranked.values():
        lowest = min(rank for rank, _ in entries)
        first, *rest = (row for rank, row in entries if rank == lowest)
        chosen.append(first)
        copies += len(rest)
    return tuple(chosen), {"second copy": copies} if copies else {}
