"""What is put to the test: a program that runs a study, is killed, and is started again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from benchmarks.chaos.material import Material
from benchmarks.chaos.processes import Process
from benchmarks.chaos.stores import Point, Stores, Trial

ROOT: Final = Path(__file__).resolve().parents[2]
"""Of this project."""

THREADS: Final = 1
"""CPU threads of a trial."""

AT_ONCE: Final = 2
"""Trials."""


@dataclass(frozen=True)
class Ground:
    """What all studies stand on."""

    folder: Path
    """Where studies may put their own folders."""
    material: Material
    tracking_uri: str
    database: Path
    """MLflow's, behind that URI."""
    artifacts: Path
    """Where MLflow's server keeps them."""
    epochs: int
    """Of a trial."""
    seed: int = 0
    """Of the study."""


@dataclass
class Study:
    """A study as it was asked for."""

    name: str
    folder: Path
    trials: int
    storage: str | None = None
    """Optuna's database; None: a journal in the folder."""
    environment: dict[str, str] = field(default_factory=dict)


class Subject(Protocol):
    """A program under test. Everything but `command` looks at it from outside."""

    @property
    def name(self) -> str:
        """In the table."""

    @property
    def extends(self) -> bool:
        """Whether the command with more trials goes on with a study that has ended."""

    @property
    def statuses(self) -> Mapping[str, str]:
        """Optuna's state -> the status of MLflow's run."""

    @property
    def parents(self) -> int:
        """Runs that stand for a study itself."""

    @property
    def stops_early(self) -> bool:
        """Whether a trial that the scheduler stops is complete, too."""

    @property
    def last_in_optuna(self) -> bool:
        """Whether Optuna is told a trial's last epoch like the others, beside the trial's value."""

    @property
    def artifacts(self) -> frozenset[str]:
        """Files that MLflow has of every trial with an epoch."""

    def study(self, name: str, trials: int, storage: str | None) -> Study:
        """A study that is still to be started."""

    def command(self, study: Study) -> list[str]:
        """Starts the study, and continues it after whatever has happened. Exit code 0: done."""

    def trials(self, study: Study) -> tuple[Trial, ...]:
        """Optuna's side. Raises Unreadable."""

    def stores(self, study: Study) -> Stores:
        """Both sides. Raises Unreadable."""

    def promised(self, study: Study) -> dict[Point, float]:
        """Metrics that MLflow has, or that lie on the disk for it. Raises Unreadable."""

    def trial_of(self, worker: Process) -> int | None:
        """The trial that a worker runs, where that shows from outside."""

    def phase_of(self, worker: Process) -> str:
        """What a worker is about, where that shows from outside; else empty."""

    def saved(self, study: Study) -> dict[int, int]:
        """For each trial, the epoch of its newest checkpoint, where that shows from outside."""

    def settings(self, study: Study, trial: Trial) -> dict[str, Any]:
        """A RunConfig's values: what the trial was trained with."""

    def trained(self, study: Study) -> dict[int, Counter[int]]:
        """For each trial, how often each epoch was trained."""
