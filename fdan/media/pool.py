"""Processes that decode media files side by side, each file in bounded time and memory.

A file that crashes its process, hangs in a decoder or eats memory costs that file alone.
concurrent.futures cannot promise this: a worker that dies breaks its whole pool, and a task that
runs cannot be ended. Plain subprocesses rather than multiprocessing: a spawned child would import
the caller's main script, torch with it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
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
from fdan.files import PROJECT_ROOT
from fdan.media.pixels import Pixels, Settings
from fdan.media.worker import LENGTH, MEMORY_MB, OUT_OF_MEMORY

_BATCH: Final = 4
"""Files sent to a process at once, at most, so that it seldom waits for the next."""

_START_S: Final = 300.0
"""Seconds that a process may take to start; a loaded machine with a cold disk takes many."""

_ENVIRONMENT: Final = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # glibc keeps what a file took for the next one: taking it from the system each time and giving
    # it back is more than half of reading a speech file.
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**27),
    "OPENCV_LOG_LEVEL": "SILENT",
    "OPENCV_FFMPEG_LOGLEVEL": "-8",
}


class DecoderPool:
    """Processes that turn media files into images; a context manager that leaves none behind."""

    def __init__(self, settings: Settings, count: int, timeout_s: float) -> None:
        """
        Args:
            settings: Settings that the images depend on.
            count: Number of processes.
            timeout_s: Seconds that one file may take.
        """
        self._processes = [DecoderProcess(settings, timeout_s) for _ in range(count)]
        self._idle: deque[DecoderProcess] = deque(self._processes)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="media")

    def __enter__(self) -> DecoderPool:
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
        """Start the processes without waiting: they import what they need meanwhile, which takes
        seconds for speech."""
        for process in self._processes:
            process.start()

    def read(self, paths: Sequence[Path]) -> Iterator[Pixels | str]:
        """One Pixels, or the reason why there is none, for each path, in order.

        Raises:
            DataError: The processes cannot be started.
        """
        # Bounded, so that one slow file does not let the images after it pile up in memory.
        limit = 2 * len(self._processes) + 1
        pending: deque[Future[list[Pixels | str]]] = deque()
        for batch in _batches(paths, len(self._processes)):
            pending.append(self._threads.submit(self._read_batch, batch))
            if len(pending) > limit:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()

    def _read_batch(self, paths: Sequence[Path]) -> list[Pixels | str]:
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


class _LostError(Exception):
    """The process ended or was ended while it worked on a file."""


class _TooSlowError(_LostError):
    pass


class DecoderProcess:
    """One process, started on first use at the latest, and again after it was lost."""

    def __init__(self, settings: Settings, timeout_s: float) -> None:
        self._settings = settings
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._stopping = False
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the process unless it runs, without waiting until it is ready."""
        if self._process is not None:
            return
        search = filter(None, [str(PROJECT_ROOT), os.environ.get("PYTHONPATH", "")])
        with self._lock:
            if self._stopping:
                raise _LostError("it was stopped")
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fdan.media.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(search)},
            )
        self._ready = False
        with contextlib.suppress(_LostError):  # it has ended already: _wait_until_ready says so
            self._send((self._settings, self._timeout_s))

    def read(self, paths: Sequence[Path]) -> list[Pixels | str]:
        """At least one answer, at most one for each path, in their order."""
        answers: list[Pixels | str] = []
        try:
            self._request(paths)
            for path in paths:
                answers.append(self.answer(path))
        except _TooSlowError:
            self.end()
            answers.append(f"took longer than {self._timeout_s:g} s to read")
        except _LostError as lost:
            self.end()
            # The file may be innocent (memory was short, say): once more, by itself.
            answers.append(self._retry(paths[len(answers)], str(lost)))
        return answers

    def answer(self, path: Path) -> Pixels | str:
        """Wait for the answer on `path`, the next of those that were requested."""
        answer: Pixels | str = self._receive(self._timeout_s)
        return answer

    def stop(self) -> None:
        """Called from another thread: give no more answers. The thread that reads sees the end."""
        with self._lock:
            self._stopping = True
            if self._process is not None:
                self._process.kill()

    def end(self) -> None:
        """Kill the process and wait for it."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()

    def _retry(self, path: Path, reason: str) -> Pixels | str:
        try:
            self._request([path])
            return self.answer(path)
        except _LostError:
            self.end()
            return reason

    def _request(self, paths: Sequence[Path]) -> None:
        self.start()
        if not self._ready:
            self._wait_until_ready()
        self._send([str(path) for path in paths])

    def _wait_until_ready(self) -> None:
        """Return when the process can read files. DataError if it never can."""
        try:
            reason = self._receive(_START_S)
        except _LostError as lost:
            self.end()
            raise DataError(
                f"cannot start a process to decode media ({lost}): python -m fdan.media.worker"
            ) from lost
        if reason:
            self.end()
            raise DataError(str(reason))
        self._ready = True

    def _send(self, message: object) -> None:
        process = self._process
        assert process is not None and process.stdin is not None
        data = pickle.dumps(message)
        view = memoryview(LENGTH.pack(len(data)) + data)
        try:
            while view:
                view = view[process.stdin.write(view) or 0 :]
        except OSError as error:
            raise _LostError(self._exit_reason()) from error

    def _receive(self, seconds: float) -> Any:
        process = self._process
        assert process is not None and process.stdout is not None
        deadline = time.monotonic() + seconds
        pipe = process.stdout.fileno()
        header = self._read_exactly(pipe, LENGTH.size, deadline)
        return pickle.loads(self._read_exactly(pipe, LENGTH.unpack(header)[0], deadline))

    def _read_exactly(self, pipe: int, size: int, deadline: float) -> bytearray:
        ready = select.poll()
        ready.register(pipe, select.POLLIN)
        data = bytearray(size)
        view = memoryview(data)
        while view:
            if not ready.poll(1000 * max(0.0, deadline - time.monotonic())):
                raise _TooSlowError
            read = os.readv(pipe, [view])
            if not read:
                raise _LostError(self._exit_reason())
            view = view[read:]
        return data

    def _exit_reason(self) -> str:
        process = self._process
        assert process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        code = process.returncode
        if code == OUT_OF_MEMORY:
            return f"needs more than {MEMORY_MB} MB of memory (damaged, or far too long or large)"
        if code is not None and code < 0:
            return f"decoding it ended the process (signal {-code})"
        return f"decoding it ended the process (exit code {code})"
