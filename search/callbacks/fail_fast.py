"""Stops a study whose first trials all fail: it hardly gets better by itself."""

from collections.abc import Mapping

from optuna.trial import TrialState

from search.study.events import StudyCallback, TrialOutcome
from search.study.stopping import StopSignal
from tracking.tags import FAIL

MAX_FIRST_FAILURES = 5  # so many trials of a start, all of them FAIL, stop the study


class FailFast(StudyCallback):
    """Requests the study's stop when nothing but failures has come of it."""

    def __init__(self, stop: StopSignal, counts: Mapping[str, int]) -> None:
        """counts: trials that the study had before this start, by Optuna's state."""
        self._stop = stop
        self._failed = counts.get(FAIL, 0)
        self._limit = self._failed + MAX_FIRST_FAILURES
        self._any_other = any(count for state, count in counts.items() if state != FAIL)

    def on_trial_end(self, outcome: TrialOutcome) -> None:
        self._any_other = self._any_other or outcome.state is not TrialState.FAIL
        self._failed += 1
        if not self._any_other and self._failed == self._limit:
            self._stop.request(
                f"its first {self._failed} trials all failed, the last one, {outcome.number}, with:"
                f" {outcome.reason}; mend that, then the same command goes on",
                1,
            )
