"""A trial's phases, without Optuna's storage, callbacks or workers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from optuna.trial import TrialState

from search.study.active_trials import MAX_WORKER_DEATHS, ActiveTrial, Phase
from search.worker.messages import EpochResult, WorkerLost

EPOCHS = 3
COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
Event = Callable[[ActiveTrial], object]


def epoch(number: int, value: float = 0.5) -> Event:
    return lambda trial: trial.record(EpochResult(number, value))


def lost(blame: bool = True) -> Event:
    return lambda trial: trial.worker_lost(WorkerLost("it died", blame))


def decided(state: TrialState) -> Event:
    return lambda trial: trial.decide(state, "so")


def stopped(trial: ActiveTrial) -> object:
    return trial.stop("the budget is spent")


ALL = [epoch(number) for number in range(1, EPOCHS + 1)]
AGAIN = [
    lost(),
    ActiveTrial.release,
    lambda trial: trial.assign(None),
]


@pytest.mark.parametrize(
    ("events", "phase", "state"),
    [
        ([], Phase.RUNNING, None),
        ([epoch(1)], Phase.RUNNING, None),
        (ALL, Phase.RUNNING, None),
        ([epoch(1, math.nan)], Phase.DECIDED, FAIL),
        ([decided(PRUNED), decided(FAIL)], Phase.DECIDED, PRUNED),
        ([*ALL, decided(FAIL)], Phase.DECIDED, COMPLETE),
        ([*ALL, lost()], Phase.DECIDED, COMPLETE),
        ([lost()], Phase.WORKER_LOST, None),
        ([lost(), decided(FAIL)], Phase.DECIDED, FAIL),
        ([decided(FAIL), lost()], Phase.DECIDED, FAIL),
        ([*AGAIN * (MAX_WORKER_DEATHS - 1)], Phase.RUNNING, None),
        ([*AGAIN * (MAX_WORKER_DEATHS - 1), lost()], Phase.DECIDED, FAIL),
        ([*AGAIN * (MAX_WORKER_DEATHS - 1), epoch(1), lost()], Phase.WORKER_LOST, None),
        ([lost(blame=False)] * 9, Phase.WORKER_LOST, None),
        ([stopped], Phase.DECIDED, FAIL),
        ([epoch(1), stopped], Phase.DECIDED, PRUNED),
        ([*ALL, stopped], Phase.DECIDED, COMPLETE),
    ],
)
def test_phase_after_events(events: list[Event], phase: Phase, state: TrialState | None) -> None:
    trial = ActiveTrial(0, EPOCHS, 0.0)
    trial.assign(None)
    for event in events:
        event(trial)
    assert (trial.phase, trial.outcome and trial.outcome.state) == (phase, state)
