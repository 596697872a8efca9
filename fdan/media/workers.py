"""Media files decoded side by side in processes of their own, in order, each in bounded time.

A file that crashes its process or hangs in a decoder costs that file alone. Plain subprocesses
rather than multiprocessing: a spawned child would import the caller's main script, torch with it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import selectors
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from fdan.errors import DataError
from fdan.media.pixels import Pixels, Settings
from fdan.media.worker import LENGTH

# Seconds that a process may take to start; a loaded machine with a cold disk takes many.
_START_S: Final = 300.0
# Files sent to a process at once, so that it never waits for the next.
_BATCH: Final = 8


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Workers:
    """Processes that turn media files into images; a context manager that leaves none behind."""

    def __init__(self, settings: Settings, count: int, timeout_s: float) -> None:
        self._processes = [_Process(settings, timeout_s) for _ in range(count)]
        self._idle: deque[_Process] = deque(self._processes)
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

    def read(self, paths: Sequence[Path]) -> Iterator[Pixels | str]:
        """One Pixels, or the reason why there is none, a path: in the order of `paths`.

        Raises:
            DataError: the processes cannot be started.
        """
        batches = iter([paths[at : at + _BATCH] for at in range(0, len(paths), _BATCH)])
        # Bounded, so that one slow file does not let the images after it pile up in memory.
        ahead = 2 * len(self._processes) + 1
        pending: deque[Future[list[Pixels | str]]] = deque()
        for batch in batches:
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


class _LostError(Exception):
    """The process ended or was ended while it worked on a file."""


class _TooSlowError(_LostError):
    pass


class _Process:
    """One process, started on first use and again after it was lost."""

    def __init__(self, settings: Settings, timeout_s: float) -> None:
        self._settings = settings
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self._lock = threading.Lock()

    def stop(self) -> None:
        """From another thread: no more answers. The thread that reads then sees the end."""
        with self._lock:
            self._stopping = True
            if self._process is not None:
                self._process.kill()

    def read(self, paths: Sequence[Path]) -> list[Pixels | str]:
        """At least one answer, at most one a path, in their order."""
        answers: list[Pixels | str] = []
        try:
            self._ask(paths)
            for _ in paths:
                answers.append(self._hear(self._timeout_s))
        except _TooSlowError:
            self.end()
            answers.append(f"took longer than {self._timeout_s:g} s to read")
        except _LostError as lost:
            self.end()
            # The file may be innocent (memory was short, say): once more, by itself.
            answers.append(self._again(paths[len(answers)], str(lost)))
        return answers

    def end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()

    def _again(self, path: Path, reason: str) -> Pixels | str:
        try:
            self._ask([path])
            answer: Pixels | str = self._hear(self._timeout_s)
            return answer
        except _LostError:
            self.end()
            return reason

    def _ask(self, paths: Sequence[Path]) -> None:
        if self._process is None:
            self._start()
        self._say([str(path) for path in paths])

    def _start(self) -> None:
        package = Path(__file__).resolve().parents[2]
        search = [str(package), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, search)),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "OPENCV_LOG_LEVEL": "SILENT",
            "OPENCV_FFMPEG_LOGLEVEL": "-8",
        }
        with self._lock:
            if self._stopping:
                raise _LostError("it was stopped")
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fdan.media.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=environment,
            )
        try:
            self._say((self._settings, self._timeout_s))
            reason = self._hear(_START_S)
        except _LostError as lost:
            self.end()
            raise DataError(
                f"cannot start a process to decode media ({lost}): python -m fdan.media.worker"
            ) from lost
        if reason:
            self.end()
            raise DataError(str(reason))

    def _say(self, message: Any) -> None:
        process = self._process
        assert process is not None and process.stdin is not None
        data = pickle.dumps(message)
        view = memoryview(LENGTH.pack(len(data)) + data)
        try:
            while view:
                view = view[process.stdin.write(view) or 0 :]
        except OSError as error:
            raise _LostError(self._last_words()) from error

    def _hear(self, seconds: float) -> Any:
        process = self._process
        assert process is not None and process.stdout is not None
        deadline = time.monotonic() + seconds
        pipe = process.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            header = self._exactly(pipe, selector, LENGTH.size, deadline)
            data = self._exactly(pipe, selector, LENGTH.unpack(header)[0], deadline)
        return pickle.loads(data)

    def _exactly(
        self, pipe: int, selector: selectors.BaseSelector, size: int, deadline: float
    ) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise _TooSlowError
            read = os.readv(pipe, [view])
            if not read:
                raise _LostError(self._last_words())
            view = view[read:]
        return data

    def _last_words(self) -> str:
        process = self._process
        assert process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        code = process.returncode
        if code is not None and code < 0:
            return f"decoding it ended the process (signal {-code})"
        return f"decoding it ended the process (exit code {code})"
