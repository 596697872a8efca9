"""Which of Ray Tune's trials have stalled, in time in which the driver itself was awake."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

_AWAKE_S = 5.0
"""The driver polls several times a second. Where it did not for longer than this (it was stopped,
the laptop slept, a storage was away), the trials' reports may wait unread, so it does not count."""


class StallWatchdog:
    """Finds the trials that have reported nothing for `timeout_s` seconds."""

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.timeout_s = timeout_s
        self._clock = clock
        self._awake_s = 0.0
        self._polled_at = clock()
        self._last_report: dict[str, float] = {}

    def reported(self, trial: str) -> None:
        """The trial has reported an epoch."""
        self._last_report[trial] = self._awake_s

    def forget(self, trial: str) -> None:
        """The trial has ended, or waits for another worker."""
        self._last_report.pop(trial, None)

    def stalled(self, running: Iterable[str]) -> list[str]:
        """Stalled trials among the `running` ones. A trial's time begins when it is first
        seen running."""
        now = self._clock()
        self._awake_s += min(now - self._polled_at, _AWAKE_S)
        self._polled_at = now
        return [
            trial
            for trial in running
            if self._awake_s - self._last_report.setdefault(trial, self._awake_s) >= self.timeout_s
        ]
