"""Hashes of files' contents, remembered by size and time so that a second start is quick."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Final

from fdan.corpora.pixel_table import read_cell, table_of
from fdan.errors import DataError
from fdan.files import sha256_file, write_atomic
from fdan.lock import wait_for_lock

_FRESH_NS: Final = 2_000_000_000  # a younger file may change again within its time stamp's grain
_Entry = list[int | str]  # [size, mtime_ns, sha256] of a file


@dataclass(frozen=True)
class Content:
    """SHA-256 of a file in hex, or the reason why there is none."""

    sha256: str = ""
    problem: str = ""


class ContentCache:
    """A small JSON file of path -> [size, mtime_ns, sha256], shared by all that prepare here."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known = self._load()

    def knows(self, paths: Sequence[Path]) -> bool:
        """Whether all were hashed here before."""
        return all(str(path.absolute()) in self._known for path in paths)

    def hash(
        self, paths: Sequence[Path], threads: int, progress: Callable[[int], None]
    ) -> list[Content]:
        """The content of each file, those that are known without reading them.

        Args:
            paths: Files to hash.
            threads: Number of files read at once.
            progress: Callback that is given how many are done.
        """
        fresh: dict[str, _Entry] = {}
        contents = []
        with ThreadPoolExecutor(threads) as pool:
            for content in pool.map(lambda path: self._hash_file(path, fresh), paths):
                contents.append(content)
                progress(len(contents))
        if fresh:
            with wait_for_lock(self._file.with_name(f"{self._file.name}.lock")):
                self._known = {**self._load(), **fresh}
                write_atomic(self._file, json.dumps(self._known))
        return contents

    def _hash_file(self, path: Path, fresh: dict[str, _Entry]) -> Content:
        """Hash a file; `fresh` then has its entry, if that is worth remembering."""
        try:
            file = table_of(path) or path
            stat = file.stat()
            if not S_ISREG(stat.st_mode):  # a pipe would be read for ever
                return Content(problem="is not a regular file")
            known = self._known.get(str(path.absolute()))
            if known and known[:2] == [stat.st_size, stat.st_mtime_ns]:
                return Content(str(known[2]))
            cell = read_cell(path).encode() if file is not path else None
            sha256 = sha256_file(path) if cell is None else hashlib.sha256(cell).hexdigest()
        except OSError as error:
            return Content(problem=f"cannot be read ({error.strerror or error})")
        except DataError as error:
            return Content(problem=str(error))
        if time.time_ns() - stat.st_mtime_ns > _FRESH_NS:
            fresh[str(path.absolute())] = [stat.st_size, stat.st_mtime_ns, sha256]
        return Content(sha256)

    def _load(self) -> dict[str, _Entry]:
        try:
            known = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # absent or damaged: only time is lost
            return {}
        return known if isinstance(known, dict) else {}
