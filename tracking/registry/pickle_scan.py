"""Pickles, by their names and by what is in them: nothing of ours is one, and none is ever loaded.

Loading a pickle runs whatever its writer wanted to run. Here files are only looked at.
"""

from __future__ import annotations

import os
import pickletools
import zipfile
from pathlib import Path
from typing import BinaryIO, Final

from fdan.errors import FdanError

SUFFIXES: Final = (
    *(".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle", ".pt", ".pth", ".pt2", ".ckpt"),
    *(".bin", ".npz"),
)
"""Names under which pickles are kept, or what may hold some."""

# Opcodes that make sense one after the other: a file is called a pickle before its end, or, where
# nothing else speaks for that, is taken for text at last.
_ENOUGH: Final = 32
_MANY: Final = 10_000

# Without one of these a pickle can hold data only.
_REACHING: Final = {"GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"}


class PickleError(FdanError):
    """A file that is a pickle, or is named as one."""


def pickled(file: Path) -> str:
    """Why a file passes for a pickle, in words that go on from its name; empty where it does not.
    Raises OSError."""
    if file.suffix.lower() in SUFFIXES:
        return f"is named {file.suffix.lower()}, as pickles are"
    if zipfile.is_zipfile(file):
        return "is a zip archive, as torch's pickles are"
    with file.open("rb") as stream:
        start = stream.read(256)
        if start.startswith(b"\x93NUMPY") and b"'|O'" in start:
            return "is a NumPy array of pickled objects"
        return "is a pickle" if _reads_as_pickle(stream) else ""


def check_no_pickle(folder: Path) -> None:
    """Raises PickleError for the first file below the folder that is one."""
    for file in sorted(folder.rglob("*")):
        if file.is_file() and (why := pickled(file)):
            raise PickleError(f"{file} {why}: models here are tensors and code, never a pickle")


def _reads_as_pickle(stream: BinaryIO) -> bool:
    """Whether its opcodes, of which nothing is executed, make sense up to the last one. Where there
    is no mark in front, as in the oldest protocols, that is the file's last byte, or they reach for
    code: a few letters of any text make sense."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - 1))
    ends = stream.read() == b"."
    stream.seek(0)
    mark = stream.read(2)
    marked = mark[:1] == b"\x80" and mark[1:] in (b"\2", b"\3", b"\4", b"\5")
    stream.seek(0)
    count, reaches = 0, False
    try:
        for opcode, _, _ in pickletools.genops(stream):
            count += 1
            reaches = reaches or opcode.name in _REACHING
            if marked and count == _ENOUGH:
                return True
            if count == _MANY and not (marked or ends or reaches):
                return False
    except Exception:  # whatever pickletools raises at the first thing that is no opcode
        return False
    return count > 1 and (marked or reaches or not stream.read(1))
