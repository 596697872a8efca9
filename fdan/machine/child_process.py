"""Modules of this project that run in a process of their own."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import IO

from fdan.files import PROJECT_ROOT

_TAIL = 2000  # bytes in which the last line is looked for
_HERE = ("", ".")  # the working folder, on a search path


def module_command(module: str) -> list[str]:
    """The command that runs a module of this project. Without -P, Python would first look into the
    working folder, where a `struct.py` or another clone of this project may lie."""
    return [sys.executable, "-P", "-m", module]


def module_environment(**variables: str) -> dict[str, str]:
    """The environment for `module_command`: it imports the project that this process has imported,
    and draws without the backend of a notebook, whose package it may lack.

    Args:
        **variables: Further variables.
    """
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    search = [str(PROJECT_ROOT), *(path for path in paths if path not in _HERE)]
    own = {"PYTHONPATH": os.pathsep.join(search), "MPLBACKEND": "agg"}
    return {**os.environ, **own, **variables}


@contextlib.contextmanager
def isolated_children() -> Iterator[None]:
    """Processes that `multiprocessing` starts meanwhile import this project as this process did:
    not from the working folder, nor from the code that a registered model brought along."""
    before, search_path = os.environ.get("PYTHONSAFEPATH"), list(sys.path)
    os.environ["PYTHONSAFEPATH"] = "1"
    sys.path.insert(0, str(PROJECT_ROOT))
    try:
        yield
    finally:
        sys.path[:] = search_path
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


class ErrorFile:
    """What a process of ours writes to stderr, for the line that tells why it ended."""

    _file: IO[bytes] | None = None

    def __init__(self) -> None:
        with contextlib.suppress(OSError):  # no temporary folder: nothing is kept
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (closed by `close`)

    def fileno(self) -> int:
        """For subprocess.Popen(stderr=...)."""
        return subprocess.DEVNULL if self._file is None else self._file.fileno()

    def clear(self) -> None:
        """Forget what was written so far, by a process that goes on."""
        if self._file is not None:
            self._file.seek(0)  # the process's own place in it, too
            self._file.truncate()

    def last_line(self) -> str:
        """The last line that is not empty; "" if there is none."""
        if self._file is None:
            return ""
        self._file.seek(max(0, self._file.seek(0, os.SEEK_END) - _TAIL))
        lines = self._file.read().decode(errors="replace").split("\n")
        return next((" ".join(line.split()) for line in reversed(lines) if line.strip()), "")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
