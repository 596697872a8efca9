"""When more trials are no longer worth their time: they are expected to add less to the best value
than chance does.

The expectation is that of peaks over a threshold (Davison and Smith 1990): of the newest complete
values the best quarter tells how fast values become rare towards the top, by an exponential law,
which also says how often one beats the best so far and by how much. A law has to do, since nothing
recorded lies above the best. Values that end at a wall (a perfect score, say) it takes for rarer
than they are, so that a study rather goes on.

Such draws do not know that a sampler is still climbing. So what the last trials added counts
as well: the next ones are expected to add as much at least.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from search.optimizer.samplers import N_STARTUP_TRIALS
from search.selection import confirm
from search.study.events import StudyCallback, TrialOutcome
from search.study.stopping import Stop
from search.worker.epoch_log import read_epoch_log
from search.worker.messages import Report
from search.worker.trial_folder import trial_folder

AHEAD: Final = 10
"""Trials that one looks ahead, and back."""

LEAST: Final = N_STARTUP_TRIALS + AHEAD
"""Ended trials before which nothing is said: the sampler's random ones and as many as one looks
back. Half as many have to be complete."""

WINDOW: Final = 20
"""Complete values, the newest, that stand for those to come."""

_FEWEST_PEAKS: Final = 3

_VALUE_EPOCHS: Final = 5
"""A value is the mean of the last five epochs (fdan.training.checkpoint)."""

_UAR: Final = "validation/uar"
_HIGHEST: Final = 1.0
"""No value is higher."""


def expected_gain(values: Sequence[float | None], ahead: int = AHEAD) -> float:
    """By how much the best of the next `ahead` trials is expected to exceed the best so far.

    values: of all ended trials in their order, None for those that are not complete. Infinite where
    they are too few to tell.
    """
    complete = [value for value in values if value is not None]
    earlier = [value for value in values[:-ahead] if value is not None]
    if len(values) < LEAST or len(complete) < LEAST // 2 or not earlier:
        return math.inf
    best = max(complete)
    window = complete[-WINDOW:]
    begins = [i for i, value in enumerate(values) if value is not None][-len(window)]
    share = len(window) / (len(values) - begins)
    gain = max(peaks_gain(window, best, math.ceil(ahead * share)), best - max(earlier))
    return min(gain, _HIGHEST - best)


def peaks_gain(values: Sequence[float], best: float, draws: int) -> float:
    """E[max(best, `draws` draws)] - best, where one exceeds the best by more than x with the
    probability p exp(-x / e): the sum of e (1 - (1 - p)^k) / k over k = 1 .. draws.

    e is the mean by which the peaks, the best quarter of `values`, exceed the next one below them.
    """
    ordered = sorted(values, reverse=True)
    peaks = max(_FEWEST_PEAKS, len(ordered) // 4)
    threshold = ordered[peaks]
    excess = sum(ordered[:peaks]) / peaks - threshold
    if excess <= 0:
        return 0.0
    p = peaks / len(ordered) * math.exp(-(best - threshold) / excess)
    return excess * sum((1 - (1 - p) ** k) / k for k in range(1, draws + 1))


def seed_noise(groups: Sequence[Sequence[float]]) -> float | None:
    """The standard deviation of a value over seeds, pooled over settings. groups: each setting's
    values; None where no setting has two."""
    squares, free = 0.0, 0
    for values in groups:
        if len(values) >= 2:
            squares += float(np.var(values)) * len(values)
            free += len(values) - 1
    return math.sqrt(squares / free) if free else None


def epoch_noise(curves: Sequence[Sequence[float]]) -> float | None:
    """What the fluctuation of the last epochs alone does to a value: a lower bound of what the seed
    does, which also changes where a training goes. None where no trial has five epochs.

    curves: complete trials' validation UAR, epoch by epoch.
    """
    spreads = [np.var(c[-_VALUE_EPOCHS:], ddof=1) for c in curves if len(c) >= _VALUE_EPOCHS]
    return math.sqrt(float(np.mean(spreads)) / _VALUE_EPOCHS) if spreads else None


class Enough(StudyCallback):
    """A callback that ends a study whose next trials promise less than the noise.

    The study then is finished: trials under way end with it.
    """

    def __init__(self, stop: Stop, noise: float | None) -> None:
        """noise: by how much the seed moves a value; None: at least as much as the last epochs of
        the complete trials do."""
        self._stop = stop
        self._noise = noise
        self._values: list[float | None] = []
        self._curves: list[list[float]] = []

    def learn(self, state: TrialState, value: float | None, reports: Sequence[Report]) -> None:
        """A trial that has ended; those of earlier starts in the order in which they did."""
        complete = state is TrialState.COMPLETE and value is not None
        self._values.append(value if complete else None)
        if complete:
            curve = [report.metrics[_UAR] for report in reports if _UAR in report.metrics]
            self._curves.append(curve)

    def on_trial_end(self, outcome: TrialOutcome) -> None:
        self.learn(outcome.state, outcome.value, outcome.reports)
        self.decide()

    def decide(self) -> None:
        """Ask for the study's end if the rule says so."""
        noise, words = self._noise, "by which the seed alone moves the value"
        if noise is None:
            noise = epoch_noise(self._curves) or 0.0
            words = "by which a trial's last epochs alone move its value"
        gain = expected_gain(self._values, AHEAD)
        if gain < noise:
            self._stop.enough(
                f"enough after {len(self._values)} trials: the next {AHEAD} are expected to add"
                f" {gain:.4f}, less than the {noise:.4f} {words}"
            )


def listener(stop: Stop, noise: float | str, opened: optuna.Study, study: Path) -> Enough:
    """What `--stop-early` asks for, knowing the trials that have ended already.

    noise: given, or "auto": that of the study's own confirming runs if there are any, else of the
    trials' last epochs. study: its folder.
    """
    size = seed_noise([one.values for one in confirm.settings(opened)])
    rule = Enough(stop, size if isinstance(noise, str) else noise)
    ended = [one for one in opened.get_trials(deepcopy=False) if one.state.is_finished()]
    for one in sorted(ended, key=_end):
        reports = read_epoch_log(trial_folder(study, one.number))
        value = one.value if one.state is TrialState.COMPLETE else None
        rule.learn(one.state, value, [reports[epoch] for epoch in sorted(reports)])
    rule.decide()
    return rule


def _end(trial: FrozenTrial) -> float:
    assert trial.datetime_complete is not None
    return trial.datetime_complete.timestamp()
