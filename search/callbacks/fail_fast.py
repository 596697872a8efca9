"""A study whose first trials all fail will hardly get better by itself."""

from __future__ import annotations

from collections.abc import Mapping

from optuna.trial import TrialState

from search.study.events import StudyCallback, TrialOutcome
from search.study.stopping import Stop

FIRST = 5
"""So many trials of a start, all of them FAIL, stop the study."""


class Hopeless(StudyCallback):
    """A callback that stops a study none of whose trials has done anything but fail."""

    def __init__(self, stop: Stop, ended: Mapping[str, int]) -> None:
        """ended: how many trials the study has had before, by Optuna's state."""
        self._stop = stop
        self._failed = 0
        self._before = ended.get("FAIL", 0)
        self._hope = any(count for state, count in ended.items() if state != "FAIL")

    def on_trial_end(self, outcome: TrialOutcome) -> None:
        self._hope = self._hope or outcome.state is not TrialState.FAIL
        self._failed += 1
        if not self._hope and self._failed == FIRST:
            self._stop.request(
                f"its first {self._before + FIRST} trials all failed, the last one,"
                f" {outcome.number}, with: {outcome.reason}; mend that,"
                " then the same command goes on",
                1,
            )
