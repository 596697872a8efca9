"""A demo corpus in the making while its process does something else: imports, say, which one core
does for seconds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from fdan.corpora.demo import generate


class _Left(BaseException):
    """Nobody waits for the corpus any more."""


class Ahead:
    """Writes the demo corpus to `folder`, or finds it there, from when this is made.

    To be entered: whoever leaves before it is whole ends it, and nothing of it stays behind.
    """

    def __init__(self, folder: Path, workers: int | None = None) -> None:
        self.folder = folder
        self._workers = workers
        self._error: BaseException | None = None
        self._left = False
        # Not the thread's join: in Python 3.11 one that Ctrl-C interrupts takes the thread for
        # ended from then on.
        self._ended = threading.Event()
        self._tell: Callable[[int, int], None] = lambda done, total: None
        threading.Thread(target=self._write, name="demo corpus", daemon=True).start()

    def wait(self, tell: Callable[[int, int], None]) -> None:
        """Returns when the corpus is there. tell: called with (utterances done, of how many).
        Raises what `generate` does."""
        self._tell = tell
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
        self._left = True
        self._ended.wait()

    def _write(self) -> None:
        try:
            generate(self.folder, progress=self._told, workers=self._workers)
        except _Left:
            pass
        except BaseException as error:  # for whoever waits
            self._error = error
        finally:
            self._ended.set()

    def _told(self, done: int, total: int) -> None:
        if self._left:
            raise _Left
        self._tell(done, total)
