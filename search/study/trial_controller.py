"""Runs the life of each trial of a study: between Ray Tune, Optuna's storage and the callbacks.

Ray Tune drives it from one thread: the searcher starts trials and releases them, the scheduler
passes on what their workers report. A trial is created once and finished once, whatever happens in
between, and ends with a reason. In between it may change hands: a trial whose worker died is queued
here for the next one, a trial whose driver died is resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from search.optimizer.space import Value
from search.study.active_trials import ActiveTrial, ActiveTrials, Phase
from search.study.events import StudyCallback
from search.study.writer import StudyWriter
from search.worker.messages import EpochResult, TrialAssignment

FindUnreported = Callable[[int, Mapping[str, Value], int], Sequence[EpochResult]]
"""Given a trial's number, its settings and its last recorded epoch: later ones that its workers
have finished and saved, but never reported."""


@dataclass(frozen=True)
class TrialPolicy:
    """What holds for every trial of a study."""

    epochs: int
    """The epoch after which a trial is complete."""
    decision_epochs: tuple[int, ...] = ()
    """Epochs after which the pruner may end it."""
    gpu_fraction: float = 0.0
    """Its share of GPUs to begin with."""


class TrialController:
    """Starts a study's trials, records what their workers report, and ends them.

    Callbacks hear of an epoch before Optuna's storage has it, and of a trial's end afterwards.
    """

    def __init__(
        self,
        writer: StudyWriter,
        policy: TrialPolicy,
        new_trials: int,
        callbacks: Sequence[StudyCallback] = (),
        find_unreported: FindUnreported = lambda number, params, epoch: (),
    ) -> None:
        """Args:
        writer: Writes Optuna's storage.
        policy: What holds for every trial.
        new_trials: How many to create.
        callbacks: Told of every event, in this order.
        find_unreported: Function that returns epochs that workers saved but never reported.
        """
        self._writer = writer
        self._policy = policy
        self._callbacks = callbacks
        self._find_unreported = find_unreported
        self._trials = ActiveTrials()
        self.new_trials_left = new_trials
        """Trials still to be created."""
        self.epochs_recorded = 0
        """New epochs of all trials, so far."""

    @property
    def active(self) -> tuple[int, ...]:
        """Trials that have not ended, with a worker or without."""
        return tuple(trial.number for trial in self._trials)

    @property
    def queue(self) -> Sequence[ActiveTrial]:
        """Trials that wait for a worker, the one that has waited longest first."""
        return self._trials.queue

    def is_running(self, number: int) -> bool:
        """Whether the trial's worker is to go on with it."""
        return self._trials[number].phase is Phase.RUNNING

    def enqueue_new(self) -> int:
        """Create a trial, which then waits for a worker; returns its number."""
        number = self._writer.create_trial(self.active)
        self.new_trials_left -= 1
        # Active before its settings are drawn: a sampler that raises loses no trial.
        trial = self._add(number)
        trial.params = self._writer.suggest(number)
        return number

    def start(self, number: int | None = None, stop_epoch: int | None = None) -> TrialAssignment:
        """Give a trial that waits to a worker.

        Args:
            number: Number of the trial; None: the one that has waited longest.
            stop_epoch: The epoch after which it waits again, if nothing has ended it; None: it runs
                to its end.
        """
        trial = self.queue[0] if number is None else self._trials[number]
        self._announce(trial)
        return self._trials.assign(trial, stop_epoch, self._policy.decision_epochs)

    def start_new(self) -> TrialAssignment:
        """Create a trial and give it to a worker."""
        return self.start(self.enqueue_new())

    def resume(self, frozen: FrozenTrial, logged: Mapping[int, EpochResult]) -> None:
        """Go on with a trial that Optuna's storage has RUNNING although its driver is gone.

        Args:
            frozen: Optuna's record of the trial; its epochs are those that count.
            logged: Epochs in the trial's log, by number, with all their metrics.
        """
        number = frozen.number
        self._writer.resume_trial(frozen)
        trial = self._add(number)
        for epoch, value in sorted(frozen.intermediate_values.items()):
            trial.results.append(logged.get(epoch) or EpochResult(epoch, value))
        trial.params = self._writer.suggest(number)
        if trial.results:
            self._announce(trial)
        for result in trial.results:
            for callback in self._callbacks:
                callback.on_epoch(number, result)
        if not trial.done and not self._pruned(trial):
            self._record_unreported(trial)
        if trial.done or trial.phase is Phase.DECIDED:
            self.finish(number)

    def place(self, number: int, node: str) -> None:
        """The trial's worker is on a node.

        Args:
            number: Number of the trial.
            node: Address of the node; empty where it is not known.
        """
        trial = self._trials[number]
        if node and trial.node != node:
            trial.node = node
            for callback in self._callbacks:
                callback.on_trial_placed(number, node)

    def record(self, number: int, result: EpochResult) -> bool:
        """Record an epoch, if it is new, and ask the pruner. The last epoch is not put before the
        pruner: the trial has done all its work, and its value is worth more to the sampler as a
        complete one.

        Args:
            number: Number of the trial.
            result: Epoch that its worker reported.

        Returns:
            Whether the trial ends here.
        """
        trial = self._trials[number]
        if trial.record(result):
            self.epochs_recorded += 1
            for callback in self._callbacks:
                callback.on_epoch(number, result)
            self._writer.report(number, result)
            if not trial.done:
                self._pruned(trial)
        return trial.phase is Phase.DECIDED

    def fail(self, number: int, reason: str) -> None:
        """The trial will end as FAIL, unless its end is decided already.

        Args:
            number: Number of the trial.
            reason: Reason in words.
        """
        self._trials[number].decide(TrialState.FAIL, reason)

    def out_of_gpu_memory(self, number: int, reason: str) -> None:
        """The trial goes on with twice its share of a GPU, if there is that much.

        Args:
            number: Number of the trial.
            reason: Reason in words.
        """
        if not self._trials[number].out_of_gpu_memory(reason):
            self.worker_lost(number, reason)

    def worker_lost(self, number: int, reason: str, *, blame_trial: bool = True) -> None:
        """The trial's worker is gone. Another one will go on, unless too many have died of it.

        Args:
            number: Number of the trial.
            reason: Reason in words.
            blame_trial: Whether the trial may be the cause.
        """
        trial = self._trials[number]
        self._record_unreported(trial)
        trial.worker_lost(reason, blame_trial=blame_trial)

    def all_workers_lost(self, reason: str) -> None:
        """Every worker is gone, which is no trial's fault: all trials wait for others."""
        for trial in self._trials:
            if trial.phase is not Phase.QUEUED:
                self.worker_lost(trial.number, reason, blame_trial=False)
                self.release(trial.number)

    def release(self, number: int) -> None:
        """The trial has no worker any more: it waits for another one, or ends."""
        if number not in self._trials:
            return
        trial = self._trials[number]
        lost = trial.phase is Phase.WORKER_LOST
        if not self._trials.release(trial):
            self.finish(number)
        elif lost:
            for callback in self._callbacks:
                callback.on_worker_lost(number, trial.lost_reason)

    def finish(self, number: int) -> None:
        """End the trial: as it was decided, or complete. Doing it twice changes nothing."""
        if number not in self._trials:
            return
        trial = self._trials[number]
        outcome = trial.finish()
        self._writer.finish(outcome)
        # Only now: while writing fails, the trial is still to be finished.
        self._trials.remove(trial)
        for callback in self._callbacks:
            callback.on_trial_end(outcome)

    def pause_all(self, reason: str) -> None:
        """Leave active trials to the next driver. They stay RUNNING in Optuna's storage."""
        for trial in self._trials:
            self._trials.remove(trial)
            for callback in self._callbacks if trial.announced else ():
                callback.on_trial_pause(trial.number, reason)

    def stop_all(self, reason: str) -> None:
        """End active trials: PRUNED with their values, FAIL where there are none. A trial that was
        created and not begun goes back: if the study is extended, it is the first one."""
        for trial in self._trials:
            if trial.announced:
                trial.stop(reason)
                self.finish(trial.number)
            else:
                self._writer.requeue(trial.number)
                self._trials.remove(trial)

    def _announce(self, trial: ActiveTrial) -> None:
        if not trial.announced:
            trial.announced = True
            for callback in self._callbacks:
                callback.on_trial_start(trial.number, trial.params)

    def _add(self, number: int) -> ActiveTrial:
        return self._trials.add(ActiveTrial(number, self._policy.epochs, self._policy.gpu_fraction))

    def _pruned(self, trial: ActiveTrial) -> bool:
        decision = self._writer.should_prune(trial.number)
        if decision.prune:
            trial.decide(TrialState.PRUNED, decision.reason)
        return decision.prune

    def _record_unreported(self, trial: ActiveTrial) -> None:
        """Record what a worker finished before it died, or its driver, and never reported."""
        for result in self._find_unreported(trial.number, trial.params, trial.epoch):
            self._announce(trial)
            if self.record(trial.number, result):
                return
