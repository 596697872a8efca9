"""A demo corpus is generated while the process does something else, such as imports that keep one
core busy for seconds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, wait
from pathlib import Path
from typing import Self

from fdan.corpora.demo import generate


class BackgroundDemo:
    """Writes the demo corpus to `folder`, or finds it there, from when this is made.

    A context manager: leaving it before the corpus is whole cancels it, and nothing stays behind.
    """

    def __init__(self, folder: Path, workers: int | None = None) -> None:
        self.folder = folder
        self._workers = workers
        self._cancelled = False
        # Not the thread's join: in Python 3.11, one that Ctrl-C interrupts takes the thread for
        # ended from then on.
        self._written: Future[Path] = Future()
        self._progress: Callable[[int, int], None] = lambda done, total: None
        threading.Thread(target=self._write, name="demo corpus", daemon=True).start()

    def wait(self, progress: Callable[[int, int], None]) -> None:
        """Return when the corpus is there, calling `progress` with (utterances done, of how many)
        meanwhile. Raises what `generate` does."""
        self._progress = progress
        self._written.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cancelled = True
        wait([self._written])

    def _write(self) -> None:
        try:
            folder = generate(self.folder, progress=self._report, workers=self._workers)
            self._written.set_result(folder)
        except BaseException as error:  # `wait` raises it
            self._written.set_exception(error)

    def _report(self, done: int, total: int) -> None:
        if self._cancelled:
            raise CancelledError
        self._progress(done, total)
