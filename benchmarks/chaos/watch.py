"""What a study was seen to have while it was under way."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final

from benchmarks.chaos.invariants import VALUE
from benchmarks.chaos.reading import Unreadable
from benchmarks.chaos.stores import FINAL, Point, Trial
from benchmarks.chaos.subject import Study, Subject

_LOOK_S: Final = 1.0


class Watch:
    """Looks into the stores of a study. What it keeps at a kill must be there at the end."""

    def __init__(self, subject: Subject, study: Study) -> None:
        self._subject, self._study = subject, study
        self._at = 0.0
        self._state = (0, 0)
        self._advanced = time.monotonic()
        self.seen: dict[Point, float] = {}
        self.promised: dict[Point, float] = {}
        self.saved: dict[tuple[int, int], int] = {}
        self.interruptions: Counter[int] = Counter()
        """Of each trial."""

    @property
    def finished(self) -> int:
        """Trials."""
        return self._state[0]

    @property
    def idle(self) -> float:
        """Seconds since something advanced."""
        return time.monotonic() - self._advanced

    def look(self) -> bool:
        """Whether the study has advanced. Cheap enough to be called all the time."""
        now = time.monotonic()
        if now < self._at:
            return False
        advanced = False
        with contextlib.suppress(Unreadable):
            advanced = self._notice(self._subject.trials(self._study))
        # A long study takes long to read: looking must not become the machine's main work.
        self._at = now + max(_LOOK_S, 15 * (time.monotonic() - now))
        return advanced

    def keep(self) -> list[int]:
        """Before a kill; returns the trials that are under way."""
        try:
            trials = self._subject.trials(self._study)
            promised = self._subject.promised(self._study)
            saved = self._subject.saved(self._study)  # first: what it held is in the logs
            trained = self._subject.trained(self._study)
        except Unreadable:
            return []
        for trial in trials:
            for epoch, value in trial.values.items():
                self.seen.setdefault(Point(trial.number, VALUE, epoch), value)
        for point, value in promised.items():
            self.promised.setdefault(point, value)
        for number, last in saved.items():
            for epoch in range(1, last + 1):
                self.saved.setdefault((number, epoch), trained[number][epoch])
        self._notice(trials)
        return [trial.number for trial in trials if trial.state == "RUNNING"]

    def _notice(self, trials: Sequence[Trial]) -> bool:
        """Finished trials and reported epochs grow while a study advances."""
        finished = sum(trial.state in FINAL for trial in trials)
        state = (finished, sum(len(trial.values) for trial in trials))
        if state == self._state:
            return False
        self._state, self._advanced = state, time.monotonic()
        return True
