"""Which fault comes when."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.chaos.driver import Driver
from benchmarks.chaos.faults import ANY_MOMENT

_OLD_S: Final = 8.0
"""How much longer a driver may live that has lived longer than that."""

_GAP_S: Final = (4.0, 15.0)


def shuffled(counts: Mapping[str, int], rng: random.Random) -> list[str]:
    """So many faults of each kind, in any order."""
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    rng.shuffle(kinds)
    return kinds


@dataclass
class _Queue:
    kinds: list[str]
    at: float = 0.0
    """When the first of them is due, as time.monotonic() has it."""


class Schedule:
    """Two queues of faults side by side: those that come at any moment of a driver's life, its
    start and its end included, and those that wait for a victim, spread so that both queues are
    empty at about the same time."""

    def __init__(self, wanted: Sequence[str], rng: random.Random) -> None:
        """wanted: kinds of faults, in their order."""
        self._anytime = _Queue([kind for kind in wanted if kind in ANY_MOMENT])
        self._others = _Queue([kind for kind in wanted if kind not in ANY_MOMENT])
        self._rng = rng
        self._driver: Driver | None = None
        self._life = 0.0

    @property
    def left(self) -> bool:
        """Whether faults are still to be given."""
        return bool(self._anytime.kinds or self._others.kinds)

    def count(self, kind: str) -> int:
        """How many of a kind are still to be given."""
        return self._queue(kind).kinds.count(kind)

    def for_driver(self, driver: Driver, life: float) -> None:
        """A driver was started; one that nothing is done to ends after about `life` seconds."""
        self._driver, self._life = driver, life
        self._plan(self._anytime)
        if not self._others.at:
            self._plan(self._others)
        elif self._others.at < time.monotonic():  # there was no victim any more
            self._others.at = self._moment()

    def due(self) -> list[str]:
        """Kinds that should be given now."""
        now = time.monotonic()
        return [q.kinds[0] for q in (self._anytime, self._others) if q.kinds and now >= q.at]

    def given(self, kind: str) -> None:
        """The first of its queue was given."""
        queue = self._queue(kind)
        assert queue.kinds.pop(0) == kind
        self._plan(queue)

    def again(self, kind: str) -> None:
        """It had no victim just now. Any moment of what is left of the driver's life: the next one
        would always find its victim at the start."""
        self._queue(kind).at = self._moment()

    def _queue(self, kind: str) -> _Queue:
        return self._anytime if kind in ANY_MOMENT else self._others

    def _plan(self, queue: _Queue) -> None:
        """Draw the moment of its next fault."""
        if queue is self._anytime:
            queue.at = self._moment()
        else:
            left = len(self._anytime.kinds) * self._life / 2  # seconds
            gap = min(max(left / max(1, len(queue.kinds)), _GAP_S[0]), _GAP_S[1])
            queue.at = time.monotonic() + self._rng.uniform(0.0, 2 * gap)

    def _moment(self) -> float:
        """Any that is left of the driver's life."""
        assert self._driver is not None
        age = self._driver.age
        return self._driver.began + self._rng.uniform(age, max(self._life, age + _OLD_S))
