"""One process that decodes media files, each in bounded time and memory.

A file that crashes the process, hangs in a decoder or eats memory costs that file alone. A plain
subprocess rather than multiprocessing: a spawned child would import the caller's main script,
torch with it.
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
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from fdan.errors import DataError
from fdan.files import PROJECT_ROOT
from fdan.media.pixels import Pixels, Settings
from fdan.media.worker import LENGTH, MEMORY_MB, OUT_OF_MEMORY

# Seconds that a process may take to start; a loaded machine with a cold disk takes many.
_START_S: Final = 300.0


class _LostError(Exception):
    """The process ended or was ended while it worked on a file."""


class _TooSlowError(_LostError):
    pass


class Process:
    """One process, started on first use at the latest, and again after it was lost."""

    def __init__(self, settings: Settings, timeout_s: float) -> None:
        self._settings = settings
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
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
            for path in paths:
                answers.append(self.answer(path))
        except _TooSlowError:
            self.end()
            answers.append(f"took longer than {self._timeout_s:g} s to read")
        except _LostError as lost:
            self.end()
            # The file may be innocent (memory was short, say): once more, by itself.
            answers.append(self._again(paths[len(answers)], str(lost)))
        return answers

    def answer(self, path: Path) -> Pixels | str:
        """Wait for the answer on `path`, the next of those that were asked for."""
        answer: Pixels | str = self._hear(self._timeout_s)
        return answer

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
            return self.answer(path)
        except _LostError:
            self.end()
            return reason

    def _ask(self, paths: Sequence[Path]) -> None:
        self.start()
        if not self._ready:
            self._await()
        self._say([str(path) for path in paths])

    def start(self) -> None:
        """Start the process, if it is not there, and do not wait for it."""
        if self._process is not None:
            return
        package = PROJECT_ROOT
        search = [str(package), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, search)),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            # glibc keeps what a file took for the next one: to take it from the system each time
            # and give it back is more than half of reading a speech file.
            "MALLOC_MMAP_THRESHOLD_": str(2**25),
            "MALLOC_TRIM_THRESHOLD_": str(2**27),
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
        self._ready = False
        with contextlib.suppress(_LostError):  # it has ended already: whoever awaits it says so
            self._say((self._settings, self._timeout_s))

    def _await(self) -> None:
        """Until the process can read files. DataError if it never can."""
        try:
            reason = self._hear(_START_S)
        except _LostError as lost:
            self.end()
            raise DataError(
                f"cannot start a process to decode media ({lost}): python -m fdan.media.worker"
            ) from lost
        if reason:
            self.end()
            raise DataError(str(reason))
        self._ready = True

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
        header = self._exactly(pipe, LENGTH.size, deadline)
        return pickle.loads(self._exactly(pipe, LENGTH.unpack(header)[0], deadline))

    def _exactly(self, pipe: int, size: int, deadline: float) -> bytearray:
        ready = select.poll()
        ready.register(pipe, select.POLLIN)
        data = bytearray(size)
        view = memoryview(data)
        while view:
            if not ready.poll(1000 * max(0.0, deadline - time.monotonic())):
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
        if code == OUT_OF_MEMORY:
            return f"needs more than {MEMORY_MB} MB of memory (damaged, or far too long or large)"
        if code is not None and code < 0:
            return f"decoding it ended the process (signal {-code})"
        return f"decoding it ended the process (exit code {code})"
