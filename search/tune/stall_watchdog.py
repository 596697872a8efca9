"""How long trials have been silent, in time in which the driver itself was awake."""

from __future__ import annotations

import time
from collections.abc import Iterable

_AWAKE_S = 5.0
"""The driver looks several times a second. Where it did not for longer than this (it was stopped,
the laptop slept, a storage was away), the trials' reports may wait unread, so it does not count."""


class Silence:
    """Which trials have reported nothing for `limit` seconds."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._clock = 0.0
        self._looked = time.monotonic()
        self._heard: dict[int, float] = {}

    def heard(self, number: int) -> None:
        """The trial has reported."""
        self._heard[number] = self._clock

    def forget(self, number: int) -> None:
        """The trial has ended, or waits for another worker."""
        self._heard.pop(number, None)

    def over(self, running: Iterable[int]) -> list[int]:
        """Those of the `running` trials that are silent for too long. A trial's time begins when it
        is first seen running."""
        now = time.monotonic()
        self._clock += min(now - self._looked, _AWAKE_S)
        self._looked = now
        return [
            number
            for number in running
            if self._clock - self._heard.setdefault(number, self._clock) >= self.limit
        ]
