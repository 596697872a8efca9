"""Closed trials' figures, drawn by a process of their own.

In a thread of the driver, drawing would take the interpreter from Tune, Optuna and the spool for a
twentieth of a second, at the end of each trial.

`python -m search.callbacks.trial_figures` is that process: jobs come in on its standard input,
answers go out on its standard output, and it ends when its driver does, however that ends.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from fdan.emotions import EMOTIONS
from fdan.errors import DiskFull, FdanError, disk_full
from fdan.files import PROJECT_ROOT
from search.callbacks import trial_plots as figures

CONFIGURATION = "config.json"

CURVE, MATRIX = "learning_curve.png", "confusion_matrix.png"

_STUCK_S = 180.0
"""A trial's figures take a tenth of a second, and what draws them two to start, or a minute where
each core has many trials; a process that is silent for so long is replaced."""


@dataclass(frozen=True)
class Job:
    """What is to be drawn, in `folder`."""

    folder: Path
    number: int
    reason: str
    epochs: Sequence[tuple[int, Mapping[str, float]]]
    """Each epoch's metrics, in order; none: there is nothing to draw."""
    confusion: Sequence[Sequence[int]]
    """(7, 7) counts, or empty."""

    @property
    def files(self) -> frozenset[str]:
        """Names of what comes of it."""
        if not self.epochs:
            return frozenset((CONFIGURATION,))
        figures = (CURVE, MATRIX) if self.confusion else (CURVE,)
        return frozenset((CONFIGURATION, *figures))


class Drawing:
    """Draws one trial after another, while the driver goes on."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="figures")
        self._process: subprocess.Popen[bytes] | None = None
        self._over = False
        self._thread.submit(self._start)  # so that it has imported what it needs by its first job

    def submit(self, job: Job, settings: Mapping[str, Any]) -> Future[list[Path]]:
        """The trial's files when they are there; without figures where the process that draws them
        ended twice. Raises FdanError where they cannot be written."""
        return self._thread.submit(self._files, job, settings)

    def close(self, *, at_once: bool = False) -> None:
        """Draw what is left, or at_once nothing more, and end."""
        if at_once:
            self._over = True
            self._kill()
        self._thread.shutdown(cancel_futures=at_once)
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """What an error or an insisting Ctrl-C leaves undrawn, the study's next start draws."""
        self.close(at_once=error is not None)

    def _files(self, job: Job, settings: Mapping[str, Any]) -> list[Path]:
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

    def _figures(self, job: Job) -> Sequence[Path]:
        for _ in range(2 if job.epochs else 0):  # somebody may have ended the process
            try:
                answer = self._ask(job)
            except (OSError, EOFError, pickle.UnpicklingError):
                self._end()
                continue
            if isinstance(answer, BaseException):
                raise answer
            figures: Sequence[Path] = answer
            return figures
        return ()  # figures must not cost the study its end

    def _ask(self, job: Job) -> Any:
        process = self._start()
        assert process.stdin is not None and process.stdout is not None
        limit = threading.Timer(_STUCK_S, process.kill)
        limit.daemon = True
        limit.start()
        try:
            pickle.dump(job, process.stdin)
            process.stdin.flush()
            return pickle.load(process.stdout)
        finally:
            limit.cancel()

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            package = str(PROJECT_ROOT)
            paths = filter(None, [package, os.environ.get("PYTHONPATH")])
            self._process = subprocess.Popen(
                [sys.executable, "-m", "search.callbacks.trial_figures"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is for the driver
            )
        if self._over:
            self._kill()
        return self._process

    def _kill(self) -> None:
        """From any thread: whoever waits for the process goes on."""
        if (process := self._process) is not None:
            process.kill()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def _draw(job: Job) -> list[Path]:
    curve = job.folder / CURVE
    files = [figures.learning_curve(job.epochs, curve, f"trial {job.number}: {job.reason}")]
    if job.confusion:
        matrix = job.folder / MATRIX
        title = f"trial {job.number}, validation part"
        files.append(figures.confusion_matrix(np.array(job.confusion), EMOTIONS, matrix, title))
    return files


def main() -> None:
    os.nice(10)  # figures are in nobody's way: trials and their driver come first
    # Before the first job: it takes a second or two.
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401

    answers = sys.stdout.buffer
    while True:
        try:
            job = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer: Any = _draw(job)
        except Exception as error:  # a full disk, say: the driver's to tell
            answer = error
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    main()
