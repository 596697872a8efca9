"""Which fault comes when, and what is compared afterwards."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass
from typing import cast

import pytest

from benchmarks.chaos.aftermath import to_compare
from benchmarks.chaos.driver import Driver
from benchmarks.chaos.schedule import Schedule, shuffled
from benchmarks.chaos.stores import Trial


@dataclass
class Clock:
    """Stands for time.monotonic() and for the driver that was started last."""

    now: float = 1000.0
    began: float = 1000.0

    @property
    def age(self) -> float:
        return self.now - self.began

    @property
    def driver(self) -> Driver:
        return cast(Driver, self)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    return clock


def run(schedule: Schedule, clock: Clock, life: float) -> list[tuple[str, float]]:
    """All faults with the driver's age; a killed driver is followed by another at once."""
    found = []
    schedule.for_driver(clock.driver, life)
    while schedule.left:
        clock.now += 0.1
        for kind in schedule.due():
            found.append((kind, clock.age))
            schedule.given(kind)
            if kind == "driver":
                clock.began = clock.now
                schedule.for_driver(clock.driver, life)
    return found


def test_each_fault_comes_once_and_the_queues_end_together(clock: Clock) -> None:
    counts = {"driver": 40, "worker": 30, "stop": 10, "server": 10}
    rng = random.Random(1)
    found = run(Schedule(shuffled(counts, rng), rng), clock, life=22.0)
    assert Counter(kind for kind, _ in found) == counts
    at = [index for index, (kind, _) in enumerate(found) if kind == "driver"]
    assert len(found) - max(at) < 30 and min(at) < 10
    assert {kind for kind, _ in found[: len(found) // 2]} == set(counts)


def test_a_driver_is_killed_at_any_moment_of_its_life(clock: Clock) -> None:
    rng = random.Random(2)
    ages = sorted(age for _, age in run(Schedule(["driver"] * 300, rng), clock, life=22.0))
    assert ages[0] < 1.0 and 20.0 < ages[-1] < 22.2
    assert ages[len(ages) // 2] == pytest.approx(11.0, abs=1.5)


def test_a_fault_without_a_victim_comes_again(clock: Clock) -> None:
    schedule = Schedule(["worker"], random.Random(3))
    schedule.for_driver(clock.driver, 22.0)
    clock.now += 60.0
    assert schedule.due() == ["worker"]
    schedule.again("worker")
    assert schedule.due() == [] and schedule.count("worker") == 1
    clock.now += 8.0
    assert schedule.due() == ["worker"]


def test_workers_are_killed_at_any_moment_of_theirs(clock: Clock) -> None:
    """Not where the first one shows itself: one that waited for it comes later, too."""
    rng = random.Random(4)
    schedule = Schedule(["driver", "worker"] * 300, rng)
    ages, start, life = [], 10.0, 30.0
    schedule.for_driver(clock.driver, life)
    while schedule.left:
        clock.now += 0.1
        for kind in schedule.due():
            if kind == "worker" and clock.age < start:
                schedule.again(kind)
                continue
            schedule.given(kind)
            if kind == "worker":
                ages.append(clock.age - start)
            else:
                clock.began = clock.now
                schedule.for_driver(clock.driver, life)
    of_driver = [age for age in ages if age < life - start]
    assert sum(age < 5.0 for age in of_driver) < 0.6 * len(of_driver)
    assert sum(age > 10.0 for age in of_driver) > 0.15 * len(of_driver)


def test_best_and_most_interrupted_trials_are_compared() -> None:
    values = {0: 0.4, 1: 0.9, 2: 0.7, 3: 0.5, 4: 0.7}
    trials = [Trial(number, "COMPLETE", value) for number, value in values.items()]
    trials.append(Trial(5, "PRUNED"))

    def chosen(**interruptions: int) -> list[int]:
        hit = Counter({int(key[1:]): times for key, times in interruptions.items()})
        return [trial.number for trial in to_compare(trials, hit)]

    assert chosen() == [1]
    assert chosen(t5=9) == [1]
    assert chosen(t0=3, t2=1, t4=2) == [0, 1, 2]
    assert chosen(t1=2, t3=1) == [1]
    assert to_compare([trials[-1]], Counter()) == []
