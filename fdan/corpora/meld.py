"""MELD: utterances of the series Friends (Poria et al. 2019, ACL), with parts of its own.

As published: `train_sent_emo.csv`, `dev_sent_emo.csv`, `test_sent_emo.csv`, and the clips
`dia{d}_utt{u}.mp4` in `train_splits`, `dev_splits_complete` and `output_repeated_splits_test`.
Faces and speech come from the same clips. Both may lie some levels below the folder given.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fdan.corpora.listing import Listing, Problem, Row, media_suffixes
from fdan.emotions import from_name
from fdan.errors import DataError


@dataclass(frozen=True)
class _Part:
    name: str
    table: str
    folder: str


_PARTS: Final = (
    _Part("train", "train_sent_emo.csv", "train_splits"),
    _Part("validation", "dev_sent_emo.csv", "dev_splits_complete"),
    _Part("test", "test_sent_emo.csv", "output_repeated_splits_test"),
)
_COLUMNS: Final = ("Speaker", "Emotion", "Dialogue_ID", "Utterance_ID")
# The test folder also holds final_videos_test..., which are other cuts of the same clips.
_CLIP: Final = re.compile(r"dia(\d+)_utt(\d+)")
_DEPTH: Final = 4
_MAX_TABLE_MB: Final = 8.0
"""Several times the size of the largest of MELD's tables (1 MB is 10^6 bytes)."""


def read(root: Path, modality: str) -> Listing:
    """Rows of MELD: those of its tables that have a clip, each clip once.

    Args:
        root: Folder of the corpus.
        modality: "acoustic" or "visual".

    Raises:
        DataError: None of the three tables is there, or one is no table of MELD's.
    """
    tables, folders = _locate(root)
    if not tables:
        names = ", ".join(part.table for part in _PARTS)
        raise DataError(f"none of MELD's tables ({names}) is in it")
    rows: list[Row] = []
    problems: list[Problem] = []
    unused = 0
    for part in _PARTS:
        table, folder = tables.get(part.table), folders.get(part.folder)
        if table is None:
            if folder is not None:
                problems.append(Problem(folder, f"its table {part.table} is missing"))
            continue
        if folder is None:
            problems.append(Problem(table, f"its folder {part.folder} is missing"))
            continue
        clips = _clips(folder, modality)
        of_part, missing = _read_part(part, table, clips)
        rows += of_part
        problems += missing
        unused += len(clips) - len(of_part)
    skipped = {"clip without a usable row": unused} if unused else {}
    return Listing(tuple(rows), tuple(problems), skipped)


def _locate(root: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """The nearest table and folder of each name, at most _DEPTH levels below `root`."""
    tables: dict[str, Path] = {}
    folders: dict[str, Path] = {}
    level = [root]
    for _ in range(_DEPTH + 1):
        below: list[Path] = []
        for folder in level:
            # Clip folders hold thousands of files and nothing that is looked for.
            if folder.name in {part.folder for part in _PARTS}:
                folders.setdefault(folder.name, folder)
                continue
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
                if entry.name.startswith((".", "__MACOSX")):
                    continue
                if entry.is_dir():
                    below.append(Path(entry.path))
                elif entry.name in {part.table for part in _PARTS}:
                    tables.setdefault(entry.name, Path(entry.path))
        level = below
    return tables, folders


def _clips(folder: Path, modality: str) -> dict[tuple[int, int], Path]:
    """Clips of one part by dialogue and utterance number, the preferred suffix of each."""
    ranks = {suffix: rank for rank, suffix in enumerate(media_suffixes(modality))}
    best: dict[tuple[int, int], Path] = {}
    for path in sorted(folder.iterdir()):
        name = _CLIP.fullmatch(path.stem)
        rank = ranks.get(path.suffix.lower())
        if name is None or rank is None:
            continue
        key = (int(name[1]), int(name[2]))
        if key not in best or rank < ranks[best[key].suffix.lower()]:
            best[key] = path
    return best


def _read_part(
    part: _Part, table: Path, clips: dict[tuple[int, int], Path]
) -> tuple[list[Row], list[Problem]]:
    rows: dict[tuple[int, int], Row] = {}
    problems: list[Problem] = []
    numberless: list[int] = []
    repeated: list[int] = []
    for line, record in _records(table):
        key = (_number(record["Dialogue_ID"]), _number(record["Utterance_ID"]))
        if key[0] is None or key[1] is None:
            numberless.append(line)
            continue
        clip = f"dia{key[0]}_utt{key[1]}"
        emotion = from_name(record["Emotion"] or "")
        if emotion is None:
            reason = f"line {line}, {clip}: unknown emotion {_shown(record['Emotion'])}"
            problems.append(Problem(table, reason))
        elif key not in clips:
            problems.append(Problem(table, f"line {line}: {clip} has no file"))
        elif key in rows:
            repeated.append(line)
        else:
            # Dialogue numbers start again in each part.
            utterance = f"{part.name}_{clip}"
            speaker = " ".join((record["Speaker"] or "").split()) or None
            rows[key] = Row(clips[key], emotion, speaker, utterance, part.name)
    problems += _alike(table, numberless, "no dialogue or utterance number")
    problems += _alike(table, repeated, "a clip that an earlier line has already")
    return list(rows.values()), problems


def _number(text: str | None) -> int | None:
    # Nine digits: a damaged table may hold thousands.
    return int(text) if text and re.fullmatch(r"\s*[0-9]{1,9}\s*", text) else None


def _shown(text: str | None) -> str:
    """A cell as it can be put in one line, whatever is in it."""
    text = text or ""
    return repr(text if len(text) <= 30 else f"{text[:30]}...")


def _alike(table: Path, lines: list[int], reason: str) -> list[Problem]:
    """One problem for all lines that have the same: in a damaged table they may be very many."""
    if not lines:
        return []
    more = f" (and {len(lines) - 1} more lines)" if len(lines) > 1 else ""
    return [Problem(table, f"line {lines[0]}: {reason}{more}")]


def _records(table: Path) -> Iterator[tuple[int, dict[str, str | None]]]:
    """Rows of a table by column, each with the number of its (last) line.

    Raises:
        DataError: It is no table, or none of MELD's.
    """
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
