"""The only code that writes Optuna's storage.

Each call is repeated until the storage takes it. The storage may take a call although its answer is
lost, so each call can be repeated. What a driver writes while trials run goes through a
StudyWriter; the functions serve whoever opens a study or adds to it between its rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from functools import partial
from typing import Final

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from search.optimizer.pruners import PruneDecision, decide
from search.optimizer.space import Value
from search.study.events import REASON, TrialOutcome
from search.study.storage_retry import StorageRetry, retry_call
from search.worker.messages import EpochResult

DIRECTION: Final = "maximize"

_PRUNED: Final = "pruned"
"""The trial's user attribute with the reason why it is pruned, until the trial ends with it."""


def create_study(
    name: str,
    storage: BaseStorage,
    sampler: BaseSampler,
    pruner: BasePruner,
    *,
    load_if_exists: bool,
) -> optuna.Study:
    """A study that maximises its value.

    Args:
        name: Name in the storage.
        storage: Storage of the study.
        sampler: Sampler of this process.
        pruner: Pruner of this process.
        load_if_exists: Whether it may exist; else DuplicatedStudyError is raised.
    """
    create = partial(
        optuna.create_study,
        study_name=name,
        storage=storage,
        sampler=sampler,
        pruner=pruner,
        direction=DIRECTION,
        load_if_exists=load_if_exists,
    )
    return retry_call(storage, create)


def set_study_attribute(study: optuna.Study, name: str, value: object) -> None:
    """Keep a fact with a study.

    Args:
        study: Optuna's study.
        name: Name of the user attribute.
        value: A JSON value.
    """
    retry_call(study._storage, lambda: study.set_user_attr(name, value))


def enqueue(study: optuna.Study, params: Mapping[str, Value]) -> None:
    """Have settings tried before the sampler proposes any; nothing where they are enqueued already.

    Args:
        study: Optuna's study.
        params: Values of searched settings; the sampler adds the others.
    """
    attributes = {"origin": "enqueued"}
    add = partial(study.enqueue_trial, dict(params), attributes, skip_if_exists=True)
    retry_call(study._storage, add)


def set_trial_attributes(trial: optuna.Trial, attributes: Mapping[str, object]) -> None:
    """Keep facts with a trial, one after the other in their order.

    Args:
        trial: A running trial.
        attributes: User attributes by name, JSON values.
    """
    for name, value in attributes.items():
        retry_call(trial.storage, partial(trial.set_user_attr, name, value))


def requeue(study: optuna.Study, trial_id: int) -> None:
    """A running trial goes back: it is the next one that a driver asks for.

    Args:
        study: Optuna's study.
        trial_id: Id of the trial in the storage.
    """
    storage = study._storage

    def give_back() -> None:
        if storage.get_trial(trial_id).state is TrialState.RUNNING:
            storage.set_trial_state_values(trial_id, TrialState.WAITING)

    retry_call(storage, give_back)


class StudyWriter:
    """Writes the trials of one study."""

    def __init__(
        self,
        study: optuna.Study,
        suggest: Callable[[optuna.Trial], dict[str, Value]],
        pruner: str,
        retry: StorageRetry,
    ) -> None:
        """
        Args:
            study: Optuna's study, with its sampler and pruner.
            suggest: Function that returns a trial's settings, the same ones if called again.
            pruner: The pruner's name, for its reasons.
            retry: Function that repeats a call that failed in the storage.
        """
        self._study = study
        self._suggest = suggest
        self._pruner = pruner
        self._retry = retry
        self._trials: dict[int, optuna.Trial] = {}

    def create_trial(self, active: Container[int]) -> int:
        """The number of a trial that is not `active` yet: one that the storage created although its
        answer was lost, or a new one."""

        def create() -> optuna.Trial:
            for frozen in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if frozen.number not in active:
                    return optuna.Trial(self._study, frozen._trial_id)
            return self._study.ask()

        trial = self._retry.call(create)
        self._trials[trial.number] = trial
        return trial.number

    def resume_trial(self, frozen: FrozenTrial) -> None:
        """Write a trial that another driver created."""
        trial = self._retry.call(lambda: optuna.Trial(self._study, frozen._trial_id))
        self._trials[frozen.number] = trial

    def suggest(self, number: int) -> dict[str, Value]:
        """Draw the settings of a created trial, as far as it has none."""

        def draw() -> dict[str, Value]:
            # Read again, for what the storage took although its answer was lost.
            trial = optuna.Trial(self._study, self._trials[number]._trial_id)
            self._trials[number] = trial
            return self._suggest(trial)

        return self._retry.call(draw)

    def report(self, number: int, result: EpochResult) -> None:
        """Write a trial's value of an epoch.

        Args:
            number: Number of the trial.
            result: An epoch that Optuna does not have yet.
        """
        self._retry.call(lambda: self._trials[number].report(result.value, result.epoch))

    def should_prune(self, number: int) -> PruneDecision:
        """The pruner's decision about a trial's last epoch. It is written down, for Optuna's
        pruners decide about an epoch once: called again, after the driver's death say, they let the
        trial go on."""
        trial = self._trials[number]
        if reason := trial.user_attrs.get(_PRUNED, ""):
            return PruneDecision(True, reason)
        decision = decide(self._pruner, trial, self._retry.call)
        if decision.prune:
            self._retry.call(lambda: trial.set_user_attr(_PRUNED, decision.reason))
        return decision

    def finish(self, outcome: TrialOutcome) -> None:
        """Write how a trial ended."""
        trial = self._trials[outcome.number]
        value = outcome.value if outcome.state is TrialState.COMPLETE else None

        def tell() -> None:
            if self._study._storage.get_trial(trial._trial_id).state is TrialState.RUNNING:
                trial.set_user_attr(REASON, outcome.reason)
                self._study.tell(trial, value, outcome.state)

        self._retry.call(tell)
        del self._trials[outcome.number]

    def requeue(self, number: int) -> None:
        """Write that a trial has not begun: the next driver asks for it first."""
        trial = self._trials.pop(number)
        self._retry.call(lambda: requeue(self._study, trial._trial_id))
