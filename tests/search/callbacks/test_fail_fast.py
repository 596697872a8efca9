"""A study whose first trials all fail is stopped; one that does not fail gives hope."""

from __future__ import annotations

import pytest
from optuna.trial import TrialState

from search.callbacks.fail_fast import FIRST, Hopeless
from search.study.events import TrialOutcome
from search.study.stopping import Stop
from search.worker.messages import Report

FAIL = TrialState.FAIL


def ended(number: int, state: TrialState) -> TrialOutcome:
    return TrialOutcome(number, state, f"reason {number}", (Report(1, 0.5),))


def test_the_first_trials_all_failing_stop_a_study() -> None:
    stop = Stop()
    hopeless = Hopeless(stop, {"COMPLETE": 0, "PRUNED": 0, "FAIL": 0})
    for number in range(FIRST - 1):
        hopeless.on_trial_end(ended(number, FAIL))
        assert not stop.due()
    hopeless.on_trial_end(ended(FIRST - 1, FAIL))
    assert stop.due()
    assert (stop.code, stop.final) == (1, False)
    assert stop.reason.startswith("its first 5 trials all failed, the last one, 4, with: reason 4;")


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED])
@pytest.mark.parametrize("at", range(FIRST))
def test_one_that_does_not_fail_gives_hope(state: TrialState, at: int) -> None:
    stop = Stop()
    hopeless = Hopeless(stop, {"COMPLETE": 0, "PRUNED": 0, "FAIL": 0})
    for number in range(3 * FIRST):
        hopeless.on_trial_end(ended(number, state if number == at else FAIL))
    assert not stop.due()


@pytest.mark.parametrize("state", ["COMPLETE", "PRUNED"])
def test_a_study_that_is_continued_has_what_it_had(state: str) -> None:
    stop = Stop()
    hopeless = Hopeless(stop, {state: 1, "FAIL": 2})
    for number in range(3, 3 + 3 * FIRST):
        hopeless.on_trial_end(ended(number, FAIL))
    assert not stop.due()


def test_a_study_that_was_hopeless_is_given_as_many_trials_again() -> None:
    stop = Stop()
    hopeless = Hopeless(stop, {"COMPLETE": 0, "PRUNED": 0, "FAIL": 5})
    for number in range(5, 5 + FIRST):
        assert not stop.due()
        hopeless.on_trial_end(ended(number, FAIL))
    assert stop.reason.startswith("its first 10 trials all failed, the last one, 9, with: reason 9")
