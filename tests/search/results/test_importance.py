"""How much each setting mattered, of studies whose truth is known."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import optuna
import pytest
from optuna.samplers import RandomSampler

from search.results.importance import MIN_TRIALS_FOR_IMPORTANCE, importances
from tracking.json_types import decode
from tracking.result import Importances

Objective = Callable[[optuna.Trial], float]


def study_of(objective: Objective, trials: int, seed: int = 0) -> optuna.Study:
    study = optuna.create_study(direction="maximize", sampler=RandomSampler(seed=seed))
    study.optimize(objective, n_trials=trials)
    return study


def one_matters(trial: optuna.Trial) -> float:
    alpha = trial.suggest_float("alpha", 1e-5, 1.0, log=True)
    trial.suggest_categorical("context", ["bank", None])
    if trial.suggest_int("layers", 0, 2):
        trial.suggest_categorical("heads", [1, 2])
    return -abs(math.log10(alpha) + 3)


def test_the_setting_that_matters_leads() -> None:
    study = study_of(one_matters, 60)
    # What was pruned or failed must not change anything.
    study.add_trial(optuna.create_trial(state=optuna.trial.TrialState.FAIL))
    began = time.process_time()
    found = importances(study)
    assert time.process_time() - began < 2
    names = list(found.values)
    assert names[0] == "alpha" and set(names) == {"alpha", "context", "layers", "heads"}
    assert found.trials == 60 and found.enough is True
    shares = [value.mean for value in found.values.values()]
    assert sum(shares) == pytest.approx(1) and shares == sorted(shares, reverse=True)
    assert found.values["alpha"].low > 0.5 > found.values["layers"].high
    for value in found.values.values():
        assert 0 <= value.low <= value.mean <= value.high <= 1
    assert importances(study) == found
    assert decode(Importances, json.loads(json.dumps(asdict(found)))) == found


def test_few_trials_are_not_enough() -> None:
    found = importances(study_of(one_matters, MIN_TRIALS_FOR_IMPORTANCE - 1))
    assert found.values and not found.enough
    # More of them make the interval of the first narrower.
    more = importances(study_of(one_matters, 120))
    first, later = (one.values["alpha"] for one in (found, more))
    assert later.high - later.low < first.high - first.low


def test_many_trials_of_noise_are_not_enough() -> None:
    def nothing_matters(trial: optuna.Trial) -> float:
        for name in "abc":
            trial.suggest_float(name, 0, 1)
        return float(np.random.default_rng(trial.number).random())

    for seed in range(3):
        found = importances(study_of(nothing_matters, 60, seed))
        assert found.values.keys() == {"a", "b", "c"} and not found.enough


def constant(trial: optuna.Trial) -> float:
    trial.suggest_float("lr", 0, 1)
    return 0.5


def no_settings(trial: optuna.Trial) -> float:
    return float(trial.number)


def one_value_each(trial: optuna.Trial) -> float:
    trial.suggest_categorical("lr", [0.1])
    return float(trial.number)


@pytest.mark.parametrize(
    ("objective", "trials"),
    [(one_matters, 0), (one_matters, 1), (constant, 30), (no_settings, 30), (one_value_each, 30)],
)
def test_nothing_to_tell(objective: Objective, trials: int) -> None:
    found = importances(study_of(objective, trials))
    assert (found.trials, found.enough, found.values) == (trials, False, {})
