"""Assigns trials to workers, and workers' messages to trials.

By default, one trial at a time: `SingleTrials`. With `--group`, trials of one shape train as one,
each up to the next epoch at which the pruner compares: `TrialGroups`. There Optuna decides, and the
survivors are grouped anew. Ray Tune takes the trials of one worker for one trial of its own.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from search.optimizer.space import Value
from search.study.active_trials import ActiveTrial
from search.study.stopping import StopSignal
from search.study.trial_controller import TrialController
from search.tune.capacity import Capacity
from search.worker import messages
from search.worker.trainable import TrainGroup

_LOOKAHEAD = 2
"""Groups that the queued trials can fill, at most. More make fuller groups, but the sampler draws
their settings from fewer results."""

Addressed = tuple[int, messages.WorkerMessage]  # a trial's number, and a message about it

Received = messages.WorkerMessage | tuple[Addressed, ...]
"""Message of a trainable, or about its worker."""


class SingleTrials:
    """Each worker trains one trial at a time."""

    train_group: TrainGroup | None = None  # trains a group in a worker; None: there are no groups

    def next_assignments(self, controller: TrialController) -> tuple[messages.TrialAssignment, ...]:
        """Work for a free worker; empty where no trial waits and none is left to create."""
        if controller.queue:
            return (controller.start(),)
        return (controller.start_new(),) if controller.new_trials_left else ()

    def route(self, trials: Sequence[int], message: Received) -> list[Addressed]:
        """Address a worker's message to its trials.

        Args:
            trials: Numbers of the worker's trials.
            message: Message from, or about, the worker.
        """
        return [*message] if isinstance(message, tuple) else [(trials[0], message)]


@dataclass(frozen=True)
class TuneRun:
    """How a round's trials run on Ray Tune."""

    folder: Path  # folder of `trials`: that of a study, or of its confirming runs
    capacity: Capacity  # how many at once
    stop: StopSignal  # ends the run when it is due
    epoch_timeout: float  # seconds without an epoch after which a trial's worker is killed
    notify: Callable[[str], None] = lambda _: None  # shows the user what workers say of their nodes
    grouping: SingleTrials = field(default_factory=SingleTrials)  # which trials a worker gets


@dataclass
class TrialGroups(SingleTrials):
    """Each worker trains up to `max_size` trials of one kind together."""

    max_size: int  # trials in a group, at most; halved when a GPU has no memory for so many
    # The settings that a group shares; None: the trial trains alone.
    kind: Callable[[Mapping[str, Value]], Hashable | None]
    next_rung: Callable[[int], int]  # returns the next epoch at which the pruner compares
    train_group: TrainGroup = field()  # without the default of SingleTrials
    notify: Callable[[str], None]  # shows the user a line
    _kinds: dict[int, Hashable] = field(default_factory=dict, init=False)

    def next_assignments(self, controller: TrialController) -> tuple[messages.TrialAssignment, ...]:
        while controller.new_trials_left and len(controller.queue) < _LOOKAHEAD * self.max_size:
            if len(self._largest(controller.queue)) >= self.max_size:
                break
            controller.enqueue_new()
        for trial in controller.queue:  # these are few and do not delay the groups for long
            if self._kind_of(trial) is None:
                return (controller.start(trial),)
            if trial.worker_deaths:  # alone until it has survived the epoch
                return (controller.start(trial, trial.epoch + 1),)
        group = self._largest(controller.queue)[: self.max_size]
        return tuple(controller.start(t, self.next_rung(t.epoch)) for t in group)

    def route(self, trials: Sequence[int], message: Received) -> list[Addressed]:
        if len(trials) == 1:
            return super().route(trials, message)
        match message:
            case messages.OutOfGpuMemory(reason):
                size = len(trials)
                self.max_size = max(1, min(self.max_size, size // 2))
                self.notify(
                    f"{reason} with {size} trials at a time: groups of {self.max_size} at most"
                    " from here on"
                )
                return [(trial, messages.WorkerLost(reason, blame_trial=False)) for trial in trials]
            case messages.TrialFailed(reason):  # the cause is unknown: each goes on alone
                return [(trial, messages.WorkerLost(reason)) for trial in trials]
            case messages.WorkerLost():
                return [(trial, message) for trial in trials]
            case messages.NodeRejected(reason):
                lost = messages.WorkerLost(reason, blame_trial=False)
                return [(trials[0], message), *((trial, lost) for trial in trials[1:])]
        return super().route(trials, message)  # in pairs already, or about the worker

    def _largest(self, queue: Sequence[ActiveTrial]) -> list[ActiveTrial]:
        """The trials of the most frequent kind; of several, the first one."""
        alike = defaultdict[Hashable, list[ActiveTrial]](list)
        for trial in queue:
            kind = self._kind_of(trial)
            if kind is not None and not trial.worker_deaths:
                alike[kind].append(trial)
        return max(alike.values(), key=len, default=[])

    def _kind_of(self, trial: ActiveTrial) -> Hashable | None:
        if trial.number not in self._kinds:
            self._kinds[trial.number] = self.kind(trial.params)
        return self._kinds[trial.number]
