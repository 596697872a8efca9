"""Result of a corpus reader: the corpus's rows, and what it could not use with the reason."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fdan.errors import DataError

PARTS: Final = ("train", "validation", "test")
PART_NAMES: Final = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "publictest": "validation",
    "test": "test",
    "testing": "test",
    "privatetest": "test",
}
"""What corpora call their parts, in lower case."""

MANIFEST: Final = "demo.json"
"""Our own file in a generated corpus."""

# Of several files of one utterance the earlier suffix is preferred.
# fmt: off
AUDIO: Final = (
    ".wav", ".flac", ".ogg", ".mp3", ".m4a", ".opus", ".oga", ".aac", ".aif", ".aiff", ".wma",
    ".mka", ".m4b", ".au", ".caf", ".amr",
)
VIDEO: Final = (
    ".avi", ".mp4", ".mov", ".mkv", ".webm", ".m4v", ".flv", ".wmv", ".asf", ".mpg", ".mpeg",
    ".mts", ".m2ts", ".ts", ".vob", ".ogv", ".3gp",
)
IMAGE: Final = (
    ".jpg", ".jpeg", ".png", ".bmp", ".jfif", ".jpe", ".webp", ".tif", ".tiff", ".gif", ".avif",
    ".jp2", ".pgm", ".ppm", ".pnm",
)
# fmt: on
_MAX_SHOWN: Final = 8  # kinds of files that a line names


class CorpusAbsent(DataError):  # noqa: N818
    """A folder holds nothing of the corpus that it was given as."""


@dataclass(frozen=True)
class Source:
    """One domain of a task: a corpus on disk, and which of its modalities is meant."""

    corpus: str
    path: Path
    modality: str
    # What the corpus calls some of the seven emotions: its own name, and the emotion.
    emotion_names: tuple[tuple[str, str], ...] = ()

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
    """Rows in a fixed order, problems worth showing, counts of what is left out on purpose, and by
    suffix of what lies there and cannot be read in this modality."""

    rows: tuple[Row, ...]
    problems: tuple[Problem, ...] = ()
    skipped: dict[str, int] = field(default_factory=dict)
    unused: dict[str, int] = field(default_factory=dict)


def find_files(root: Path) -> list[Path]:
    """Files below a folder in the order of their relative paths, links followed once.

    Hidden files and macOS's `._name` companions are not listed. DataError: a folder below `root`
    cannot be listed.
    """
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
            if not name.startswith("."):
                files.append(Path(folder, name))
    return sorted(files, key=str)  # all begin alike


def suffix(path: Path) -> str:
    """Suffix of a file in lower case with its dot, by which files are told apart."""
    return os.path.splitext(path.name)[1].lower()  # noqa: PTH122 (a tenth of pathlib's time)


def count_suffixes(paths: Iterable[Path]) -> dict[str, int]:
    """Number of files of each suffix, the most frequent first."""
    return dict(Counter(suffix(path) or "no suffix" for path in paths).most_common())


def describe_counts(counts: Mapping[str, int]) -> str:
    """`12 .txt, 3 .csv`; the most frequent only, where there are many."""
    shown = [f"{count} {name}" for name, count in list(counts.items())[:_MAX_SHOWN]]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {more} more kinds" if more else "")


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
    wanted = frozenset(suffixes or media_suffixes(source.modality))
    unused: list[Path] = []
    for path in find_files(source.path):
        if suffix(path) not in wanted:
            if path.name != MANIFEST:
                unused.append(path)
            continue
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
    return Listing(tuple(rows), tuple(problems), dict(+skipped), count_suffixes(unused))
