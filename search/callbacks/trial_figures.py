"""Figures of ended trials, drawn in a process of their own.

In a thread of the driver, drawing would take the interpreter from Tune, Optuna and the spool for a
twentieth of a second at the end of each trial.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from fdan.emotions import EMOTIONS
from fdan.errors import DiskFull, FdanError, disk_full

CONFIGURATION = "config.json"
CURVE, MATRIX = "learning_curve.png", "confusion_matrix.png"

_TIMEOUT_S = 180.0
"""A trial's figures take a tenth of a second, and the process two seconds to start, or a minute
where each core has many trials. A process that is silent for so long is replaced."""


@dataclass(frozen=True)
class FigureJob:
    """What is drawn of a trial, and where."""

    folder: Path
    number: int
    reason: str
    epochs: Sequence[tuple[int, Mapping[str, float]]]
    """Each epoch's metrics, in order. Without any there is nothing to draw."""
    confusion: Sequence[Sequence[int]]
    """(7, 7) counts, or empty."""

    @property
    def files(self) -> frozenset[str]:
        """Names of the files that the job makes."""
        figures = (CURVE, MATRIX) if self.confusion else (CURVE,)
        return frozenset((CONFIGURATION, *(figures if self.epochs else ())))


class TrialFigures:
    """Draws one trial after another in another process while the driver goes on.

    The process is replaced when it dies or hangs, and ends with its driver, however that ends.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="figures")
        self._pool: ProcessPoolExecutor | None = None
        self._pid: Future[int] | None = None
        self._closed = False
        self._thread.submit(self._start)  # so that it has imported what it needs by its first job

    @property
    def pid(self) -> int | None:
        """The process that draws; None while there is none or it has not started yet."""
        future = self._pid
        known = future is not None and future.done() and future.exception() is None
        return future.result() if known and future is not None else None

    def submit(self, job: FigureJob, settings: Mapping[str, object]) -> Future[list[Path]]:
        """Draw a trial.

        Args:
            job: Figures to draw.
            settings: The content of the trial's config.json.

        Returns:
            The trial's files once they are written, without figures where the process died twice.
            Its result raises FdanError where they cannot be written.
        """
        return self._thread.submit(self._write, job, settings)

    def close(self, *, at_once: bool = False) -> None:
        """Draw what is left, or nothing more if at_once, and end the process."""
        if at_once:
            self._closed = True
            self._kill()
        self._thread.shutdown(cancel_futures=at_once)
        self._closed = True
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """What an error or a second Ctrl-C leaves undrawn, the study's next start draws."""
        self.close(at_once=error is not None)

    def _write(self, job: FigureJob, settings: Mapping[str, object]) -> list[Path]:
        try:
            job.folder.mkdir(parents=True, exist_ok=True)
            configuration = job.folder / CONFIGURATION
            configuration.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
            return [configuration, *self._figures(job)]
        except OSError as error:
            if disk_full(error):
                raise DiskFull(job.folder) from None
            reason = error.strerror or error
            raise FdanError(f"{job.folder}: figures cannot be written: {reason}") from None

    def _figures(self, job: FigureJob) -> list[Path]:
        for _ in range(2 if job.epochs else 0):  # somebody may have killed the process
            with contextlib.suppress(BrokenProcessPool, TimeoutError):
                return self._start().submit(_draw, job).result(_TIMEOUT_S)
            self._end()
        return []  # figures must not cost the study its end

    def _start(self) -> ProcessPoolExecutor:
        if self._closed:
            raise BrokenProcessPool("closed")
        if self._pool is None:
            spawn = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(1, mp_context=spawn, initializer=_initialize)
            # Ctrl-C is for the driver: the process inherits the mask from its first moment on.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                self._pid = self._pool.submit(os.getpid)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return self._pool

    def _kill(self) -> None:
        """End the process from any thread: whoever waits for it goes on."""
        if (pid := self.pid) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _end(self) -> None:
        self._kill()
        pool, self._pool, self._pid = self._pool, None, None
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def _initialize() -> None:
    os.setsid()  # signals to the driver's process group are not for this process
    os.nice(10)  # trials and their driver come first
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with(parent: multiprocessing.process.BaseProcess) -> None:
        parent.join()
        os._exit(0)

    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    # Before the first job: it takes a second or two.
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401


def _draw(job: FigureJob) -> list[Path]:
    from search.callbacks import trial_plots

    curve, title = job.folder / CURVE, f"trial {job.number}: {job.reason}"
    files = [trial_plots.learning_curve(job.epochs, curve, title)]
    if job.confusion:
        matrix, title = job.folder / MATRIX, f"trial {job.number}, validation part"
        counts = np.array(job.confusion)
        files.append(trial_plots.confusion_matrix(counts, EMOTIONS, matrix, title))
    return files
