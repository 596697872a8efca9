"""The state of each trial that is under way in this driver, and the rules by which it changes: what
becomes of it when its worker is lost, when it runs out of GPU memory, when the study ends.

    QUEUED -> RUNNING -> DECIDED -> removed
      ^          |
      +-- WORKER_LOST, or RUNNING up to its stop epoch

Nothing here touches storage, callbacks or workers: search/study/trial_controller.py does.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from optuna.trial import TrialState

from search.optimizer.space import Value
from search.study.events import TrialOutcome
from search.worker.messages import EpochResult, TrialAssignment, WorkerLost

MAX_WORKER_DEATHS = 3  # in a row, without an epoch finished in between: the trial is FAIL


class Phase(Enum):
    """State of a trial between its start and its end."""

    QUEUED = auto()  # it waits for a worker
    RUNNING = auto()  # a worker has it
    WORKER_LOST = auto()  # its worker is lost, and Ray Tune has not released it yet
    DECIDED = auto()  # its outcome is certain, and Ray Tune has not released it yet


@dataclass(eq=False)
class ActiveTrial:
    """A trial that has not ended."""

    number: int
    epochs: int  # last epoch of the trial
    gpu_fraction: float  # share of a GPU; grows when the trial runs out of memory
    decision_epochs: tuple[int, ...] = ()  # epochs after which the pruner may end the trial
    params: Mapping[str, Value] = field(default_factory=dict)
    results: list[EpochResult] = field(default_factory=list)
    phase: Phase = Phase.QUEUED
    announced: bool = False  # whether callbacks know the trial: it has had a worker or an epoch
    node: str = ""  # address of the node that it trained on last
    stop_epoch: int = 0  # last epoch of its assignment; 0 before the first assignment
    worker_deaths: int = 0  # workers lost since the last new epoch, perhaps because of the trial
    lost_reason: str = ""  # why it is WORKER_LOST
    outcome: TrialOutcome | None = None  # the decided outcome

    @property
    def epoch(self) -> int:
        """Last recorded epoch."""
        return self.results[-1].epoch if self.results else 0

    @property
    def done(self) -> bool:
        """Whether it has recorded its last epoch: it is COMPLETE, whatever becomes of its worker or
        its group."""
        return self.epoch >= self.epochs

    def record(self, result: EpochResult) -> bool:
        """Whether an epoch is new and counts. An epoch that is known is ignored, since a trial that
        goes on from its checkpoint repeats some. So is one of a DECIDED trial: in a group, a trial
        ends only together with the others. A value that is no number fails the trial."""
        if self.phase is Phase.DECIDED or result.epoch <= self.epoch:
            return False
        if not math.isfinite(result.value):
            self.decide(TrialState.FAIL, f"epoch {result.epoch}: value is {result.value}")
            return False
        self.results.append(result)
        self.worker_deaths = 0
        return True

    def decide(self, state: TrialState, reason: str) -> TrialOutcome:
        """Decide how the trial ends, unless it is DECIDED already or done.

        Args:
            state: State in Optuna.
            reason: Reason in words, on one line.
        """
        if self.outcome is None:
            if self.done:
                state, reason = TrialState.COMPLETE, self._value()
            reason = " ".join(reason.split())
            self.outcome = TrialOutcome(self.number, state, reason, tuple(self.results))
            self.phase = Phase.DECIDED
        return self.outcome

    def stop(self, reason: str) -> TrialOutcome:
        """The study ends: the trial is PRUNED with its values, FAIL where it has none."""
        if self.epoch:
            return self.decide(TrialState.PRUNED, f"epoch {self.epoch}: {reason}")
        return self.decide(TrialState.FAIL, reason)

    def finish(self) -> TrialOutcome:
        """Its worker has returned: the trial ends as it was DECIDED, or COMPLETE."""
        if self.results:
            return self.decide(TrialState.COMPLETE, self._value())
        return self.decide(TrialState.FAIL, "ended without a report")

    def worker_lost(self, lost: WorkerLost) -> None:
        """The RUNNING trial has lost its worker."""
        self.worker_deaths += lost.blame_trial
        if self.worker_deaths >= MAX_WORKER_DEATHS or self.done:
            text = f"{lost.reason}: {MAX_WORKER_DEATHS} times in a row in epoch {self.epoch + 1}"
            self.decide(TrialState.FAIL, text)
        elif self.phase is not Phase.DECIDED:
            self.phase, self.lost_reason = Phase.WORKER_LOST, " ".join(lost.reason.split())

    def out_of_gpu_memory(self, reason: str) -> WorkerLost:
        """The trial gets twice its share of a GPU, at most all of it. Returns how it loses its
        worker: where there is no larger share, that is held against the trial."""
        if not 0 < self.gpu_fraction < 1 or self.done:
            return WorkerLost(reason)
        before, self.gpu_fraction = self.gpu_fraction, min(1.0, 2 * self.gpu_fraction)
        text = f"{reason} with {before:g} of a GPU: it goes on with {self.gpu_fraction:g}"
        return WorkerLost(text, blame_trial=False)

    def assign(self, stop_epoch: int | None) -> TrialAssignment:
        """A worker gets the QUEUED trial, which is queued again after `stop_epoch`; None: it runs
        to its end."""
        self.phase, self.stop_epoch = Phase.RUNNING, stop_epoch or self.epochs
        return TrialAssignment(
            self.number,
            self.params,
            self.epoch,
            self.stop_epoch,
            self.gpu_fraction,
            self.decision_epochs,
        )

    def release(self) -> bool:
        """Ray Tune has released the trial. Returns whether it is QUEUED to train further; otherwise
        it has ended."""
        # A resumed trial may be beyond its stop epoch: its checkpoint has epochs that the previous
        # driver did not record.
        at_stop = self.phase is Phase.RUNNING and self.stop_epoch <= self.epoch < self.epochs
        if at_stop or self.phase is Phase.WORKER_LOST:
            self.phase = Phase.QUEUED
        return self.phase is Phase.QUEUED

    def _value(self) -> str:
        return f"epoch {self.epoch}: value {self.results[-1].value:.3f}"
