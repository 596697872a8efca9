"""A demo corpus is generated while the process does something else, such as imports that keep one
core busy for seconds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from fdan.corpora.demo import generate


class _Cancelled(BaseException):
    """Nobody waits for the corpus any more."""


class BackgroundDemo:
    """Writes the demo corpus to `folder`, or finds it there, from when this is made.

    A context manager: leaving it before the corpus is whole cancels it, and nothing stays behind.
    """

    def __init__(self, folder: Path, workers: int | None = None) -> None:
        self.folder = folder
        self._workers = workers
        self._error: BaseException | None = None
        self._cancelled = False
        # Not the thread's join: in Python 3.11, one that Ctrl-C interrupts takes the thread for
        # ended from then on.
        self._ended = threading.Event()
        self._progress: Callable[[int, int], None] = lambda done, total: None
        threading.Thread(target=self._write, name="demo corpus", daemon=True).start()

    def wait(self, progress: Callable[[int, int], None]) -> None:
        """Return when the corpus is there, calling `progress` with (utterances done, of how many)
        meanwhile. Raises what `generate` does."""
        self._progress = progress
        self._ended.wait()
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._cancelled = True
        self._ended.wait()

    def _write(self) -> None:
        try:
            generate(self.folder, progress=self._report, workers=self._workers)
        except _Cancelled:
            pass
        except BaseException as error:  # `wait` raises it
            self._error = error
        finally:
            self._ended.set()

    def _report(self, done: int, total: int) -> None:
        if self._cancelled:
            raise _Cancelled
        self._progress(done, total)
