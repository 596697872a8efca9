"""A study's events as records for MLflow, and what is kept on disk of each trial."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import TrialState

from fdan.emotions import EMOTIONS
from search.bridge import Closed
from search.report import Report
from search.space import Value
from search.trial import CHECKPOINT, folder_of
from tracking.tracker import Tracker


class Tracked:
    """A bridge's listener that feeds a Tracker: a child run for each trial.

    Figures are drawn in a thread, so that no trial waits for them, and handed to the tracker on
    the driver's thread with the next event, the last ones by `finish`.
    """

    def __init__(
        self,
        tracker: Tracker,
        fixed: Mapping[str, Any],
        tags: Mapping[str, Any],
        finished: int = 0,
        best: float | None = None,
    ) -> None:
        """fixed: settings that all trials share; tags: of every run; finished, best: trials that
        the study has had before, and the highest value of them."""
        self._tracker = tracker
        self._fixed = fixed
        self._tags = tags
        self._settings: dict[int, dict[str, Any]] = {}
        self._best = best
        self._closed = finished
        self._drawing = ThreadPoolExecutor(1, thread_name_prefix="figures")
        self._drawn: list[tuple[int, Future[list[Path]]]] = []
        self._folder = tempfile.TemporaryDirectory(prefix="fdan-figures-")

    def asked(self, number: int, params: Mapping[str, Value]) -> None:
        settings = self._settings[number] = {**self._fixed, **params}
        searched = ",".join(params)
        tags = {**self._tags, "trial": number, "searched": searched}
        self._tracker.open_trial(number, settings, tags)

    def reported(self, number: int, report: Report) -> None:
        metrics = {**report.metrics, "value": report.value}
        self._tracker.epoch(number, report.epoch, metrics)
        self._hand_over(wait=False)

    def closed(self, trial: Closed) -> None:
        settings = self._settings.pop(trial.number)
        tags = {} if trial.value is None else {"value": trial.value, "epochs": len(trial.reports)}
        self._tracker.close_trial(trial.number, trial.state.name, trial.reason, tags)
        self._closed += 1
        if trial.state is TrialState.COMPLETE and trial.value is not None:
            self._best = trial.value if self._best is None else max(self._best, trial.value)
        if self._best is not None:
            self._tracker.study_metrics(self._closed, {"best_value": self._best})
        folder = Path(self._folder.name, str(trial.number))
        self._drawn.append((trial.number, self._drawing.submit(_files, folder, settings, trial)))
        self._hand_over(wait=False)

    def finish(self) -> None:
        """Hand over what is still being drawn."""
        self._hand_over(wait=True)
        self._drawing.shutdown()
        self._folder.cleanup()

    def _hand_over(self, *, wait: bool) -> None:
        left = []
        for number, future in self._drawn:
            if not wait and not future.done():
                left.append((number, future))
                continue
            for file in future.result():
                self._tracker.artifact(number, file)
            shutil.rmtree(Path(self._folder.name, str(number)), ignore_errors=True)
        self._drawn = left


class Kept:
    """A bridge's listener that keeps the checkpoints of the best trial and of those under way.

    A hundred trials of two tuned ResNet-34 would otherwise fill 34 GB.
    """

    def __init__(self, study: Path, best: tuple[int, float] | None) -> None:
        self._study = study
        self._best = best

    def asked(self, number: int, params: Mapping[str, Value]) -> None:
        pass

    def reported(self, number: int, report: Report) -> None:
        pass

    def closed(self, trial: Closed) -> None:
        value = trial.value
        if (
            trial.state is not TrialState.COMPLETE
            or value is None
            or (self._best is not None and not _better((trial.number, value), self._best))
        ):
            self._drop(trial.number)
        else:
            before, self._best = self._best, (trial.number, value)
            if before is not None:
                self._drop(before[0])

    def _drop(self, number: int) -> None:
        folder = folder_of(self._study, number)
        shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _better(one: tuple[int, float], other: tuple[int, float]) -> bool:
    """Of two (number, value): as `study.best` chooses, the earlier one of equals."""
    return (one[1], -one[0]) > (other[1], -other[0])


def _files(folder: Path, settings: Mapping[str, Any], trial: Closed) -> list[Path]:
    """A closed trial's configuration, and its figures where it has reported something."""
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / "config.json"
    configuration.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    files = [configuration]
    if not trial.reports:
        return files
    from tracking import figures  # here: the first figure pays for matplotlib, not the start

    epochs = [(report.epoch, dict(report.metrics)) for report in trial.reports]
    curve = folder / "learning_curve.png"
    figures.learning_curve(epochs, curve, f"trial {trial.number}: {trial.reason}")
    files.append(curve)
    if confusion := trial.reports[-1].confusion:
        matrix = folder / "confusion_matrix.png"
        figures.confusion_matrix(
            np.array(confusion), EMOTIONS, matrix, f"trial {trial.number}, validation part"
        )
        files.append(matrix)
    return files
