"""Epochs that take too long, in time in which the driver was awake."""

from __future__ import annotations

import time

import pytest

from search.tune import stall_watchdog as silence
from search.tune.stall_watchdog import Silence

LIMIT = 0.3


def watch(watched: Silence, running: list[int], seconds: float) -> list[int]:
    """Look as often as the driver does; everybody who was too long silent."""
    until, found = time.monotonic() + seconds, set[int]()
    while time.monotonic() < until:
        found.update(watched.over(running))
        time.sleep(0.02)
    return sorted(found)


def test_whoever_says_nothing_is_found_and_nobody_else() -> None:
    watched = Silence(LIMIT)
    assert watch(watched, [1, 2, 3], 0.2) == []
    watched.heard(1)
    assert watch(watched, [1, 2, 3], 0.2) == [2, 3]
    watched.forget(2)
    watched.forget(3)
    # 3 runs again with another worker: its time begins anew. 2 waits.
    assert watched.over([1, 3]) == []
    watched.heard(1)
    assert watch(watched, [1, 3], 0.2) == []
    assert watch(watched, [1, 3], 0.2) == [1, 3]


def test_a_trials_time_begins_when_it_runs() -> None:
    watched = Silence(LIMIT)
    assert watch(watched, [], 2 * LIMIT) == []
    assert watched.over([1]) == []
    assert watch(watched, [1], LIMIT / 2) == []


def test_time_in_which_the_driver_slept_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A laptop that was closed for the night: the reports may lie there unread."""
    monkeypatch.setattr(silence, "_AWAKE_S", 0.1)
    watched = Silence(LIMIT)
    assert watched.over([1]) == []
    time.sleep(2 * LIMIT)
    assert watched.over([1]) == []
    assert watch(watched, [1], 0.1) == []
    assert watch(watched, [1], LIMIT) == [1], "awake again, it counts"
