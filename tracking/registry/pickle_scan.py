"""Pickles, recognised by name and content: no model of ours is one, and none is ever loaded.

Loading a pickle runs whatever its writer wanted to run. Here files are only read.
"""

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
"""Suffixes of pickles, and of files that may hold some."""

# After so many valid opcodes a file is called a pickle before its end ...
_MIN_OPCODES: Final = 32
# ... or, if nothing else speaks for that, taken for text.
_MAX_OPCODES: Final = 10_000

# Opcodes that import code. Without one of them a pickle can hold data only.
_IMPORTING: Final = {"GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"}


def pickle_reason(file: Path) -> str:
    """Why a file passes for a pickle, as a predicate of its name; empty if it does not. Raises
    OSError."""
    if file.suffix.lower() in SUFFIXES:
        return f"is named {file.suffix.lower()}, as pickles are"
    if zipfile.is_zipfile(file):
        return "is a zip archive, as torch's pickles are"
    with file.open("rb") as stream:
        start = stream.read(256)
        if start.startswith(b"\x93NUMPY") and b"'|O'" in start:
            return "is a NumPy array of pickled objects"
        return "is a pickle" if _reads_as_pickle(stream, start) else ""


def check_no_pickle(folder: Path) -> None:
    """Raises FdanError for the first file below the folder that passes for one."""
    for file in sorted(folder.rglob("*")):
        if file.is_file() and (reason := pickle_reason(file)):
            raise FdanError(f"{file} {reason}: models here are tensors and code, never a pickle")


def _reads_as_pickle(stream: BinaryIO, start: bytes) -> bool:
    """Whether its opcodes, none of which is executed, are valid up to the last one. A few letters
    of any text are: without a mark at its start, as in the oldest protocols, the last opcode must
    also be the file's last byte, or one of them must import code."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - 1))
    ends = stream.read() == b"."
    stream.seek(0)
    marked = start[:2] in (b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5")
    count, imports = 0, False
    try:
        for opcode, _, _ in pickletools.genops(stream):
            count += 1
            imports = imports or opcode.name in _IMPORTING
            if marked and count == _MIN_OPCODES:
                return True
            if count == _MAX_OPCODES and not (marked or ends or imports):
                return False
    except Exception:  # whatever pickletools raises at the first byte that is no opcode
        return False
    return count > 1 and (marked or imports or not stream.read(1))
