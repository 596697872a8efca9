"""MELD: utterances of the series Friends (Poria et al. 2019, ACL), with parts of its own.

As published: `train_sent_emo.csv`, `dev_sent_emo.csv`, `test_sent_emo.csv`, and the clips
`dia{d}_utt{u}.mp4` in `train_splits`, `dev_splits_complete` and `output_repeated_splits_test`.
Faces and speech come from the same clips. Both may lie some levels below the folder given.
"""

import csv
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fdan.corpora.listing import (
    CorpusAbsent,
    Listing,
    Problem,
    Row,
    Source,
    count_suffixes,
    find_files,
    media_suffixes,
    suffix,
)
from fdan.emotions import from_name
from fdan.errors import DataError

# Each part with its table and its folder.
_PARTS: Final = (
    ("train", "train_sent_emo.csv", "train_splits"),
    ("validation", "dev_sent_emo.csv", "dev_splits_complete"),
    ("test", "test_sent_emo.csv", "output_repeated_splits_test"),
)
_TABLES: Final = [table for _, table, _ in _PARTS]
_FOLDERS: Final = [folder for _, _, folder in _PARTS]
_COLUMNS: Final = ("Speaker", "Emotion", "Dialogue_ID", "Utterance_ID")
# The test folder also holds final_videos_test..., which are other cuts of the same clips.
_CLIP: Final = re.compile(r"dia(\d+)_utt(\d+)")
_DEPTH: Final = 4
_MAX_TABLE_MB: Final = 8.0  # several times MELD's largest table; 1 MB is 10^6 bytes


def read(source: Source) -> Listing:
    """Rows of MELD: those of its tables that have a clip, each clip once. CorpusAbsent: none of the
    three tables is there. DataError: one is no table of MELD's."""
    located = _locate(source.path)
    if not located.keys() & set(_TABLES):
        raise CorpusAbsent(f"none of MELD's tables ({', '.join(_TABLES)}) is in it")
    rows: list[Row] = []
    problems: list[Problem] = []
    unused = 0
    known = {located[name] for name in _TABLES if name in located}
    for part, table_name, folder_name in _PARTS:
        table, folder = located.get(table_name), located.get(folder_name)
        if table and folder:
            clips = _clips(folder, source.modality)
            of_part, missing = _read_part(part, table, clips)
            rows += of_part
            problems += missing
            unused += len(clips) - len(of_part)
            known.update(clips.values())
        elif table:
            problems.append(Problem(table, f"its folder {folder_name} is missing"))
        elif folder:
            problems.append(Problem(folder, f"its table {table_name} is missing"))
    skipped = {"clip without a usable row": unused} if unused else {}
    others = count_suffixes(path for path in find_files(source.path) if path not in known)
    return Listing(tuple(rows), tuple(problems), skipped, others)


def _locate(root: Path) -> dict[str, Path]:
    """The nearest table and folder of each name, at most _DEPTH levels below `root`."""
    located: dict[str, Path] = {}
    level = [root]
    for _ in range(_DEPTH + 1):
        below: list[Path] = []
        for folder in level:
            # Clip folders hold thousands of files and nothing that is looked for.
            if folder.name in _FOLDERS:
                located.setdefault(folder.name, folder)
                continue
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
                if entry.name.startswith((".", "__MACOSX")):
                    continue
                if entry.is_dir():
                    below.append(Path(entry.path))
                elif entry.name in _TABLES:
                    located.setdefault(entry.name, Path(entry.path))
        level = below
    return located


def _clips(folder: Path, modality: str) -> dict[tuple[int, int], Path]:
    """Clips of one part by dialogue and utterance number, the preferred suffix of each."""
    ranks = {name: rank for rank, name in enumerate(media_suffixes(modality))}
    files = [path for path in sorted(folder.iterdir()) if suffix(path) in ranks]
    clips: dict[tuple[int, int], Path] = {}
    for path in sorted(files, key=lambda path: ranks[suffix(path)]):
        if name := _CLIP.fullmatch(path.stem):
            clips.setdefault((int(name[1]), int(name[2])), path)
    return clips


def _read_part(
    part: str, table: Path, clips: dict[tuple[int, int], Path]
) -> tuple[list[Row], list[Problem]]:
    rows: dict[tuple[int, int], Row] = {}
    problems: list[Problem] = []
    # One problem for all lines that have the same: in a damaged table they may be very many.
    numberless = "no dialogue or utterance number"
    repeated = "a clip that an earlier line has already"
    alike: dict[str, list[int]] = {numberless: [], repeated: []}
    for line, record in _records(table):
        key = (_number(record["Dialogue_ID"]), _number(record["Utterance_ID"]))
        if key[0] is None or key[1] is None:
            alike[numberless].append(line)
            continue
        clip, word = f"dia{key[0]}_utt{key[1]}", record["Emotion"] or ""
        emotion = from_name(word)
        if emotion is None:
            word = word if len(word) <= 30 else f"{word[:30]}..."
            problems.append(Problem(table, f"line {line}, {clip}: unknown emotion {word!r}"))
        elif key not in clips:
            problems.append(Problem(table, f"line {line}: {clip} has no file"))
        elif key in rows:
            alike[repeated].append(line)
        else:
            speaker = " ".join((record["Speaker"] or "").split()) or None
            # Dialogue numbers start again in each part.
            rows[key] = Row(clips[key], emotion, speaker, f"{part}_{clip}", part)
    for reason, lines in alike.items():
        if lines:
            more = f" (and {len(lines) - 1} more lines)" if len(lines) > 1 else ""
            problems.append(Problem(table, f"line {lines[0]}: {reason}{more}"))
    return list(rows.values()), problems


def _number(text: str | None) -> int | None:
    # Nine digits: a damaged table may hold thousands.
    return int(text) if text and re.fullmatch(r"\s*[0-9]{1,9}\s*", text) else None


def _records(table: Path) -> Iterator[tuple[int, dict[str, str | None]]]:
    """Rows of a table by column, each with the number of its (last) line. DataError: it is no
    table, or none of MELD's."""
    size = table.stat().st_size
    if not size:
        raise DataError(f"{table.name} is empty (0 bytes)")
    if size > _MAX_TABLE_MB * 1e6:
        raise DataError(f"{table.name} has {size / 1e6:.0f} MB: is it MELD's own table?")
    # The published tables carry Windows-1252 quotes here and there; only names matter here.
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.DictReader(file)
        try:
            missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(
                    f"{table.name} lacks the column {missing[0]}: is it MELD's own table?"
                )
            for record in reader:
                yield reader.line_num, record
        except csv.Error as error:
            raise DataError(
                f"{table.name} cannot be read beyond line {reader.line_num} ({error}):"
                " is a quotation mark left open there?"
            ) from error
