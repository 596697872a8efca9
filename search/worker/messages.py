"""What the driver and its workers send each other. Imports neither Ray nor Optuna."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

ASSIGNMENTS: Final = "assignments"  # key of a config for Ray Tune: one worker's TrialAssignments
MESSAGE: Final = "message"  # key of a result that a worker reports to Ray Tune: its WorkerMessage


@dataclass(frozen=True)
class EpochResult:
    """One epoch of a trial."""

    epoch: int  # from 1
    value: float  # what the study maximises
    metrics: Mapping[str, float] = field(default_factory=dict)
    # (7, 7) counts on the validation part, rows are true classes; empty where there are none.
    confusion: Sequence[Sequence[int]] = ()


@dataclass(frozen=True)
class TrialAssignment:
    """What a worker is to train: a trial, from its start or from where it is."""

    number: int
    params: Mapping[str, Any]
    start_epoch: int  # last epoch that the driver has recorded; 0: a new trial
    stop_epoch: int  # the worker releases the trial after it, to its end or to wait for another
    # GPUs that belong to the trial; of less than 1, that part of the GPU's memory. It is larger
    # than that of other trials where it ran out of memory with less.
    gpu_fraction: float = 0.0
    decision_epochs: tuple[int, ...] = ()  # the worker waits there for the pruner's decision


class WorkerMessage:
    """What a worker reports, or what Ray reports about it."""


@dataclass(frozen=True)
class EpochDone(WorkerMessage):
    """The trial has finished an epoch."""

    result: EpochResult
    node: str = ""  # Ray's id of the worker's node


@dataclass(frozen=True)
class TrialFailed(WorkerMessage):
    """The trial's settings or its data are at fault. The worker is well."""

    reason: str


@dataclass(frozen=True)
class WorkerLost(WorkerMessage):
    """The worker cannot go on with the trial; another one can."""

    reason: str
    blame_trial: bool = True
    """Whether the trial may be the cause: one that costs worker after worker fails."""


@dataclass(frozen=True)
class OutOfGpuMemory(WorkerMessage):
    """The trial ran out of its share of the GPU's memory."""

    reason: str = "out of GPU memory"


Interruption = TrialFailed | WorkerLost | OutOfGpuMemory  # the worker does not go on with the trial


@dataclass(frozen=True)
class DiskFull(WorkerMessage):
    """The worker found no room to write. No trial can go on there."""

    path: str


@dataclass(frozen=True)
class NoRights(WorkerMessage):
    """The worker's account may not read or write a file of the study. No trial can go on there."""

    reason: str


@dataclass(frozen=True)
class NodeRejected(WorkerMessage):
    """The worker's node cannot train this study's trials; other nodes can."""

    reason: str
    node: str


@dataclass(frozen=True)
class GpuFault(WorkerMessage):
    """The worker's GPU broke down. The worker ends, which Ray Tune reports as an error."""

    reason: str
    node: str


@dataclass(frozen=True)
class Note(WorkerMessage):
    """A line for the user about the worker's node."""

    text: str
