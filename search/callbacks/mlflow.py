"""A study's events as records for MLflow."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from search.callbacks.trial_figures import CONFIGURATION, CURVE, MATRIX, FigureJob, TrialFigures
from search.optimizer.space import Value
from search.study.events import StudyCallback, TrialOutcome
from search.study.open import REASON
from search.worker.epoch_log import read_epoch_log
from search.worker.messages import Report
from search.worker.trial_folder import trial_folder
from tracking.tags import (
    BEST_VALUE,
    EPOCHS,
    INTERRUPTIONS,
    LAST_INTERRUPTION,
    NODE,
    NUMBER,
    SEARCH,
    SEARCHED,
    VALUE,
)
from tracking.tracker import Tracker

_DRAWING = "drawing"
"""In the trials' folder: figures that are not with the tracker yet."""

_ALL = frozenset((CONFIGURATION, CURVE, MATRIX))


class Tracked(StudyCallback):
    """A callback that feeds a Tracker: a child run for each trial.

    Figures are drawn elsewhere, so that no trial waits for them, and handed to the tracker on the
    driver's thread with the next event, the last ones by `finish`.
    """

    def __init__(
        self,
        tracker: Tracker,
        drawing: TrialFigures,
        folder: Path,
        fixed: Mapping[str, Any],
        tags: Mapping[str, Any],
        finished: int = 0,
        best: float | None = None,
        stage: str = SEARCH,
        about: Callable[[int], Mapping[str, Any]] = lambda _: {},
        made_from: Mapping[str, Any] | None = None,
    ) -> None:
        """drawing: where figures are drawn, its owner's to close; folder: of the study, or of its
        confirming runs; fixed: settings that all trials share;
        tags: of every run; finished, best: trials that the study has had before, and the highest
        value of them; stage: what the trials are for; about: tags of one of them; made_from: what
        their config.json says beside the settings."""
        self._tracker = tracker
        self._fixed = fixed
        self._tags = tags
        self._settings: dict[int, dict[str, Any]] = {}
        self._best = best
        self._closed = finished
        self._stage = stage
        self._about = about
        self._made_from = made_from or {}
        self._drawing = drawing
        self._drawn: list[tuple[int, Future[list[Path]]]] = []
        self._study = folder
        self._folder = folder / _DRAWING
        shutil.rmtree(self._folder, ignore_errors=True)  # of a driver that was killed

    def catch_up(
        self,
        trials: Sequence[FrozenTrial],
        params: Callable[[FrozenTrial], Mapping[str, Any]] = lambda trial: trial.params,
    ) -> None:
        """What a driver that died had no more time to record of trials that had ended.

        trials: all of Optuna's; params: the settings of one. Everything that was recorded is passed
        over.
        """
        opened = self._tracker.open_trials(self._stage)
        for number in sorted(opened):
            if number >= len(trials):
                self._tracker.close_trial(
                    number, "FAIL", "not in Optuna's storage", stage=self._stage
                )
        for trial in trials:
            unclosed = trial.number in opened
            there = self._tracker.files(trial.number, self._stage)
            if not trial.state.is_finished() or not (unclosed or _ALL - there):
                continue
            closed = _ended(trial, self._study)
            if unclosed:
                for report in closed.reports:
                    self._record(trial.number, report)
                self._close(closed)
            if self._job(closed).files - there:
                self.draw(closed, {**self._fixed, **params(trial)})
        self._record_best()

    def on_trial_start(self, number: int, params: Mapping[str, Value]) -> None:
        settings = self._settings[number] = {**self._fixed, **params}
        searched = ",".join(params)
        tags = {**self._tags, NUMBER: number, SEARCHED: searched, **self._about(number)}
        self._tracker.open_trial(number, settings, tags, self._stage)

    def on_epoch(self, number: int, report: Report) -> None:
        self._record(number, report)
        self._hand_over(wait=False)

    def on_worker_lost(self, number: int, reason: str) -> None:
        times = self.interruptions(number) + 1
        tags = {INTERRUPTIONS: times, LAST_INTERRUPTION: reason}
        self._tracker.set_tags(number, tags, self._stage)

    def on_trial_placed(self, number: int, node: str) -> None:
        before = self._tracker.tag(number, NODE, self._stage)
        nodes = before.split(", ") if before else []
        if node not in nodes[-1:]:
            self._tracker.set_tags(number, {NODE: ", ".join([*nodes, node])}, self._stage)

    def on_trial_pause(self, number: int, reason: str) -> None:
        self._tracker.close_trial(
            number, "PAUSED", f"{reason}: the same command goes on with it", stage=self._stage
        )

    def on_trial_end(self, outcome: TrialOutcome) -> None:
        self._close(outcome)
        self._closed += 1
        if outcome.state is TrialState.COMPLETE and outcome.value is not None:
            self._best = outcome.value if self._best is None else max(self._best, outcome.value)
        self._record_best()
        self.draw(outcome, self._settings.pop(outcome.number))

    def draw(self, trial: TrialOutcome, settings: Mapping[str, Any]) -> None:
        """Have a closed trial's figures drawn and its configuration written."""
        drawn = self._drawing.submit(self._job(trial), {**settings, **self._made_from})
        self._drawn.append((trial.number, drawn))
        self._hand_over(wait=False)

    def interruptions(self, number: int) -> int:
        """How often a trial has gone on with another worker."""
        return int(self._tracker.tag(number, INTERRUPTIONS, self._stage) or 0)

    def finish(self) -> None:
        """Hand over what is still being drawn."""
        self._hand_over(wait=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _job(self, trial: TrialOutcome) -> FigureJob:
        return FigureJob(
            self._folder / str(trial.number),
            trial.number,
            trial.reason,
            [(report.epoch, dict(report.metrics)) for report in trial.reports],
            trial.reports[-1].confusion if trial.reports else (),
        )

    def _record(self, number: int, report: Report) -> None:
        metrics = {**report.metrics, VALUE: report.value}
        self._tracker.epoch(number, report.epoch, metrics, self._stage)

    def _close(self, trial: TrialOutcome) -> None:
        tags = {} if trial.value is None else {VALUE: trial.value, EPOCHS: len(trial.reports)}
        self._tracker.close_trial(trial.number, trial.state.name, trial.reason, tags, self._stage)

    def _record_best(self) -> None:
        if self._best is not None and self._stage == SEARCH:
            self._tracker.study_metrics(self._closed, {BEST_VALUE: self._best})

    def _hand_over(self, *, wait: bool) -> None:
        left = []
        for number, future in self._drawn:
            if not wait and not future.done():
                left.append((number, future))
                continue
            for file in future.result():
                self._tracker.artifact(number, file, stage=self._stage)
            shutil.rmtree(self._folder / str(number), ignore_errors=True)
        self._drawn = left


def _ended(trial: FrozenTrial, study: Path) -> TrialOutcome:
    """What the callbacks were told, or should have been, when the trial ended."""
    logged = read_epoch_log(trial_folder(study, trial.number))
    reports = [
        logged.get(epoch) or Report(epoch, value)
        for epoch, value in sorted(trial.intermediate_values.items())
    ]
    reason = trial.user_attrs.get(REASON, "")
    return TrialOutcome(trial.number, trial.state, reason, tuple(reports))
