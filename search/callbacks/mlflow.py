"""Records what happens in a study for MLflow. Which tags a run gets: tracking/tags.py."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from search.callbacks.trial_figures import CONFIGURATION, CURVE, MATRIX, FigureJob, TrialFigures
from search.optimizer.space import Value
from search.study.events import StudyCallback, TrialOutcome, recorded_outcome
from search.worker.messages import EpochResult
from tracking import tags as tag
from tracking.tracker import Tracker

_DRAWING = "drawing"  # folder, beside the trials', of figures that the tracker does not have yet

_ALL = frozenset((CONFIGURATION, CURVE, MATRIX))


@dataclass(frozen=True)
class TrialRuns:
    """What the runs of a stage's trials have in common."""

    fixed: Mapping[str, object]  # settings that all trials share
    tags: Mapping[str, object]  # of every run
    made_from: Mapping[str, object] = field(default_factory=dict)
    """What each trial's config.json says beside its settings."""
    stage: str = tag.SEARCH
    """What the trials are for: SEARCH or CONFIRM."""
    trial_tags: Callable[[int], Mapping[str, object]] = lambda number: {}
    """Further tags of one of them."""


class MlflowCallback(StudyCallback):
    """Records a study's trials with a Tracker: a child run for each. Before its first event,
    `catch_up` records what earlier drivers did not.

    Figures are drawn in another process, so that no trial waits for them, and given to the tracker
    on the driver's thread with the next event, the last ones by `finish`.
    """

    def __init__(
        self, tracker: Tracker, drawing: TrialFigures, folder: Path, runs: TrialRuns
    ) -> None:
        """tracker: its parent run is open. drawing: its owner closes it. folder: that of the study,
        or of its confirming runs."""
        self._tracker = tracker
        self._drawing = drawing
        self._study = folder
        self._runs = runs
        self._settings: dict[int, dict[str, object]] = {}
        self._best: float | None = None
        self._finished = 0
        self._drawn: list[tuple[int, Future[list[Path]]]] = []
        self._folder = folder / _DRAWING
        shutil.rmtree(self._folder, ignore_errors=True)  # of a driver that was killed

    def catch_up(
        self,
        trials: Sequence[FrozenTrial],
        params: Callable[[FrozenTrial], Mapping[str, object]] = lambda trial: trial.params,
    ) -> None:
        """Record what a driver that died had no more time to record of the stage's trials that had
        ended. What was recorded of them is passed over. params: settings of a trial."""
        opened = self._tracker.open_trials(self._runs.stage)
        for number in sorted(opened):
            if number >= len(trials):
                self._tracker.close_run(self._run(number), tag.FAIL, "not in Optuna's storage")
        for trial in trials:
            if not trial.state.is_finished():
                continue
            self._count(trial)
            unclosed = trial.number in opened
            recorded = self._tracker.files[self._run(trial.number)]
            if not (unclosed or _ALL - recorded):
                continue
            outcome = recorded_outcome(trial, self._study)
            if unclosed:
                for report in outcome.reports:
                    self._record(trial.number, report)
                self._close(outcome)
            if self._job(outcome).files - recorded:
                self.draw(outcome, {**self._runs.fixed, **params(trial)})
        self._record_best()

    def on_trial_start(self, number: int, params: Mapping[str, Value]) -> None:
        settings = self._settings[number] = {**self._runs.fixed, **params}
        own = {tag.NUMBER: number, tag.SEARCHED: ",".join(params)}
        tags = {**self._runs.tags, **own, **self._runs.trial_tags(number)}
        self._tracker.open_run(self._run(number), settings, tags)

    def on_epoch(self, number: int, report: EpochResult) -> None:
        self._record(number, report)
        self._record_drawn(wait=False)

    def on_worker_lost(self, number: int, reason: str) -> None:
        tags = {tag.INTERRUPTIONS: self.interruptions(number) + 1, tag.LAST_INTERRUPTION: reason}
        self._tracker.set_tags(self._run(number), tags)

    def on_trial_placed(self, number: int, node: str) -> None:
        before = self._tracker.tags[self._run(number)].get(tag.NODE, "")
        nodes = before.split(", ") if before else []
        if node not in nodes[-1:]:
            tags = {tag.NODE: ", ".join([*nodes, node])}
            self._tracker.set_tags(self._run(number), tags)

    def on_trial_pause(self, number: int, reason: str) -> None:
        reason = f"{reason}: the same command goes on with it"
        self._tracker.close_run(self._run(number), tag.PAUSED, reason)

    def on_trial_end(self, outcome: TrialOutcome) -> None:
        self._close(outcome)
        self._count(outcome)
        self._record_best()
        self.draw(outcome, self._settings.pop(outcome.number))

    def draw(self, outcome: TrialOutcome, settings: Mapping[str, object]) -> None:
        """Have an ended trial's figures drawn and its configuration written."""
        drawn = self._drawing.submit(self._job(outcome), {**settings, **self._runs.made_from})
        self._drawn.append((outcome.number, drawn))
        self._record_drawn(wait=False)

    def interruptions(self, number: int) -> int:
        """How often a trial was resumed by another worker."""
        return int(self._tracker.tags[self._run(number)].get(tag.INTERRUPTIONS, 0))

    def finish(self) -> None:
        """Wait for what is still being drawn and record it."""
        self._record_drawn(wait=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, number: int) -> str:
        return tag.run_key(number, self._runs.stage)

    def _job(self, outcome: TrialOutcome) -> FigureJob:
        return FigureJob(
            self._folder / str(outcome.number),
            outcome.number,
            outcome.reason,
            [(report.epoch, dict(report.metrics)) for report in outcome.reports],
            outcome.reports[-1].confusion if outcome.reports else (),
        )

    def _record(self, number: int, report: EpochResult) -> None:
        metrics = {**report.metrics, tag.VALUE: report.value}
        self._tracker.log_metrics(self._run(number), report.epoch, metrics)

    def _close(self, outcome: TrialOutcome) -> None:
        value, state = outcome.value, outcome.state.name
        tags = {} if value is None else {tag.VALUE: value, tag.EPOCHS: len(outcome.reports)}
        self._tracker.close_run(self._run(outcome.number), state, outcome.reason, tags)

    def _count(self, ended: FrozenTrial | TrialOutcome) -> None:
        self._finished += 1
        if ended.state is TrialState.COMPLETE and ended.value is not None:
            self._best = ended.value if self._best is None else max(self._best, ended.value)

    def _record_best(self) -> None:
        if self._best is not None and self._runs.stage == tag.SEARCH:
            self._tracker.log_metrics(tag.STUDY_RUN, self._finished, {tag.BEST_VALUE: self._best})

    def _record_drawn(self, *, wait: bool) -> None:
        unfinished = []
        for number, future in self._drawn:
            if not wait and not future.done():
                unfinished.append((number, future))
                continue
            for file in future.result():
                self._tracker.log_artifact(self._run(number), file)
            shutil.rmtree(self._folder / str(number), ignore_errors=True)
        self._drawn = unfinished
