"""What Optuna's storage and MLflow say of a study, as plain values, and what its drivers did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

FINAL = ("COMPLETE", "PRUNED", "FAIL")
"""Optuna's final states."""


@dataclass(frozen=True)
class Trial:
    """As Optuna has it."""

    number: int
    state: str
    value: float | None = None
    values: Mapping[int, float] = field(default_factory=dict)
    """Epoch -> what was reported."""
    params: Mapping[str, Any] = field(default_factory=dict)
    endings: int = 1
    """How often a final state was written, where the storage shows it."""
    reason: str = ""


class Row(NamedTuple):
    """A row of MLflow's metrics."""

    key: str
    step: int
    value: float


@dataclass(frozen=True)
class Run:
    """As MLflow has it."""

    id: str
    trial: int | None
    """None: of no trial that is known."""
    status: str
    rows: tuple[Row, ...] = ()
    state: str | None = None
    """Optuna's state as the run tells it; None where it tells none."""
    params: Mapping[str, str] = field(default_factory=dict)
    artifacts: frozenset[str] = frozenset()
    """Names of its files on the server."""


@dataclass(frozen=True)
class Stores:
    """A study in both."""

    trials: tuple[Trial, ...] = ()
    runs: tuple[Run, ...] = ()
    """Of trials."""
    parents: tuple[Run, ...] = ()
    """Of the study itself."""

    def runs_of(self, number: int) -> list[Run]:
        return [run for run in self.runs if run.trial == number]


class Point(NamedTuple):
    """A metric of a trial at an epoch."""

    trial: int
    key: str
    epoch: int


@dataclass(frozen=True)
class Life:
    """One driver process, from its start to its end."""

    began: float
    """Seconds since the campaign's start, as all times here."""
    ended: float
    code: int | None
    """Its exit code, negative for a signal; None where we killed it."""
    line: str
    """The last line on stderr."""
    tracebacks: int
    faults: tuple[str, ...] = ()
    """Kinds of faults that were given in its time."""
    starting: tuple[str, ...] = ()
    """Those of them that came before a worker of its ran a trial."""


@dataclass(frozen=True)
class Evidence:
    """All that the invariants look at, of one study after its end."""

    stores: Stores
    asked: int
    """Trials."""
    statuses: Mapping[str, str]
    """Optuna's state -> the status that MLflow's run should have."""
    parents: int = 1
    """Runs that stand for the study itself."""
    epochs: int | None = None
    """Of a complete trial; None where one that was stopped early is complete, too."""
    last_in_optuna: bool = True
    """Whether Optuna is told a trial's last epoch like the others, beside the trial's value."""
    seen: Mapping[Point, float] = field(default_factory=dict)
    """What Optuna had at some kill; its key is `value`."""
    promised: Mapping[Point, float] = field(default_factory=dict)
    """What MLflow had at some kill, or what lay on disk to be sent there."""
    interruptions: Mapping[int, int] = field(default_factory=dict)
    """Trial -> how often its worker, or what its worker needs, was taken away."""
    undisturbed: Mapping[int, Mapping[int, Mapping[str, float]]] = field(default_factory=dict)
    """Trial -> epoch -> key -> value, of the same settings trained without any fault."""
    artifacts: frozenset[str] = frozenset()
    """Files that the run has of every trial with an epoch."""
    saved: Mapping[tuple[int, int], int] = field(default_factory=dict)
    """(trial, epoch) that a checkpoint held at some kill -> how often it had been trained then."""
    trained: Mapping[int, Mapping[int, int]] = field(default_factory=dict)
    """Trial -> epoch -> how often it was trained in all."""
    lives: tuple[Life, ...] = ()
    left_over: int = 0
    """Processes that outlived the last driver."""
    stuck: str = ""
    """Why the study was given up, if it was."""
