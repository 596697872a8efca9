"""Runs the life of each trial of a study: between Ray Tune, Optuna's storage and the callbacks.

Ray Tune drives it from one thread: the searcher starts trials and releases them, the scheduler
passes on what their workers report. A trial is created once and finished once, whatever happens in
between, and ends with a reason. In between it may change hands: a trial whose worker died is queued
here for the next one, a trial whose driver died is resumed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from optuna.trial import FrozenTrial, TrialState

from search.study.active_trials import ActiveTrial, Phase
from search.study.events import StudyCallback
from search.study.writer import StudyWriter, requeue
from search.worker import messages

FindUnreported = Callable[[ActiveTrial], Sequence[messages.EpochResult]]
"""Epochs after a trial's last recorded one that its workers have finished and saved, but never
reported."""


@dataclass(frozen=True)
class TrialPolicy:
    """What holds for every trial of a study."""

    epochs: int  # the epoch after which a trial is complete
    decision_epochs: tuple[int, ...] = ()  # epochs after which the pruner may end it
    gpu_fraction: float = 0.0  # its share of GPUs to begin with


@dataclass
class TrialController:
    """Starts a study's trials, records what their workers report, and ends them.

    Callbacks hear of an epoch before Optuna's storage has it, and of a trial's end afterwards.
    """

    writer: StudyWriter
    policy: TrialPolicy
    new_trials_left: int  # trials still to be created
    callbacks: Sequence[StudyCallback] = ()  # told of every event, in this order
    find_unreported: FindUnreported = lambda trial: ()
    epochs_recorded: int = field(default=0, init=False)  # new epochs of all trials, so far
    # Trials that have not ended. A trial that is queued again moves to the end.
    _trials: dict[int, ActiveTrial] = field(default_factory=dict, init=False)

    @property
    def active(self) -> tuple[int, ...]:
        """Trials that have not ended, with a worker or without."""
        return tuple(sorted(self._trials))

    @property
    def queue(self) -> list[ActiveTrial]:
        """Trials that wait for a worker, the one that has waited longest first."""
        return [trial for trial in self._trials.values() if trial.phase is Phase.QUEUED]

    def is_running(self, number: int) -> bool:
        """Whether the trial's worker is to go on with it."""
        return self._trials[number].phase is Phase.RUNNING

    def enqueue_new(self) -> ActiveTrial:
        """Create a trial, which then waits for a worker."""
        number = self.writer.create_trial(self._trials)
        self.new_trials_left -= 1
        # Active before its settings are drawn: a sampler that raises loses no trial.
        return self._add(number)

    def start(
        self, trial: ActiveTrial | None = None, stop_epoch: int | None = None
    ) -> messages.TrialAssignment:
        """Give a trial that waits to a worker.

        Args:
            trial: The trial; None: the one that has waited longest.
            stop_epoch: The epoch after which it waits again, if nothing has ended it; None: it runs
                to its end.
        """
        trial = trial or self.queue[0]
        self._announce(trial)
        return trial.assign(stop_epoch)

    def start_new(self) -> messages.TrialAssignment:
        """Create a trial and give it to a worker."""
        return self.start(self.enqueue_new())

    def resume(self, frozen: FrozenTrial, logged: Mapping[int, messages.EpochResult]) -> None:
        """Go on with a trial that Optuna's storage has RUNNING although its driver is gone.

        Args:
            frozen: Optuna's record of the trial; its epochs are those that count.
            logged: Epochs in the trial's log, by number, with all their metrics.
        """
        trial = self._add(frozen.number)
        for epoch, value in sorted(frozen.intermediate_values.items()):
            trial.results.append(logged.get(epoch) or messages.EpochResult(epoch, value))
        if trial.results:
            self._announce(trial)
        for result in trial.results:
            for callback in self.callbacks:
                callback.on_epoch(trial.number, result)
        if not trial.done and not self._pruned(trial):
            self._record_unreported(trial)
        if trial.done or trial.phase is Phase.DECIDED:
            self.finish(trial.number)

    def place(self, number: int, node: str) -> None:
        """The trial's worker is on a node.

        Args:
            number: Number of the trial.
            node: Address of the node; empty where it is not known.
        """
        trial = self._trials[number]
        if node and trial.node != node:
            trial.node = node
            for callback in self.callbacks:
                callback.on_trial_placed(number, node)

    def record(self, number: int, result: messages.EpochResult) -> bool:
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
            for callback in self.callbacks:
                callback.on_epoch(number, result)
            self.writer.report(trial)
            if not trial.done:
                self._pruned(trial)
        return trial.phase is Phase.DECIDED

    def interrupt(self, number: int, message: messages.Interruption) -> None:
        """The trial's worker does not go on with it. Another one will, unless the trial has failed
        or cost too many workers.

        Args:
            number: Number of the trial.
            message: Message from, or about, the worker.
        """
        trial = self._trials[number]
        match message:
            case messages.TrialFailed(reason):
                trial.decide(TrialState.FAIL, reason)
                return
            case messages.OutOfGpuMemory(reason):
                message = trial.out_of_gpu_memory(reason)
        self._record_unreported(trial)
        trial.worker_lost(message)

    def all_workers_lost(self, reason: str) -> None:
        """Every worker is gone, which is no trial's fault: all trials wait for others."""
        for number in self.active:
            if self._trials[number].phase is not Phase.QUEUED:
                self.interrupt(number, messages.WorkerLost(reason, blame_trial=False))
                self.release(number)

    def release(self, number: int) -> None:
        """The trial has no worker any more: it waits for another one, or ends."""
        if number not in self._trials:
            return
        trial = self._trials[number]
        lost = trial.phase is Phase.WORKER_LOST
        if not trial.release():
            self.finish(number)
            return
        self._trials[number] = self._trials.pop(number)
        if lost:
            for callback in self.callbacks:
                callback.on_worker_lost(number, trial.lost_reason)

    def finish(self, number: int) -> None:
        """End the trial: as it was decided, or complete. Doing it twice changes nothing."""
        if number not in self._trials:
            return
        outcome = self._trials[number].finish()
        self.writer.finish(outcome)
        # Only now: while writing fails, the trial is still to be finished.
        del self._trials[number]
        for callback in self.callbacks:
            callback.on_trial_end(outcome)

    def pause_all(self, reason: str) -> None:
        """Leave active trials to the next driver. They stay RUNNING in Optuna's storage."""
        for number in self.active:
            trial = self._trials.pop(number)
            for callback in self.callbacks if trial.announced else ():
                callback.on_trial_pause(number, reason)

    def stop_all(self, reason: str) -> None:
        """End active trials: PRUNED with their values, FAIL where there are none. A trial that was
        created and not begun goes back: if the study is extended, it is the first one."""
        for number in self.active:
            if self._trials[number].announced:
                self._trials[number].stop(reason)
                self.finish(number)
            else:
                requeue(self.writer.study, number)
                del self._trials[number]

    def _add(self, number: int) -> ActiveTrial:
        policy = self.policy
        trial = ActiveTrial(number, policy.epochs, policy.gpu_fraction, policy.decision_epochs)
        self._trials[number] = trial
        trial.params = self.writer.draw(number)
        return trial

    def _announce(self, trial: ActiveTrial) -> None:
        if not trial.announced:
            trial.announced = True
            for callback in self.callbacks:
                callback.on_trial_start(trial.number, trial.params)

    def _pruned(self, trial: ActiveTrial) -> bool:
        reason = self.writer.pruned(trial.number)
        if reason:
            trial.decide(TrialState.PRUNED, reason)
        return bool(reason)

    def _record_unreported(self, trial: ActiveTrial) -> None:
        """Record what a worker finished before it died, or its driver, and never reported."""
        for result in self.find_unreported(trial):
            self._announce(trial)
            if self.record(trial.number, result):
                return
