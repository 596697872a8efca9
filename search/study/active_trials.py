"""The state of each trial that is under way in this driver, and the rules by which it changes.

    QUEUED -> RUNNING -> DECIDED -> removed
      ^          |
      +-- WORKER_LOST, or RUNNING up to its stop epoch

Nothing here touches storage, callbacks or workers: search/study/trial_controller.py does.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from optuna.trial import TrialState

from search.optimizer.space import Value
from search.study.events import TrialOutcome
from search.worker.messages import EpochResult, TrialAssignment

MAX_WORKER_DEATHS = 3
"""Workers lost in a row, without an epoch finished in between, after which a trial is FAIL."""


class Phase(Enum):
    """State of a trial between its start and its end."""

    QUEUED = auto()
    """It waits for a worker."""
    RUNNING = auto()
    """A worker has it."""
    WORKER_LOST = auto()
    """Its worker is lost, and Ray Tune has not released it yet."""
    DECIDED = auto()
    """Its outcome is certain, and Ray Tune has not released it yet."""


@dataclass(eq=False)
class ActiveTrial:
    """A trial that has not ended."""

    number: int
    epochs: int
    """Last epoch of the trial."""
    gpu_fraction: float
    """Share of a GPU; grows when the trial runs out of memory."""
    params: Mapping[str, Value] = field(default_factory=dict)
    results: list[EpochResult] = field(default_factory=list)
    phase: Phase = Phase.QUEUED
    announced: bool = False
    """Whether callbacks know the trial: it has had a worker or an epoch."""
    node: str = ""
    """Address of the node that it trained on last."""
    stop_epoch: int = 0
    """Last epoch of its assignment; 0 before the first assignment."""
    worker_deaths: int = 0
    """Workers lost since the last new epoch."""
    lost_reason: str = ""
    """Why it is WORKER_LOST."""
    outcome: TrialOutcome | None = None
    """The decided outcome."""

    @property
    def epoch(self) -> int:
        """Last recorded epoch."""
        return self.results[-1].epoch if self.results else 0

    @property
    def done(self) -> bool:
        """Whether it has recorded its last epoch: it is COMPLETE, whatever becomes of its worker or
        its group."""
        return self.epoch >= self.epochs

    @property
    def suspect(self) -> bool:
        """Whether a worker died in the epoch that comes next, perhaps because of the trial."""
        return self.worker_deaths > 0

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

    def worker_lost(self, reason: str, *, blame_trial: bool) -> None:
        """The RUNNING trial has lost its worker.

        Args:
            reason: Reason in words.
            blame_trial: Whether the trial may be the cause.
        """
        self.worker_deaths += blame_trial
        if self.worker_deaths >= MAX_WORKER_DEATHS or self.done:
            text = f"{reason}: {MAX_WORKER_DEATHS} times in a row in epoch {self.epoch + 1}"
            self.decide(TrialState.FAIL, text)
        elif self.phase is not Phase.DECIDED:
            self.phase, self.lost_reason = Phase.WORKER_LOST, " ".join(reason.split())

    def out_of_gpu_memory(self, reason: str) -> bool:
        """The trial gets twice its share of a GPU, at most all of it, and another worker. False
        where there is no larger share: nothing has changed then."""
        if not 0 < self.gpu_fraction < 1 or self.done:
            return False
        before, self.gpu_fraction = self.gpu_fraction, min(1.0, 2 * self.gpu_fraction)
        text = f"{reason} with {before:g} of a GPU: it goes on with {self.gpu_fraction:g}"
        self.worker_lost(text, blame_trial=False)
        return True

    def _value(self) -> str:
        return f"epoch {self.epoch}: value {self.results[-1].value:.3f}"


class ActiveTrials:
    """The trials that have not ended, in the order in which they began, and those that wait for a
    worker, in the order in which they wait."""

    def __init__(self) -> None:
        self._trials: dict[int, ActiveTrial] = {}
        self._queue: deque[ActiveTrial] = deque()

    def __contains__(self, number: int) -> bool:
        return number in self._trials

    def __getitem__(self, number: int) -> ActiveTrial:
        return self._trials[number]

    def __iter__(self) -> Iterator[ActiveTrial]:
        return iter([*self._trials.values()])

    @property
    def queue(self) -> list[ActiveTrial]:
        """QUEUED trials, the one that has waited longest first."""
        return [*self._queue]

    def add(self, trial: ActiveTrial) -> ActiveTrial:
        """Add a trial that begins or is resumed, as QUEUED."""
        self._trials[trial.number] = trial
        self._queue.append(trial)
        return trial

    def assign(
        self, trial: ActiveTrial, stop_epoch: int | None, decision_epochs: tuple[int, ...]
    ) -> TrialAssignment:
        """Give a QUEUED trial a worker; returns the assignment.

        Args:
            trial: A QUEUED trial.
            stop_epoch: Epoch after which it is queued again; None: it runs to its end.
            decision_epochs: Epochs after which the pruner may end it.
        """
        self._queue.remove(trial)
        trial.phase, trial.stop_epoch = Phase.RUNNING, stop_epoch or trial.epochs
        return TrialAssignment(
            trial.number,
            trial.params,
            trial.epoch,
            trial.stop_epoch,
            trial.gpu_fraction,
            decision_epochs,
        )

    def release(self, trial: ActiveTrial) -> bool:
        """Ray Tune has released a trial: queue it again if it must train further.

        Returns:
            Whether it is queued; otherwise it has ended.
        """
        # A resumed trial may be beyond its stop epoch: its checkpoint has epochs that the previous
        # driver did not record.
        at_stop = trial.phase is Phase.RUNNING and trial.stop_epoch <= trial.epoch < trial.epochs
        if at_stop or trial.phase is Phase.WORKER_LOST:
            trial.phase = Phase.QUEUED
            self._queue.append(trial)
        return trial.phase is Phase.QUEUED

    def remove(self, trial: ActiveTrial) -> None:
        """Remove a trial that has ended or that this driver leaves."""
        del self._trials[trial.number]
        if trial in self._queue:
            self._queue.remove(trial)
