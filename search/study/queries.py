"""What a study's storage says about its trials."""

from __future__ import annotations

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState


def ranking_key(value: float, number: int) -> tuple[float, int]:
    """Sorts trials, the best first: by value, the earlier one of equals first.

    Args:
        value: The trial's, which is maximised.
        number: The trial's.
    """
    return -value, number


def complete_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The complete trials, the best first."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(trials, key=lambda trial: ranking_key(trial.value or 0.0, trial.number))


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """The complete trial of highest value, the earliest of equals; None where none is complete."""
    return next(iter(complete_trials(study)), None)


def running_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that were started and have not ended, in the order of their numbers. Where no driver
    lives, they are those that the next one resumes."""
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def count_finished(study: optuna.Study) -> dict[str, int]:
    """Finished trials by Optuna's state."""
    counts = {state.name: 0 for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)}
    for trial in study.get_trials(deepcopy=False):
        if trial.state.is_finished():
            counts[trial.state.name] += 1
    return counts


def count_started(name: str, storage: BaseStorage) -> int:
    """How many trials a study has started so far; 0 where there is no such study yet.

    Args:
        name: The study's in the storage.
        storage: Where it is kept.
    """
    if name not in optuna.get_all_study_names(storage):
        return 0
    study_id = storage.get_study_id_from_name(name)
    trials = storage.get_all_trials(study_id, deepcopy=False)
    return sum(trial.state != TrialState.WAITING for trial in trials)
