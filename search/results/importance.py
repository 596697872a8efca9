"""Importance of settings: PED-ANOVA over a study's complete trials, with intervals."""

import math
import warnings
from collections.abc import Sequence
from typing import Final

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from tracking.result import Importance, Importances

_TOP: Final = 0.25
"""Share of the complete trials that counts as good. PED-ANOVA's own default is a tenth, of which a
study of this size has two or three trials left."""

MIN_TRIALS_FOR_IMPORTANCE: Final = 20  # complete ones: the method wants five good ones

_REPEATS: Final = 80
_TAILS: Final = (2.5, 97.5)


def importances(study: optuna.Study) -> Importances:
    """How much each searched setting says about whether a complete trial is among the best quarter,
    as shares that sum to 1 (`mean`: of all the trials), the most important one first, each with its
    95 % interval over bootstrap samples of the trials.

    `enough` is false, and the order arbitrary, with fewer than MIN_TRIALS_FOR_IMPORTANCE complete
    trials, or where the interval of the first overlaps the interval of the last. `values` is empty
    where nothing can be computed: fewer than two different values of complete trials, or no
    setting that varies.

    Pruned trials are left out: their values belong to other budgets.
    """
    trials = [
        trial
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if trial.value is not None and math.isfinite(trial.value)
    ]
    shares = _shares(trials, study.direction)
    random, count = np.random.default_rng(0), len(trials)
    resampled = [
        _shares([trials[i] for i in random.integers(count, size=count)], study.direction)
        for _ in range(_REPEATS if shares else 0)
    ]
    values: dict[str, Importance] = {}
    for name, mean in sorted(shares.items(), key=lambda item: (-item[1], item[0])):
        # A sample without differences gives every setting a share of 0.
        drawn = [sample.get(name, 0.0) for sample in resampled]
        low, high = (float(end) for end in np.percentile(drawn, _TAILS))
        # The percentiles of few trials need not hold the share itself.
        values[name] = Importance(mean, min(low, mean), max(high, mean))
    ordered = list(values.values())
    apart = len(ordered) > 1 and ordered[0].low > ordered[-1].high
    return Importances(
        method="PED-ANOVA, best quarter of the complete trials",
        trials=len(trials),
        enough=len(trials) >= MIN_TRIALS_FOR_IMPORTANCE and apart,
        values=values,
    )


def _shares(
    trials: Sequence[FrozenTrial], direction: optuna.study.StudyDirection
) -> dict[str, float]:
    """Each setting's share; empty where the trials do not differ in value or in settings."""
    if len({trial.value for trial in trials}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about settings that few trials have
        drawn = optuna.create_study(storage=optuna.storages.InMemoryStorage(), direction=direction)
        drawn.add_trials(trials)
        raw = PedAnovaImportanceEvaluator(
            target_quantile=_TOP, region_quantile=1.0, evaluate_on_local=True
        ).evaluate(drawn)
    total = sum(raw.values())
    return {name: float(value / total) for name, value in raw.items()} if total > 0 else {}
