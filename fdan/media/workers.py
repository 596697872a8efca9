"""Media files decoded side by side in processes of their own, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final

from fdan.media.pixels import Pixels, Settings
from fdan.media.process import Process

# Files sent to a process at once, at most, so that it seldom waits for the next.
_BATCH: Final = 4


class Workers:
    """Processes that turn media files into images; a context manager that leaves none behind."""

    def __init__(self, settings: Settings, count: int, timeout_s: float) -> None:
        self._processes = [Process(settings, timeout_s) for _ in range(count)]
        self._idle: deque[Process] = deque(self._processes)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="media")

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes:
            process.stop()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for process in self._processes:
            process.end()

    def start(self) -> None:
        """Start the processes, which takes them a fifth of a second, and do not wait for them."""
        for process in self._processes:
            process.start()

    def read(self, paths: Sequence[Path]) -> Iterator[Pixels | str]:
        """One Pixels, or the reason why there is none, a path: in the order of `paths`.

        Raises:
            DataError: the processes cannot be started.
        """
        # Bounded, so that one slow file does not let the images after it pile up in memory.
        ahead = 2 * len(self._processes) + 1
        pending: deque[Future[list[Pixels | str]]] = deque()
        for batch in _batches(paths, len(self._processes)):
            pending.append(self._threads.submit(self._batch, batch))
            if len(pending) > ahead:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()

    def _batch(self, paths: Sequence[Path]) -> list[Pixels | str]:
        process = self._idle.popleft()  # as many processes as threads: never empty
        answers: list[Pixels | str] = []
        try:
            while len(answers) < len(paths):
                answers += process.read(paths[len(answers) :])
            return answers
        finally:
            self._idle.append(process)


def _batches(paths: Sequence[Path], processes: int) -> Iterator[Sequence[Path]]:
    """The last ones are smaller, so that all processes end at about the same time."""
    at = 0
    while left := len(paths) - at:
        size = min(_BATCH, max(1, left // (2 * processes)))
        yield paths[at : at + size]
        at += size
