"""The state of each trial that is under way in this driver, and the rules by which it changes.

    QUEUED -> RUNNING -> DECIDED -> removed
      ^          |
      +-- WORKER_LOST, or RUNNING up to its stop epoch

Nothing here has an effect: Optuna's storage, callbacks and workers are the controller's.
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
"""A trial that loses so many workers in a row, none of which finishes an epoch, is FAIL."""


class Phase(Enum):
    """Where a trial is between its start and its end."""

    QUEUED = auto()
    """It waits for a worker."""
    RUNNING = auto()
    """A worker has it."""
    WORKER_LOST = auto()
    """Its worker is gone or gave it up, and Ray Tune has not released it yet."""
    DECIDED = auto()
    """Its outcome is certain, and Ray Tune has not released it yet."""


@dataclass
class ActiveTrial:
    """A trial that has not ended."""

    number: int
    gpu_fraction: float
    params: Mapping[str, Value] = field(default_factory=dict)
    results: list[EpochResult] = field(default_factory=list)
    phase: Phase = Phase.QUEUED
    announced: bool = False
    """Whether callbacks know it: it has had a worker or an epoch."""
    node: str = ""
    """The address of the node that it trained on last."""
    stop_epoch: int = 0
    """The epoch that its assignment ends with; 0 before the first one."""
    worker_deaths: int = 0
    """Since the last new epoch."""
    lost_reason: str = ""
    """Why it is WORKER_LOST."""
    outcome: TrialOutcome | None = None
    """What was DECIDED."""

    @property
    def epoch(self) -> int:
        """The last one recorded."""
        return self.results[-1].epoch if self.results else 0

    @property
    def suspect(self) -> bool:
        """Whether a worker died in the epoch that comes next, perhaps because of the trial."""
        return self.worker_deaths > 0


class ActiveTrials:
    """The trials that have not ended, in the order in which they began."""

    def __init__(self, epochs: int) -> None:
        """epochs: after which a trial ends by itself."""
        self._epochs = epochs
        self._trials: dict[int, ActiveTrial] = {}
        self._queue: deque[int] = deque()

    def __contains__(self, number: int) -> bool:
        return number in self._trials

    def __getitem__(self, number: int) -> ActiveTrial:
        return self._trials[number]

    def __iter__(self) -> Iterator[ActiveTrial]:
        return iter([*self._trials.values()])

    @property
    def queue(self) -> list[ActiveTrial]:
        """Those that are QUEUED, the one that has waited longest first."""
        return [self._trials[number] for number in self._queue]

    def add(self, number: int, gpu_fraction: float) -> ActiveTrial:
        """A trial begins, or is resumed; it is QUEUED.

        Args:
            number: Optuna's.
            gpu_fraction: Its share of a GPU to begin with.
        """
        trial = self._trials[number] = ActiveTrial(number, gpu_fraction)
        self._queue.append(number)
        return trial

    def assign(
        self, number: int, stop_epoch: int | None, decision_epochs: tuple[int, ...]
    ) -> TrialAssignment:
        """A QUEUED trial gets a worker: what that one is to do.

        Args:
            number: The trial's.
            stop_epoch: The epoch after which it is queued again; None: it runs to its end.
            decision_epochs: As TrialAssignment has them.
        """
        trial = self._trials[number]
        self._queue.remove(number)
        trial.phase, trial.stop_epoch = Phase.RUNNING, stop_epoch or self._epochs
        return TrialAssignment(
            number, trial.params, trial.epoch, trial.stop_epoch, trial.gpu_fraction, decision_epochs
        )

    def record(self, number: int, result: EpochResult) -> bool:
        """An epoch of a trial. An epoch that is known is ignored, since a trial that goes on from
        its checkpoint repeats some. So is one of a DECIDED trial: in a group, a trial ends only
        together with the others. A value that is no number fails the trial.

        Args:
            number: The trial's.
            result: What its worker reported.

        Returns:
            Whether the epoch is new and counts.
        """
        trial = self._trials[number]
        if trial.phase is Phase.DECIDED or result.epoch <= trial.epoch:
            return False
        if not math.isfinite(result.value):
            self.decide(number, TrialState.FAIL, f"epoch {result.epoch}: value is {result.value}")
            return False
        trial.results.append(result)
        trial.worker_deaths = 0
        return True

    def decide(self, number: int, state: TrialState, reason: str) -> TrialOutcome:
        """How a trial ends. The first decision stays, and a trial that has recorded its last epoch
        is COMPLETE, whatever becomes of its worker or its group.

        Args:
            number: The trial's.
            state: Optuna's state for it.
            reason: In words, on one line.
        """
        trial = self._trials[number]
        if trial.outcome is None:
            if trial.epoch >= self._epochs:
                state, reason = TrialState.COMPLETE, _value(trial)
            reason = " ".join(reason.split())
            trial.outcome = TrialOutcome(number, state, reason, tuple(trial.results))
            trial.phase = Phase.DECIDED
        return trial.outcome

    def stop(self, number: int, reason: str) -> TrialOutcome:
        """A trial ends before it is complete: PRUNED with its values, FAIL where it has none.

        Args:
            number: The trial's.
            reason: Why the study ends.
        """
        if epoch := self._trials[number].epoch:
            return self.decide(number, TrialState.PRUNED, f"epoch {epoch}: {reason}")
        return self.decide(number, TrialState.FAIL, reason)

    def finish(self, number: int) -> TrialOutcome:
        """The outcome of a trial whose worker has returned: what was decided, or COMPLETE."""
        trial = self._trials[number]
        if trial.results:
            return self.decide(number, TrialState.COMPLETE, _value(trial))
        return self.decide(number, TrialState.FAIL, "ended without a report")

    def worker_lost(self, number: int, reason: str, *, blame_trial: bool) -> None:
        """A RUNNING trial has lost its worker.

        Args:
            number: The trial's.
            reason: In words.
            blame_trial: Whether the trial may be the cause.
        """
        trial = self._trials[number]
        trial.worker_deaths += blame_trial
        if trial.worker_deaths >= MAX_WORKER_DEATHS or trial.epoch >= self._epochs:
            text = f"{reason}: {MAX_WORKER_DEATHS} times in a row in epoch {trial.epoch + 1}"
            self.decide(number, TrialState.FAIL, text)
        elif trial.phase is not Phase.DECIDED:
            trial.phase, trial.lost_reason = Phase.WORKER_LOST, " ".join(reason.split())

    def out_of_gpu_memory(self, number: int, reason: str) -> bool:
        """A trial gets twice its share of a GPU, at most all of it, and another worker.

        Args:
            number: The trial's.
            reason: In words.

        Returns:
            False where there is no larger share: nothing has changed then.
        """
        trial = self._trials[number]
        if not 0 < trial.gpu_fraction < 1 or trial.epoch >= self._epochs:
            return False
        before, trial.gpu_fraction = trial.gpu_fraction, min(1.0, 2 * trial.gpu_fraction)
        text = f"{reason} with {before:g} of a GPU: it goes on with {trial.gpu_fraction:g}"
        self.worker_lost(number, text, blame_trial=False)
        return True

    def release(self, number: int) -> bool:
        """Ray Tune has released a trial: it is queued again where it has still to train.

        Returns:
            Whether it is queued; if not, it has ended.
        """
        trial = self._trials[number]
        # A resumed trial may be beyond its stop epoch: its checkpoint was, and the driver that died
        # had not recorded those epochs.
        at_stop = trial.phase is Phase.RUNNING and trial.stop_epoch <= trial.epoch < self._epochs
        if at_stop or trial.phase is Phase.WORKER_LOST:
            trial.phase = Phase.QUEUED
            self._queue.append(number)
        return trial.phase is Phase.QUEUED

    def remove(self, number: int) -> None:
        """The trial has ended, or this driver leaves it."""
        if self._trials.pop(number).number in self._queue:
            self._queue.remove(number)


def _value(trial: ActiveTrial) -> str:
    return f"epoch {trial.epoch}: value {trial.results[-1].value:.3f}"
