"""A study whose first trials all fail is stopped; one that does not fail gives hope."""

from __future__ import annotations

import pytest
from optuna.trial import TrialState

from search.callbacks.fail_fast import MAX_FIRST_FAILURES, FailFast
from search.study.events import TrialOutcome
from search.study.stopping import StopSignal
from search.worker.messages import EpochResult

FAIL = TrialState.FAIL


def ended(number: int, state: TrialState) -> TrialOutcome:
    return TrialOutcome(number, state, f"reason {number}", (EpochResult(1, 0.5),))


def test_the_first_trials_all_failing_stop_a_study() -> None:
    stop = StopSignal()
    callback = FailFast(stop, {"COMPLETE": 0, "PRUNED": 0, "FAIL": 0})
    for number in range(MAX_FIRST_FAILURES - 1):
        callback.on_trial_end(ended(number, FAIL))
        assert not stop.due()
    callback.on_trial_end(ended(MAX_FIRST_FAILURES - 1, FAIL))
    assert stop.due()
    assert (stop.code, stop.final) == (1, False)
    assert stop.reason.startswith("its first 5 trials all failed, the last one, 4, with: reason 4;")


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED])
@pytest.mark.parametrize("at", range(MAX_FIRST_FAILURES))
def test_one_that_does_not_fail_gives_hope(state: TrialState, at: int) -> None:
    stop = StopSignal()
    callback = FailFast(stop, {"COMPLETE": 0, "PRUNED": 0, "FAIL": 0})
    for number in range(3 * MAX_FIRST_FAILURES):
        callback.on_trial_end(ended(number, state if number == at else FAIL))
    assert not stop.due()


@pytest.mark.parametrize("state", ["COMPLETE", "PRUNED"])
def test_a_study_that_is_continued_has_what_it_had(state: str) -> None:
    stop = StopSignal()
    callback = FailFast(stop, {state: 1, "FAIL": 2})
    for number in range(3, 3 + 3 * MAX_FIRST_FAILURES):
        callback.on_trial_end(ended(number, FAIL))
    assert not stop.due()


def test_a_study_that_was_hopeless_is_given_as_many_trials_again() -> None:
    stop = StopSignal()
    callback = FailFast(stop, {"COMPLETE": 0, "PRUNED": 0, "FAIL": 5})
    for number in range(5, 5 + MAX_FIRST_FAILURES):
        assert not stop.due()
        callback.on_trial_end(ended(number, FAIL))
    assert stop.reason.startswith("its first 10 trials all failed, the last one, 9, with: reason 9")
