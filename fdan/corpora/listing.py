"""Result of a corpus reader: the corpus's rows, and what it could not use with the reason."""

import os
from collections import Counter
from collections.abc import Callable, Iterable
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
    DataError: a folder below `root` cannot be listed.

    Args:
        root: The folder.
        suffixes: Suffixes of media files, in lower case with their dot.
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


Entry = tuple[Row, int] | Problem | str | None
"""A row and its rank, of which the lowest of an utterance is chosen; a problem; the reason why a
file is left out on purpose; or None for a file that the reader accounts for itself."""


def list_files(
    source: Source, read: Callable[[Path], Entry], suffixes: Iterable[str] = ()
) -> Listing:
    """The listing of a corpus whose paths say what the files are: one row of each utterance.

    Args:
        source: The corpus.
        read: Reader of one path.
        suffixes: Suffixes of its media files; empty for those of recordings.
    """
    ranked: dict[str, list[tuple[int, Row]]] = {}
    problems: list[Problem] = []
    skipped: Counter[str] = Counter()
    for path in find_files(source.path, suffixes or media_suffixes(source.modality)):
        entry = read(path)
        if isinstance(entry, str):
            skipped[entry] += 1
        elif isinstance(entry, Problem):
            problems.append(entry)
        elif entry is not None:
            row, rank = entry
            ranked.setdefault(row.utterance, []).append((rank, row))
    rows: list[Row] = []
    for entries in ranked.values():
        lowest = min(rank for rank, _ in entries)
        first, *copies = (row for rank, row in entries if rank == lowest)
        rows.append(first)
        # That a video gives way to its sound file is as it should be, and not counted.
        skipped["second copy"] += len(copies)
    return Listing(tuple(rows), tuple(problems), dict(+skipped))
