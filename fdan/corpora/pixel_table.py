"""Tables of pixels, as FER2013 is distributed: `fer2013.csv` with emotion, pixels and Usage.

A row is named by a path, `fer2013.csv/17` for line 17, so that it is hashed, decoded and listed as
a file of its own.
"""

import csv
import functools
import math
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fdan.corpora.listing import PART_NAMES, Problem, Row, suffix
from fdan.emotions import from_name
from fdan.errors import DataError

PUBLISHED: Final = "fer2013.csv"
_ORDER: Final = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
"""The emotions that FER2013 calls 0 to 6."""
_SUFFIX: Final = ".csv"
_MAX_HEADER: Final = 10_000  # characters


def is_pixel_table(path: Path) -> bool:
    """Whether a file is a table with an emotion and pixels in each row."""
    if suffix(path) != _SUFFIX or not path.is_file():  # a pipe would be read for ever
        return False
    try:
        return {"emotion", "pixels"} <= set(_columns(path))
    except OSError:
        return False


def table_of(path: Path) -> Path | None:
    """The table that a path names a row of; None for any other path."""
    table = path.parent
    return table if suffix(table) == _SUFFIX and table.is_file() else None


def read_table(table: Path, mapped: Mapping[str, str]) -> tuple[list[Row], list[Problem]]:
    """Rows of a table, in its order, and what is wrong with the others.

    Args:
        table: The table.
        mapped: Emotions of the user's own names.
    """
    rows: list[Row] = []
    unnamed: Counter[str] = Counter()
    for line, record in _records(table):
        word = record.get("emotion", "").strip()
        emotion = mapped.get(word) or from_name(word)
        if emotion is None and word.isdecimal() and int(word) < len(_ORDER):
            emotion = _ORDER[int(word)]
        if emotion is None:
            unnamed[word[:30]] += 1
            continue
        part = PART_NAMES.get(record.get("usage", "").strip().lower())
        path = table / str(line)
        rows.append(Row(path, emotion, None, f"{table.name}/{line}", part))
    problems = [
        Problem(table, f"emotion '{word}' is not one of the seven: {count} rows left out")
        for word, count in unnamed.items()
    ]
    return rows, problems


def read_cell(path: Path) -> str:
    """The pixels of a row as the table has them. DataError: the row has none."""
    table, line = path.parent, int(path.name)
    with table.open("rb") as file:
        file.seek(_offsets(table, table.stat().st_mtime_ns)[line - 1])
        text = file.readline().decode("utf-8", "replace")
    record = dict(zip(_columns(table), next(csv.reader([text]), []), strict=False))
    if not record.get("pixels"):
        raise DataError("has no pixels")
    return record["pixels"]


def read_picture(path: Path) -> NDArray[np.uint8]:
    """The picture of a row, (side, side) uint8. DataError: its pixels make no square picture."""
    words = read_cell(path).split()
    side = math.isqrt(len(words))
    if side * side != len(words):
        raise DataError(f"has {len(words)} pixels, which make no square picture")
    try:
        return np.array(words, dtype=np.uint8).reshape(side, side)
    except (ValueError, OverflowError):
        raise DataError("has pixels that are no numbers from 0 to 255") from None


@functools.lru_cache(maxsize=2)
def _offsets(table: Path, _changed_ns: int) -> "array[int]":
    """Where each line of a table begins, in bytes."""
    offsets, end = array("q"), 0
    with table.open("rb") as file:
        for line in file:
            offsets.append(end)
            end += len(line)
    return offsets


def _columns(table: Path) -> tuple[str, ...]:
    return _columns_at(table, table.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _columns_at(table: Path, _changed_ns: int) -> tuple[str, ...]:
    """Names of a table's columns. Some copies have spaces before them."""
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        try:
            names = next(csv.reader([file.readline(_MAX_HEADER)]), [])
        except csv.Error:
            return ()
    return tuple(name.strip().lower() for name in names)


def _records(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    columns = _columns(table)
    with table.open(encoding="utf-8", errors="replace", newline="") as file:
        for line, text in enumerate(file, 1):
            if line > 1 and text.strip():
                try:
                    fields = next(csv.reader([text]), [])
                except csv.Error as error:
                    raise DataError(f"{table.name}, line {line}: {error}") from error
                yield line, dict(zip(columns, fields, strict=False))
