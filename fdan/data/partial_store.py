"""A store that is being made: `NAME.partial`. Its files grow together, file by file of the corpus,
so that whatever a kill leaves behind is a beginning that the next start continues."""

import io
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypedDict

import numpy as np
from numpy.typing import NDArray

from fdan.data import store as stored
from fdan.files import JsonLines, write_atomic
from fdan.lock import Lock, Owner, lock_owner, wait_for_lock
from fdan.media.pixels import Pixels, Settings, image_shape
from fdan.media.spectrogram import SpectrogramSettings
from fdan.media.speech_statistics import COLUMNS

_DONE: Final = "done.jsonl"


@dataclass(frozen=True)
class Preparing:
    """A store that a process is making now."""

    name: str
    files: int  # of the corpus, done
    owner: Owner


def lock_store(folder: Path, waiting: Callable[[], None]) -> Lock:
    """The right to make a store, once no other process has it.

    Args:
        folder: The store that will be there.
        waiting: Called about every half second while another process has it.
    """
    return wait_for_lock(folder.parent / f".{folder.name}.lock", waiting=waiting)


def stores_being_made(root: Path) -> list[Preparing]:
    """The stores that processes are making in a folder now. Only reads."""
    found = []
    for lock in sorted(root.glob(".*.lock")):
        name = lock.name[1 : -len(".lock")]
        if owner := lock_owner(lock):
            done = root / f"{name}.partial" / _DONE
            files = done.read_bytes().count(b"\n") if done.exists() else 0
            found.append(Preparing(name, files, owner))
    return found


class Done(TypedDict):
    """Outcome of one file of the corpus: a line of done.jsonl."""

    images: int
    reason: str  # why it is unreadable, empty if it is not
    counts: dict[str, int]


class PartialStore(AbstractContextManager["PartialStore"]):
    """A store that is being made: one line a file of the corpus in done.jsonl, its images and, of
    speech, its statistics in arrays that grow with it."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.done: list[Done] = []
        self._folder = folder
        folder.mkdir(exist_ok=True)
        self._images = _GrowingArray(folder / stored.IMAGES, np.uint8, image_shape(settings))
        self._arrays = [self._images]
        self._statistics: _GrowingArray | None = None
        if isinstance(settings, SpectrogramSettings):
            file = folder / stored.STATISTICS
            self._statistics = _GrowingArray(file, np.float32, (COLUMNS,))
            self._arrays.append(self._statistics)
        self._resume()
        self._lines = JsonLines(folder / _DONE)

    def __exit__(self, *_: object) -> None:
        for array in self._arrays:
            array.close()
        self._lines.close()

    def add(self, answer: Pixels | str) -> None:
        """Append the next file of the corpus: its images, or the reason why there are none."""
        entry: Done
        if isinstance(answer, str):
            entry = {"images": 0, "reason": answer, "counts": {}}
        else:
            entry = {"images": len(answer.images), "reason": "", "counts": answer.counts}
            # Arrays first: a line stands for images that are there.
            self._images.append(answer.images)
            if self._statistics is not None:
                assert answer.statistics is not None
                assert len(answer.statistics) == len(answer.images)
                self._statistics.append(answer.statistics)
        self._lines.append(entry)
        self.done.append(entry)

    def finish(self, manifest: dict[str, object]) -> None:
        """Complete the files; what is left is to rename the folder."""
        rows = sum(entry["images"] for entry in self.done)
        for array in self._arrays:
            array.finish(rows)
        write_atomic(self._folder / stored.MANIFEST, json.dumps(manifest), sync=True)
        (self._folder / _DONE).unlink()

    def _resume(self) -> None:
        """Keep what an earlier run left, as far as arrays and lines agree: nothing where a file is
        new."""
        lines, rows, complete = self._folder / _DONE, 0, min(array.rows for array in self._arrays)
        if complete >= 0 and lines.exists():
            for line in lines.read_bytes().splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:  # torn by the kill
                    break
                if rows + entry["images"] > complete:
                    break
                rows += entry["images"]
                self.done.append(entry)
        for array in self._arrays:
            array.truncate(rows)
        write_atomic(lines, "".join(f"{json.dumps(entry)}\n" for entry in self.done))


class _GrowingArray:
    """A .npy file that rows are appended to; its header says how many there are at the end."""

    def __init__(self, path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
        self._path, self._dtype, self._shape = path, np.dtype(dtype), shape
        self._row_bytes = int(np.prod(shape)) * self._dtype.itemsize
        self._file = path.open("a+b")
        header = self._header(0)
        size, self._start = self._file.seek(0, os.SEEK_END), len(header)
        self._file.seek(0)
        self.rows = (size - self._start) // self._row_bytes  # that are whole
        if self._file.read(self._start) != header:
            self._file.truncate(0)
            self._file.write(header)
            self.rows = -1  # the file is new

    def append(self, rows: NDArray[np.generic]) -> None:
        assert rows.shape[1:] == self._shape and rows.dtype == self._dtype
        self._file.write(rows.tobytes())
        self._file.flush()

    def truncate(self, rows: int) -> None:
        """Drop what comes after so many rows."""
        self._file.truncate(self._start + rows * self._row_bytes)

    def finish(self, rows: int) -> None:
        """Write their number into the header, and all of it to the disk."""
        with self._path.open("r+b") as file:
            file.write(self._header(rows))
            os.fsync(file.fileno())

    def close(self) -> None:
        self._file.close()

    def _header(self, rows: int) -> bytes:
        """NumPy's file header; NumPy leaves room in it for the first axis to grow."""
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header,
            {"descr": self._dtype.str, "fortran_order": False, "shape": (rows, *self._shape)},
        )
        return header.getvalue()
