"""Which trials keep their checkpoint on disk: those under way and the best. A hundred trials of two
fine-tuned ResNet-34 would otherwise fill 34 GB. What a trial reported always stays."""

import shutil
from pathlib import Path

import optuna
from optuna.trial import TrialState

from search.study.events import StudyCallback, TrialOutcome
from search.study.status import best_trial, ranking_key
from search.worker.trial_folder import CHECKPOINT, trial_folder


class CheckpointRetention(StudyCallback):
    """Drops the checkpoint of each ended trial that is not the best so far. When it is made, it
    drops those that an earlier driver had no time to drop."""

    def __init__(self, folder: Path, study: optuna.Study) -> None:
        self._folder = folder
        best = best_trial(study)
        self._best = None if best is None else ranking_key(best)
        for trial in study.get_trials(deepcopy=False):
            if trial.state.is_finished() and (best is None or trial.number != best.number):
                self._drop(trial.number)

    def on_trial_end(self, outcome: TrialOutcome) -> None:
        ended = ranking_key(outcome)
        if outcome.state is not TrialState.COMPLETE or (self._best and self._best < ended):
            self._drop(outcome.number)
            return
        if self._best is not None:
            self._drop(self._best[1])
        self._best = ended

    def _drop(self, number: int) -> None:
        shutil.rmtree(trial_folder(self._folder, number) / CHECKPOINT, ignore_errors=True)
