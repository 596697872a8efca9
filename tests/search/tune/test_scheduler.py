"""Epochs that take too long, in time in which the driver was awake."""

from __future__ import annotations

import pytest

from search.tune.scheduler import StallWatchdog

TIMEOUT_S = 60.0


class Driver:
    """Polls a watchdog as often as the driver does, on a clock of its own."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.watchdog = StallWatchdog(TIMEOUT_S, clock=lambda: self.now)

    def poll(self, running: list[str], seconds: float) -> list[str]:
        """Everybody who stalled meanwhile."""
        stalled = set[str]()
        for _ in range(round(seconds)):
            self.now += 1.0
            stalled.update(self.watchdog.stalled(running))
        return sorted(stalled)


@pytest.fixture
def driver() -> Driver:
    return Driver()


def test_a_trial_that_reports_nothing_is_found_and_no_other(driver: Driver) -> None:
    watchdog = driver.watchdog
    assert driver.poll(["1", "2", "3"], 40) == []
    watchdog.reported("1")
    assert driver.poll(["1", "2", "3"], 40) == ["2", "3"]
    watchdog.forget("2")
    watchdog.forget("3")
    # 3 runs again with another worker: its time begins anew. 2 waits.
    assert watchdog.stalled(["1", "3"]) == []
    watchdog.reported("1")
    assert driver.poll(["1", "3"], 40) == []
    assert driver.poll(["1", "3"], 40) == ["1", "3"]


def test_a_trials_time_begins_when_it_runs(driver: Driver) -> None:
    assert driver.poll([], 2 * TIMEOUT_S) == []
    assert driver.watchdog.stalled(["1"]) == []
    assert driver.poll(["1"], TIMEOUT_S / 2) == []


def test_time_in_which_the_driver_slept_does_not_count(driver: Driver) -> None:
    """A laptop that was closed for the night: the reports may lie there unread."""
    assert driver.watchdog.stalled(["1"]) == []
    driver.now += 2 * TIMEOUT_S
    assert driver.watchdog.stalled(["1"]) == []
    assert driver.poll(["1"], 20) == []
    assert driver.poll(["1"], TIMEOUT_S) == ["1"], "awake again, it counts"
