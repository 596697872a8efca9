"""Which trials keep their checkpoint on disk: those under way and the best. A hundred trials of two
fine-tuned ResNet-34 would otherwise fill 34 GB. What a trial reported always stays."""

from __future__ import annotations

import shutil
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from search.study.events import StudyCallback, TrialOutcome
from search.worker.trial_folder import CHECKPOINT, trial_folder


class CheckpointRetention(StudyCallback):
    """Drops the checkpoint of each ended trial that is not the best so far."""

    def __init__(self, study_folder: Path, best: FrozenTrial | None) -> None:
        """
        Args:
            study_folder: The study's folder.
            best: The best complete trial so far.
        """
        self._folder = study_folder
        self._best: tuple[float, int] | None = None
        """Value and negative number, so that of equal values the earlier trial is the higher: the
        one that the study calls its best."""
        if best is not None and best.value is not None:
            self._best = (best.value, -best.number)

    def on_trial_end(self, outcome: TrialOutcome) -> None:
        if outcome.state is TrialState.COMPLETE and outcome.value is not None:
            candidate = (outcome.value, -outcome.number)
            if self._best is None or candidate > self._best:
                if self._best is not None:
                    _drop(self._folder, -self._best[1])
                self._best = candidate
                return
        _drop(self._folder, outcome.number)


def drop_ended(study_folder: Path, trials: list[FrozenTrial], best: FrozenTrial | None) -> None:
    """Drop the checkpoints of ended trials that an earlier driver had no time to drop.

    Args:
        study_folder: The study's folder.
        trials: All trials of the study.
        best: The best complete trial, which keeps its checkpoint.
    """
    for trial in trials:
        if trial.state.is_finished() and (best is None or trial.number != best.number):
            _drop(study_folder, trial.number)


def _drop(study_folder: Path, number: int) -> None:
    shutil.rmtree(trial_folder(study_folder, number) / CHECKPOINT, ignore_errors=True)
