"""What is kept on disk of each trial: what it reported, always; its checkpoint, while it may be
needed. A hundred trials of two tuned ResNet-34 would otherwise fill 34 GB."""

from __future__ import annotations

import shutil
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from search.study.events import StudyCallback, TrialOutcome
from search.worker.trial_folder import CHECKPOINT, trial_folder


class Kept(StudyCallback):
    """A callback that keeps the checkpoints of the best trial and of those under way."""

    def __init__(self, study: Path, best: tuple[int, float] | None) -> None:
        """study: its folder; best: number and value of the best complete trial so far."""
        self._study = study
        self._best = best

    def on_trial_end(self, outcome: TrialOutcome) -> None:
        value = outcome.value
        if (
            outcome.state is not TrialState.COMPLETE
            or value is None
            or (self._best is not None and not _better((outcome.number, value), self._best))
        ):
            _drop(self._study, outcome.number)
        else:
            before, self._best = self._best, (outcome.number, value)
            if before is not None:
                _drop(self._study, before[0])


def sweep(study: Path, trials: list[FrozenTrial], best: FrozenTrial | None) -> None:
    """Drop the checkpoints of ended trials that a driver had no more time to drop."""
    for trial in trials:
        if trial.state.is_finished() and (best is None or trial.number != best.number):
            _drop(study, trial.number)


def _drop(study: Path, number: int) -> None:
    shutil.rmtree(trial_folder(study, number) / CHECKPOINT, ignore_errors=True)


def _better(one: tuple[int, float], other: tuple[int, float]) -> bool:
    """Of two (number, value): as `study.best` chooses, the earlier one of equals."""
    return (one[1], -one[0]) > (other[1], -other[0])
