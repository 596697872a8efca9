"""Ends a study early (`--stop-early`): when its next trials are expected to raise the best value by
less than the noise of a single value. A single trial is ended by its pruner alone
(search/optimizer/pruners.py).

The expected gain is that of peaks over a threshold (Davison and Smith 1990). An exponential law is
fitted to the best quarter of the newest complete values; it says how often a draw exceeds the best
so far, and by how much. A law is needed because no recorded value lies above the best. Where values
end at a wall (a perfect score), the law overestimates the gain, so that the study rather goes on.

Such draws do not know that a sampler is still climbing. So the next trials are expected to add at
least as much as the last ones did.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Final

import numpy as np
import optuna
from optuna.trial import TrialState

from fdan.training.objective import VALUE_EPOCHS
from search.optimizer.samplers import N_STARTUP_TRIALS
from search.selection.confirm import confirmed_settings, seed_noise
from search.study.events import StudyCallback, TrialOutcome, recorded_outcome
from search.study.stopping import StopSignal

LOOKAHEAD: Final = 10
"""Number of next trials whose gain is expected, and of last ones whose gain is its lower bound."""

MIN_TRIALS: Final = N_STARTUP_TRIALS + LOOKAHEAD
"""Ended trials before a gain is estimated: the sampler's random ones and LOOKAHEAD more. Half as
many must be complete."""

WINDOW: Final = 20  # number of newest complete values that the law is fitted to
_MIN_PEAKS: Final = 3
_UAR: Final = "validation/uar"
_HIGHEST: Final = 1.0  # upper bound of values


def _expected_gain(values: Sequence[float | None], ahead: int = LOOKAHEAD) -> float:
    """Expected gain of so many next trials over the best value so far; infinite where the ended
    trials, whose values come in their order with None for what is not complete, are too few."""
    complete = [value for value in values if value is not None]
    earlier = [value for value in values[:-ahead] if value is not None]
    if len(values) < MIN_TRIALS or len(complete) < MIN_TRIALS // 2 or not earlier:
        return math.inf
    best = max(complete)
    window = complete[-WINDOW:]
    begins = [i for i, value in enumerate(values) if value is not None][-len(window)]
    share = len(window) / (len(values) - begins)
    gain = max(_peaks_gain(window, best, math.ceil(ahead * share)), best - max(earlier))
    return min(gain, _HIGHEST - best)


def _peaks_gain(values: Sequence[float], best: float, draws: int) -> float:
    """E[max(best, draws)] - best, where a draw exceeds the best by more than x with probability
    p exp(-x / e): the sum of e (1 - (1 - p)^k) / k over k = 1 .. draws. e is the mean by which the
    best quarter of the values exceeds the next one."""
    ordered = sorted(values, reverse=True)
    peaks = max(_MIN_PEAKS, len(ordered) // 4)
    threshold = ordered[peaks]
    excess = sum(ordered[:peaks]) / peaks - threshold
    if excess <= 0:
        return 0.0
    p = peaks / len(ordered) * math.exp(-(best - threshold) / excess)
    return excess * sum((1 - (1 - p) ** k) / k for k in range(1, draws + 1))


def _epoch_noise(curves: Sequence[Sequence[float]]) -> float | None:
    """Standard deviation of a value by its last epochs' fluctuation; None where no trial has five.

    A lower bound of the noise over seeds, which also change the course of training. curves:
    validation UAR of complete trials by epoch.
    """
    spreads = [np.var(c[-VALUE_EPOCHS:], ddof=1) for c in curves if len(c) >= VALUE_EPOCHS]
    return math.sqrt(float(np.mean(spreads)) / VALUE_EPOCHS) if spreads else None


class EarlyStopping(StudyCallback):
    """Ends a study, and its running trials, when the expected gain is less than the noise."""

    def __init__(self, stop: StopSignal, noise: float | None) -> None:
        """noise: standard deviation of a value over seeds; None: estimated from the last epochs of
        complete trials."""
        self._stop = stop
        self._noise = noise
        self._values: list[float | None] = []
        self._curves: list[list[float]] = []

    @classmethod
    def of_study(
        cls, stop: StopSignal, noise: float | str, study: optuna.Study, folder: Path
    ) -> EarlyStopping:
        """The callback of `--stop-early`, which knows the trials of earlier starts. noise: standard
        deviation of a value, or "auto": that of the study's confirming runs if there are any, else
        that of the trials' last epochs."""
        measured = seed_noise(setting.values for setting in confirmed_settings(study))
        rule = cls(stop, measured if isinstance(noise, str) else noise)
        ended = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
        for trial in sorted(ended, key=attrgetter("datetime_complete")):
            rule._learn(recorded_outcome(trial, folder))
        rule._decide()
        return rule

    def on_trial_end(self, outcome: TrialOutcome) -> None:
        self._learn(outcome)
        self._decide()

    def _learn(self, outcome: TrialOutcome) -> None:
        complete = outcome.state is TrialState.COMPLETE
        self._values.append(outcome.value if complete else None)
        if complete:
            metrics = [report.metrics for report in outcome.reports]
            self._curves.append([epoch[_UAR] for epoch in metrics if _UAR in epoch])

    def _decide(self) -> None:
        noise, words = self._noise, "by which the seed alone moves the value"
        if noise is None:
            noise = _epoch_noise(self._curves) or 0.0
            words = "by which a trial's last epochs alone move its value"
        gain = _expected_gain(self._values, LOOKAHEAD)
        if gain < noise:
            self._stop.finish(
                f"enough after {len(self._values)} trials: the next {LOOKAHEAD} are expected to add"
                f" {gain:.4f}, less than the {noise:.4f} {words}"
            )
