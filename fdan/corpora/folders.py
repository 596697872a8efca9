"""A folder of class folders, as FER2013, CK+ and many others are distributed, or a table of pixels.

`angry/1.jpg`, or `train/angry/1.jpg` with the corpus's own parts. Images and videos give faces,
sound files and videos give speech. Such a corpus says nothing about speakers.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from fdan.corpora.class_names import explain, find_emotion
from fdan.corpora.listing import (
    IMAGE,
    PART_NAMES,
    VIDEO,
    CorpusAbsent,
    Entry,
    Listing,
    Problem,
    Row,
    Source,
    find_files,
    list_files,
    suffix,
)
from fdan.corpora.pixel_table import PUBLISHED, is_pixel_table, read_table, why_no_table

_HINT: Final = (
    "rename, or name a TOML file with --emotions that maps each name to one of the seven, such as"
    ' 0 = "anger"'
)
_MAX_NAMED: Final = 5  # folders that an error names


def read(source: Source) -> Listing:
    """Rows of class folders, or of a table of pixels where there are none. CorpusAbsent: there
    are files, but no folder is named for an emotion."""
    if source.path.is_file():
        rows, problems = read_table(source.path, dict(source.emotion_names))
        return Listing(tuple(rows), tuple(problems))
    unnamed: Counter[Path] = Counter()
    mapped = dict(source.emotion_names)

    def read_path(path: Path) -> Entry:
        inner = path.relative_to(source.path)
        folders = inner.parts[-2::-1]  # the nearest first
        emotion = find_emotion(folders, mapped)
        if emotion is None:
            unnamed[path.parent] += 1
            return None
        parts = (PART_NAMES.get(name.lower()) for name in inner.parts[:-1])
        # a.wav beside a.mp4 is the same utterance; a.jpg beside a.png are two faces.
        name = inner.with_suffix("") if source.modality == "acoustic" else inner
        row = Row(path, emotion, None, name.as_posix(), next((p for p in parts if p), None))
        return row, int(suffix(path) in VIDEO)

    listing = list_files(source, read_path, IMAGE + VIDEO if source.modality == "visual" else ())
    problems = [
        Problem(folder, f"{_explain(source, folder, mapped)}: {count} files left out")
        for folder, count in unnamed.items()
    ]
    if source.modality == "visual":
        listing, table_problems = _with_table(source, listing)
        problems += table_problems
        if not listing.rows and not problems:
            lacks = ((path, why_no_table(path)) for path in _published_first(source.path))
            return replace(
                listing, problems=tuple(Problem(path, why) for path, why in lacks if why)
            )
    if problems and not listing.rows:
        reasons = dict.fromkeys(problem.reason.partition(": ")[0] for problem in problems)
        more = " ..." if len(reasons) > _MAX_NAMED else ""
        why = f"{'; '.join(list(reasons)[:_MAX_NAMED])}{more}"
        raise CorpusAbsent(f"no class folder is named for an emotion: {why}; {_HINT}")
    return replace(listing, problems=tuple(problems))


def _explain(source: Source, folder: Path, mapped: Mapping[str, str]) -> str:
    folders = folder.relative_to(source.path).parts[::-1]
    return explain(folders, mapped) if folders else "lies in no class folder"


def _published_first(folder: Path) -> list[Path]:
    """Files below a folder, the published table before others."""

    def order(path: Path) -> tuple[bool, bool]:
        name = path.name.lower()
        return name != PUBLISHED, not name.startswith(PUBLISHED.removesuffix(".csv"))

    return sorted(find_files(folder), key=order)


def _with_table(source: Source, listing: Listing) -> tuple[Listing, list[Problem]]:
    """The listing with the rows of the corpus's table of pixels, if it has no others."""
    if ".csv" not in listing.unused:
        return listing, []
    tables = [path for path in _published_first(source.path) if is_pixel_table(path)]
    if not tables:
        return listing, []
    rows, problems = ([], []) if listing.rows else read_table(tables[0], dict(source.emotion_names))
    unused = Counter(listing.unused)
    if rows:
        unused[".csv"] -= 1
    problems += [
        Problem(table, "a table of pixels beside others: name a folder that holds nothing else")
        for table in tables[bool(rows) :]
    ]
    rows = rows or list(listing.rows)
    return replace(listing, rows=tuple(rows), unused=dict(+unused)), problems
