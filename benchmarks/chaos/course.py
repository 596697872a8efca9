"""One study, driven from its first driver to its last while faults are given."""

from __future__ import annotations

import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL
from typing import Final

from benchmarks.chaos import aftermath, faults
from benchmarks.chaos.disk import Disk
from benchmarks.chaos.driver import Driver
from benchmarks.chaos.faults import Scene
from benchmarks.chaos.postgres import Postgres
from benchmarks.chaos.processes import marked
from benchmarks.chaos.reading import Unreadable
from benchmarks.chaos.schedule import Schedule
from benchmarks.chaos.server import Server
from benchmarks.chaos.stores import Evidence, Life, Stores
from benchmarks.chaos.subject import Ground, Study, Subject
from benchmarks.chaos.watch import Watch

STUCK_S: Final = 300.0
"""A study that does not advance for so long is given up."""

_TRIES: Final = 4
"""So many drivers in a row that end without success, nothing having been done to them and nothing
having advanced, are as good as that."""

_STARTUP_S: Final = 15.0
_LIFE: Final = 2.2
"""A driver's life in startups, its start, some trials and its end, until one was seen."""

_LEAVE_S: Final = 20.0
_READINGS: Final = 20

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Terms:
    """What all studies of a campaign have in common."""

    subject: Subject
    ground: Ground
    server: Server
    schedule: Schedule
    rng: random.Random
    more: int
    """Trials that a study is asked for beyond those that it has, when it has ended too early."""
    tell: Tell
    scratch: Path
    """For temporary files; a short path, since Ray's sockets go below it."""
    postgres: Postgres | None = None


@dataclass(frozen=True)
class Finished:
    """A study after its last driver."""

    study: Study
    evidence: Evidence
    given: list[tuple[str, str]]
    """(kind of fault, in which phase of the victim's life, or else its driver's)."""
    trained_again: int
    """Epochs that were trained before, each time counted."""
    interrupted: int
    """How many of the trials that were compared with undisturbed ones."""


class Course:
    """`run` returns when the study is done and no faults are left, or when it is given up."""

    def __init__(self, terms: Terms, study: Study, disk: Disk | None = None) -> None:
        self._terms, self._study = terms, study
        self._subject, self._schedule = terms.subject, terms.schedule
        self._watch = Watch(terms.subject, study)
        self._clock = time.monotonic()
        self._mark = f"{study.name}-{random.SystemRandom().getrandbits(64):x}"
        self._startups: list[float] = []
        self._lifetimes: list[float] = []
        self._lives: list[Life] = []
        self._given: list[tuple[str, str]] = []
        self._fruitless = 0
        self._stuck = ""
        server, postgres = terms.server, terms.postgres
        self._scene = Scene(terms.subject, server, terms.rng, self._start(), postgres, disk)

    def run(self) -> Finished:
        try:
            self._drive()
            left_over = self._leave()
        finally:
            self._clear()
        return self._finish(left_over)

    # Driving

    def _drive(self) -> None:
        while not self._stuck:
            scene = self._scene
            ended = scene.driver.ended  # before: a full disk is freed before the next driver
            scene.do_what_is_due()
            if ended:
                if self._is_over(self._end_life()):
                    return
                scene.driver = self._start()
                continue
            self._look()
            for kind in self._schedule.due():
                if scene.full_since is None and not scene.driver.ended:
                    self._give(kind)
            time.sleep(0.05)
        self._say(f"given up: {self._stuck}")
        if not self._scene.driver.ended:
            self._scene.driver.kill()
            self._end_life()

    def _is_over(self, life: Life) -> bool:
        """After a driver's end: whether there will be no other."""
        if life.code is not None:
            given = f" after {', '.join(life.faults)}" if life.faults else ""
            said = f"exit code {life.code}: {life.line[:150]}"
            self._say(f"the driver ended by itself{given}, {said}")
        if life.code not in (None, 0) and not life.faults:
            self._fruitless += 1
            if self._fruitless >= _TRIES:
                self._stuck = f"{_TRIES} drivers in a row could not go on: {life.line}"
                self._say(f"given up: {self._stuck}")
                return True
        if life.code != 0:
            return False
        if self._schedule.left:
            if not self._subject.extends:
                return True
            self._study.trials += self._terms.more
            return False
        # The server's absence may have left records behind: the same command sends them.
        touched = self._scene.later or {"server", "stop"} & set(life.faults)
        return not touched

    def _start(self) -> Driver:
        environment = {
            **self._study.environment,
            "CHAOS_STUDY": self._mark,
            "TMPDIR": str(self._terms.scratch),
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "200",
        }
        output = self._terms.ground.folder / "output" / self._study.name
        command = self._subject.command(self._study)
        driver = Driver(command, environment, output / f"{len(self._lives) + 1:03d}", self._clock)
        self._schedule.for_driver(driver, self._lifetime())
        return driver

    def _lifetime(self) -> float:
        """Seconds until a driver ends by itself that nothing is done to, as far as one was seen."""
        if self._lifetimes:
            return statistics.median(self._lifetimes)
        return _LIFE * (statistics.median(self._startups) if self._startups else _STARTUP_S)

    def _end_life(self) -> Life:
        driver = self._scene.driver
        life = driver.life()
        if life.code == 0 and not driver.faults and driver.startup is not None:
            self._lifetimes.append(life.ended - life.began)
        self._lives.append(life)
        return life

    def _look(self) -> None:
        self._notice_start()
        if self._watch.look():
            self._fruitless = 0
        if self._watch.idle > STUCK_S:
            self._stuck = f"nothing advanced for {STUCK_S:.0f} s"

    def _notice_start(self) -> None:
        driver = self._scene.driver
        if driver.startup is None and driver.workers():
            driver.startup = driver.age
            if not driver.faults:  # those would make it longer
                self._startups.append(driver.startup)

    # Faults

    def _give(self, kind: str) -> None:
        of_driver, running = self._phase(), self._watch.keep()
        given = faults.give(kind, self._scene)
        if given is None:
            self._schedule.again(kind)
            return
        self._schedule.given(kind)
        self._watch.interruptions.update(running if given.interrupts is None else given.interrupts)
        self._scene.driver.faults.append(kind)
        phase = given.phase or of_driver
        if of_driver == "starting":
            self._scene.driver.starting.append(kind)
        self._given.append((kind, phase))
        done = sum(of == kind for of, _ in self._given)
        self._say(
            f"{kind} {done}/{done + self._schedule.count(kind)}: {given.what} ({phase},"
            f" {self._watch.finished} of {self._study.trials} trials finished)"
        )

    def _phase(self) -> str:
        self._notice_start()
        driver, over = self._scene.driver, self._watch.finished >= self._study.trials
        usual = statistics.median(self._startups) if self._startups else _STARTUP_S
        # One that has no trials left never has a worker.
        if driver.startup is None and not (over and driver.age > usual):
            return "starting"
        return "ending" if over else "running"

    # The end

    def _leave(self) -> int:
        """Processes that are still there some seconds after the last driver."""
        until = time.monotonic() + _LEAVE_S
        while (left := marked(f"CHAOS_STUDY={self._mark}")) and time.monotonic() < until:
            time.sleep(0.5)
        return len(left)

    def _clear(self) -> None:
        """Nothing of this study goes on, whatever ended it."""
        self._scene.driver.kill()
        self._scene.end()
        for process in marked(f"CHAOS_STUDY={self._mark}"):
            process.signal(SIGKILL)

    def _finish(self, left_over: int) -> Finished:
        stores, trained, hit = *self._read(), self._watch.interruptions
        chosen = aftermath.to_compare(stores.trials, hit)
        names = ", ".join(f"{t.number} (interrupted {hit[t.number]} times)" for t in chosen)
        self._say(f"{len(stores.trials)} trials; training undisturbed: {names or 'none'}")
        settings = {trial.number: self._subject.settings(self._study, trial) for trial in chosen}
        evidence = Evidence(
            stores,
            self._study.trials,
            self._subject.statuses,
            self._subject.parents,
            None if self._subject.stops_early else self._terms.ground.epochs,
            self._subject.last_in_optuna,
            self._watch.seen,
            self._watch.promised,
            hit,
            aftermath.undisturbed(settings, self._terms.ground.material),
            self._subject.artifacts,
            self._watch.saved,
            trained,
            tuple(self._lives),
            left_over,
            self._stuck,
        )
        return Finished(
            self._study,
            evidence,
            self._given,
            sum(times - 1 for epochs in trained.values() for times in epochs.values()),
            sum(hit[trial.number] > 0 for trial in chosen),
        )

    def _read(self) -> tuple[Stores, dict[int, Counter[int]]]:
        for _ in range(_READINGS):
            try:
                return self._subject.stores(self._study), self._subject.trained(self._study)
            except Unreadable as error:
                problem = str(error)
                time.sleep(1.0)
        self._stuck = self._stuck or f"its stores cannot be read: {problem}"
        return Stores(), {}

    def _say(self, text: str) -> None:
        self._terms.tell(f"{self._study.name}: {text}")
