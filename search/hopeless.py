"""A study whose first trials all fail will hardly get better by itself."""

from __future__ import annotations

from optuna.trial import TrialState

from search.bridge import Closed, Listener
from search.driver import Stop

FIRST = 5
"""So many trials of a start, all of them FAIL, stop the study."""


class Hopeless(Listener):
    """A bridge's listener that stops a study whose first trials all fail."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._failed = 0
        self._hope = False

    def closed(self, trial: Closed) -> None:
        self._hope = self._hope or trial.state is not TrialState.FAIL
        self._failed += 1
        if not self._hope and self._failed == FIRST:
            self._stop.request(
                f"its first {FIRST} trials all failed, the last one, {trial.number}, with:"
                f" {trial.reason}; mend that, then the same command goes on",
                1,
            )
