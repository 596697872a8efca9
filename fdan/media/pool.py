"""Processes that decode media files side by side, each file in bounded time and memory.

A file that crashes its process, hangs in a decoder or eats memory costs that file alone.
concurrent.futures cannot promise this: a worker that dies breaks its whole pool, and a task that
runs cannot be ended. Plain subprocesses rather than multiprocessing: a spawned child would import
the caller's main script, torch with it.
"""

import contextlib
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, Final

from fdan.errors import DataError
from fdan.machine.child_process import ErrorFile, module_command, module_environment
from fdan.machine.cpus import UNPINNED
from fdan.media.pixels import Pixels, Settings
from fdan.media.worker import MEMORY_MB, OUT_OF_MEMORY

_START_S: Final = 300.0  # for a process to start: a loaded machine with a cold disk takes many

_LONGEST: Final = 200  # characters of a process's last words

_ENVIRONMENT: Final = {
    **UNPINNED,
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


class DecoderPool(contextlib.AbstractContextManager["DecoderPool"]):
    """`count` processes that turn media files into images, each file within `timeout_s` seconds; a
    context manager that leaves none behind."""

    def __init__(self, settings: Settings, count: int, timeout_s: float) -> None:
        self._processes = [DecoderProcess(settings, timeout_s) for _ in range(count)]
        self._idle = deque(self._processes)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="media")

    def __exit__(self, *_: object) -> None:
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
        """One Pixels, or the reason why there is none, for each path, in order. DataError: the
        processes cannot be started."""
        # Bounded, so that one slow file does not let the images after it pile up in memory.
        limit = 8 * len(self._processes)
        pending: deque[Future[Pixels | str]] = deque()
        for path in paths:
            pending.append(self._threads.submit(self._read_file, path))
            if len(pending) > limit:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def _read_file(self, path: Path) -> Pixels | str:
        process = self._idle.popleft()  # as many processes as threads: never empty
        try:
            return process.read(path)
        finally:
            self._idle.append(process)


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
        with self._lock:
            if self._stopping:
                raise _LostError("it was stopped")
            self._pipe, theirs = Pipe()
            self._errors = ErrorFile()
            with theirs:
                self._process = subprocess.Popen(
                    module_command("fdan.media.worker"),
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=self._errors.fileno(),
                    env=module_environment(**_ENVIRONMENT),
                )
        self._ready = False
        self._send((self._settings, self._timeout_s))

    def read(self, path: Path) -> Pixels | str:
        """The images of a file, or the reason why there are none."""
        reason = ""
        for _ in range(2):
            try:
                self.start()
                if not self._ready:
                    self._wait_until_ready()
                return self.decode(path)
            except _LostError as lost:
                self.end()
                reason = reason or str(lost)
                # Else the file may be innocent (memory was short, say): once more.
                if isinstance(lost, _TooSlowError):
                    break
        return reason

    def decode(self, path: Path) -> Pixels | str:
        """Have the process, which is ready, read a file."""
        self._send(path)
        answer: Pixels | str = self._receive(self._timeout_s)
        self._errors.clear()
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
        if process is not None:
            process.kill()
            process.wait()
            self._pipe.close()
            self._errors.close()

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
            raise DataError(reason)
        self._ready = True

    def _send(self, message: object) -> None:
        with contextlib.suppress(OSError):  # it has ended already: _receive says so
            self._pipe.send(message)

    def _receive(self, seconds: float) -> Any:
        try:
            if not self._pipe.poll(seconds):
                raise _TooSlowError(f"took longer than {seconds:g} s to read")
            return self._pipe.recv()
        except (EOFError, OSError) as error:
            raise _LostError(self._exit_reason()) from error

    def _exit_reason(self) -> str:
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        code = self._process.returncode
        if code == OUT_OF_MEMORY:
            return f"needs more than {MEMORY_MB} MB of memory (damaged, or far too long or large)"
        if code is not None and code < 0:
            return f"decoding it ended the process (signal {-code})"
        line = self._errors.last_line()[:_LONGEST]
        return f"decoding it ended the process (exit code {code}{line and f': {line}'})"
