"""What is done to a study's processes: each kind of fault and its victim."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from benchmarks.chaos.disk import Disk
from benchmarks.chaos.driver import Driver
from benchmarks.chaos.postgres import Postgres
from benchmarks.chaos.processes import Process
from benchmarks.chaos.server import Server
from benchmarks.chaos.subject import Subject

HELP: Final = {
    "driver": "SIGKILL to the search, at any moment from its start to its end",
    "worker": "SIGKILL to a worker that runs a trial",
    "raylet": "SIGKILL to Ray's raylet, or to its GCS",
    "server": "SIGKILL to the MLflow server, which comes back after 2 to 10 s",
    "stop": "SIGSTOP to driver, worker or server for 5 to 20 s",
    "postgres": "a crash and restart of PostgreSQL, which keeps the trials of a study of its own",
    "disk": "a full disk below the study's folder, until the driver ends or a minute has passed",
}

ANY_MOMENT: Final = ("driver", "raylet", "disk", "postgres")
"""They come at any moment of a driver's life; the others wait for a victim, or hit another."""

AWAY_S: Final = (2.0, 10.0)
STOPPED_S: Final = (5.0, 20.0)
FULL_S: Final = 60.0


@dataclass
class Scene:
    """What faults can reach."""

    subject: Subject
    server: Server
    rng: random.Random
    driver: Driver
    postgres: Postgres | None = None
    disk: Disk | None = None
    later: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    """(when, what): the second halves of faults."""
    full_since: float | None = None
    """When the disk was filled, until it is freed."""

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        self.later.append((time.monotonic() + seconds, action))

    def do_what_is_due(self) -> None:
        now = time.monotonic()
        due = [action for when, action in self.later if when <= now]
        self.later = [entry for entry in self.later if entry[0] > now]
        for action in due:
            action()
        full = self.full_since
        if full is not None and (self.driver.ended or now - full > FULL_S):
            self._free()

    def end(self) -> None:
        """Everything stopped, killed or full is as before."""
        for _, action in self.later:
            action()
        self.later.clear()
        self.server.wait()
        self._free()

    def _free(self) -> None:
        if self.full_since is not None:
            assert self.disk is not None
            self.disk.free()
            self.full_since = None


@dataclass(frozen=True)
class Given:
    """A fault as it happened."""

    kind: str
    what: str
    interrupts: tuple[int, ...] | None
    """Trials whose worker it ended; None: of all that were running."""
    phase: str = ""
    """Of the victim's life, where that shows."""


def give(kind: str, scene: Scene) -> Given | None:
    """Do it now; None where its victim is not there just now."""
    return _KINDS[kind](scene)


def _driver(scene: Scene) -> Given | None:
    if scene.driver.ended:
        return None
    scene.driver.kill()
    return Given("driver", f"driver {scene.driver.process.pid} killed", None)


def _worker(scene: Scene) -> Given | None:
    victims = scene.driver.workers()
    if not victims:
        return None
    victim = scene.rng.choice(victims)
    trial, phase = scene.subject.trial_of(victim), scene.subject.phase_of(victim)
    if not victim.signal(signal.SIGKILL):
        return None
    name = f"worker {victim.pid}" + ("" if trial is None else f" (trial {trial})")
    return Given("worker", f"{name} killed", None if trial is None else (trial,), phase)


def _raylet(scene: Scene) -> Given | None:
    name = scene.rng.choice(("raylet", "gcs_server"))
    victim = scene.driver.of_ray(name)
    if victim is None or not victim.signal(signal.SIGKILL):
        return None
    return Given("raylet", f"{name} {victim.pid} killed", None)


def _server(scene: Scene) -> Given | None:
    if not scene.server.processes():
        return None
    away = scene.rng.uniform(*AWAY_S)
    scene.server.kill()
    scene.after(away, scene.server.start)
    return Given("server", f"MLflow server killed for {away:.0f} s", ())


def _stop(scene: Scene) -> Given | None:
    target = scene.rng.choice(("driver", "worker", "server"))
    if target == "driver":
        victims = [] if scene.driver.ended else [scene.driver.process]
    elif target == "worker":
        victims = scene.driver.workers()
        victims = [scene.rng.choice(victims)] if victims else []
    else:
        victims = scene.server.processes()
    if not victims:
        return None
    seconds = scene.rng.uniform(*STOPPED_S)
    for victim in victims:
        victim.signal(signal.SIGSTOP)
    scene.after(seconds, lambda: _go_on(victims))
    return Given("stop", f"{target} {victims[0].pid} stopped for {seconds:.0f} s", ())


def _go_on(victims: list[Process]) -> None:
    for victim in victims:
        victim.signal(signal.SIGCONT)


def _postgres(scene: Scene) -> Given | None:
    assert scene.postgres is not None
    scene.postgres.restart()
    return Given("postgres", "PostgreSQL crashed and restarted", ())


def _disk(scene: Scene) -> Given | None:
    assert scene.disk is not None
    if scene.driver.ended or not scene.driver.workers():
        return None
    left = scene.disk.fill(scene.rng)
    scene.full_since = time.monotonic()
    return Given("disk", f"disk full but for {left >> 10} KiB", None)


_KINDS: Final[dict[str, Callable[[Scene], Given | None]]] = {
    "driver": _driver,
    "worker": _worker,
    "raylet": _raylet,
    "server": _server,
    "stop": _stop,
    "postgres": _postgres,
    "disk": _disk,
}
