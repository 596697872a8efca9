"""Tables of pixels, as FER2013 is distributed: `fer2013.csv` with emotion, pixels and Usage.

A row is named by a path, `fer2013.csv/17` for line 17, so that it is hashed, decoded and listed as
a file of its own.
"""

import contextlib
import csv
import functools
import math
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
_MAX_BLANK: Final = 100  # lines before the header
_DELIMITERS: Final = ",;\t|"
_NUMBER: Final = re.compile(r"(\d)(\.0*)?")  # pandas writes 0 as 0.0 where a cell is empty
_PACKED: Final = frozenset((".gz", ".zip", ".bz2", ".xz", ".zst", ".tgz", ".tar", ".7z", ".rar"))


@dataclass(frozen=True)
class _Header:
    line: int  # its number
    columns: tuple[str, ...]
    delimiter: str


def is_pixel_table(path: Path) -> bool:
    """Whether a file is a table with an emotion and pixels in each row."""
    if suffix(path) != _SUFFIX or not path.is_file():  # a pipe would be read for ever
        return False
    try:
        return _header(path) is not None
    except OSError:
        return False


def why_no_table(path: Path) -> str | None:
    """What a file that might have been meant as a table of pixels lacks; None for one that is read,
    and for files of other kinds."""
    if suffix(path) in _PACKED:
        return "is packed, unpack it first"
    if suffix(path) != _SUFFIX or not path.is_file() or is_pixel_table(path):
        return None
    try:
        with path.open("rb") as file:
            begin = file.read(_MAX_HEADER)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if b"\0" in begin:
        return "is no table in UTF-8 (save it as such, not as UTF-16)"
    return (
        "is no table of pixels (a header that names the columns emotion and pixels was not found)"
    )


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
        number = _NUMBER.fullmatch(word)
        emotion = mapped.get(word) or from_name(word)
        if emotion is None and number:
            emotion = mapped.get(number[1]) or dict(enumerate(_ORDER)).get(int(number[1]))
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
    header = _header(table)
    if header is None:
        raise DataError("is in no table of pixels any more")
    fields = next(csv.reader([text], delimiter=header.delimiter), [])
    record = dict(zip(header.columns, fields, strict=False))
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


def _header(table: Path) -> _Header | None:
    """The header of a table of pixels; None where a file has none."""
    return _header_at(table, table.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _header_at(table: Path, _changed_ns: int) -> _Header | None:
    """The first line that is not blank. Some copies have spaces before the columns' names."""
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        number, text = 1, file.readline(_MAX_HEADER)
        while text and not text.strip() and number < _MAX_BLANK:
            number, text = number + 1, file.readline(_MAX_HEADER)
    for delimiter in _DELIMITERS:
        with contextlib.suppress(csv.Error):
            names = next(csv.reader([text], delimiter=delimiter, skipinitialspace=True), [])
            columns = tuple(name.strip().lower() for name in names)
            if {"emotion", "pixels"} <= set(columns):
                return _Header(number, columns, delimiter)
    return None


def _records(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    header = _header(table)
    if header is None:
        return
    with table.open(encoding="utf-8", errors="replace", newline="") as file:
        for line, text in enumerate(file, 1):
            if line > header.line and text.strip():
                try:
                    fields = next(csv.reader([text], delimiter=header.delimiter), [])
                except csv.Error as error:
                    raise DataError(f"{table.name}, line {line}: {error}") from error
                yield line, dict(zip(header.columns, fields, strict=False))
