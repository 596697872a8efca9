"""Figures of ended trials, drawn in a process of their own.

In a thread of the driver, drawing would take the interpreter from Tune, Optuna and the spool for a
twentieth of a second at the end of each trial.

`python -m search.callbacks.trial_figures` is that process: jobs come in on its standard input,
answers go out on its standard output, and it ends when its driver does, however that ends. It is no
concurrent.futures pool: a spawned worker imports its user's main module, so that a script that
calls run_study without a guard would run again in it, and a worker that hangs while it starts
cannot be killed, since its pool does not say which process it is.
"""

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
from typing import Self

import numpy as np

from fdan.errors import DiskFull, FdanError, disk_full
from fdan.files import first_line
from fdan.machine.child_process import ErrorFile, module_command, module_environment
from search.callbacks.trial_plots import confusion_matrix, learning_curve

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
    epochs: Sequence[tuple[int, Mapping[str, float]]]  # (epoch, metrics); of none, nothing is drawn
    confusion: Sequence[Sequence[int]]  # (7, 7) counts, or empty

    @property
    def files(self) -> frozenset[str]:
        """Names of the files that the job makes."""
        images = (CURVE, MATRIX) if self.confusion else (CURVE,)
        return frozenset((CONFIGURATION, *(images if self.epochs else ())))


class TrialFigures:
    """Draws one trial after another in another process, which is replaced when it dies or hangs.

    Figures must not cost the study its end: `undrawn` says why some are missing.
    """

    def __init__(self) -> None:
        self.undrawn: list[str] = []  # the reason of each trial whose figures could not be drawn
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="figures")
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._thread.submit(self._start)  # so that it has imported what it needs by its first job

    def submit(self, job: FigureJob, settings: Mapping[str, object]) -> Future[list[Path]]:
        """Draw a trial. The result is its files once they are written, without figures where
        they cannot be drawn; it raises FdanError where they cannot be written.

        Args:
            job: Figures to draw.
            settings: The content of the trial's config.json.
        """
        return self._thread.submit(self._files, job, settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Draw what is left and end the process. After an error or a second Ctrl-C, which nobody
        wants to wait after, nothing more is drawn here: the study's next start does it."""
        if error is not None:
            self._closed = True
            if (process := self._process) is not None:
                process.kill()  # whoever waits for it goes on
        self._thread.shutdown(cancel_futures=error is not None)
        self._end()

    def _files(self, job: FigureJob, settings: Mapping[str, object]) -> list[Path]:
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

    def _figures(self, job: FigureJob) -> Sequence[Path]:
        if not job.epochs:
            return ()
        for _ in range(2):  # somebody may have ended the process
            try:
                answer = self._ask(job)
            except (OSError, EOFError, pickle.UnpicklingError):
                reason = self._end()
                continue
            if isinstance(answer, OSError):
                raise answer
            if not isinstance(answer, BaseException):
                return answer
            reason = f"{type(answer).__name__}: {first_line(answer)}"
            break
        self.undrawn.append(reason)
        return ()

    def _ask(self, job: FigureJob) -> list[Path] | BaseException:
        process = self._start()
        assert process.stdin is not None and process.stdout is not None
        limit = threading.Timer(_TIMEOUT_S, process.kill)
        limit.daemon = True
        limit.start()
        try:
            pickle.dump(job, process.stdin)
            process.stdin.flush()
            answer: list[Path] | BaseException = pickle.load(process.stdout)
            return answer
        finally:
            limit.cancel()

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._errors = ErrorFile()
            self._process = subprocess.Popen(
                module_command("search.callbacks.trial_figures"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors.fileno(),
                env=module_environment(OMP_NUM_THREADS="1"),
                start_new_session=True,  # Ctrl-C is for the driver
            )
        if self._closed:
            self._process.kill()
        return self._process

    def _end(self) -> str:
        """End the process; returns its last words."""
        process, self._process = self._process, None
        if process is None:
            return ""
        process.kill()
        process.communicate()
        line = self._errors.last_line()
        self._errors.close()
        ended = f"the process that draws ended with exit code {process.returncode}"
        return f"{ended}: {line}" if line else ended


def _draw(job: FigureJob) -> list[Path]:
    files = [learning_curve(job.epochs, job.folder / CURVE, f"trial {job.number}: {job.reason}")]
    if job.confusion:
        title = f"trial {job.number}, validation part"
        files.append(confusion_matrix(np.array(job.confusion), job.folder / MATRIX, title))
    return files


def main() -> None:
    os.nice(10)  # figures are in nobody's way: trials and their driver come first
    # Before the first job: it takes a second or two.
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401

    while True:
        try:
            job = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer: object = _draw(job)
        except Exception as error:  # a full disk, say: the driver's to tell
            answer = error
        pickle.dump(answer, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
