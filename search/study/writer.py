"""The only code that writes Optuna's storage.

What a driver writes while trials run goes through a StudyWriter, which repeats each call until the
storage takes it. The storage may take a call although its answer is lost, so each call can be
repeated. The functions serve whoever opens a study or adds to it between its rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any, Final

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from search.optimizer.pruners import PruneDecision, decide
from search.optimizer.space import Value
from search.study.events import REASON, TrialOutcome
from search.study.storage_retry import StorageRetry
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
        name: Its own in the storage.
        storage: Where it is kept.
        sampler: What proposes settings in this process.
        pruner: What prunes trials in this process.
        load_if_exists: Whether it may exist; else optuna's DuplicatedStudyError is raised.
    """
    return optuna.create_study(
        study_name=name,
        storage=storage,
        sampler=sampler,
        pruner=pruner,
        direction=DIRECTION,
        load_if_exists=load_if_exists,
    )


def set_study_attribute(study: optuna.Study, name: str, value: Any) -> None:
    """Keep a fact with a study.

    Args:
        study: Optuna's study.
        name: The user attribute.
        value: What JSON can hold.
    """
    study.set_user_attr(name, value)


def enqueue(study: optuna.Study, params: Mapping[str, Value]) -> None:
    """Have settings tried before the sampler proposes any; nothing where they are enqueued already.

    Args:
        study: Optuna's study.
        params: Values of searched settings; the sampler adds the others.
    """
    study.enqueue_trial(dict(params), user_attrs={"origin": "enqueued"}, skip_if_exists=True)


def set_trial_attributes(trial: optuna.Trial, attributes: Mapping[str, Any]) -> None:
    """Keep facts with a trial, one after the other in their order.

    Args:
        trial: A running trial.
        attributes: User attributes by name, of what JSON can hold.
    """
    for name, value in attributes.items():
        trial.set_user_attr(name, value)


def requeue(study: optuna.Study, trial_id: int) -> None:
    """A running trial goes back: it is the next one that a driver asks for.

    Args:
        study: Optuna's study.
        trial_id: Its storage's id of the trial.
    """
    if study._storage.get_trial(trial_id).state is TrialState.RUNNING:
        study._storage.set_trial_state_values(trial_id, TrialState.WAITING)


class StudyWriter:
    """Writes the trials of one study."""

    def __init__(
        self,
        study: optuna.Study,
        suggest: Callable[[optuna.Trial], dict[str, Value]],
        pruner: str,
        retry: StorageRetry,
    ) -> None:
        """Args:
        study: Optuna's study, with its sampler and pruner.
        suggest: A trial's settings; the same ones when it is called again.
        pruner: The pruner's name, for its reasons.
        retry: Repeats what the storage did not take.
        """
        self._study = study
        self._suggest = suggest
        self._pruner = pruner
        self._retry = retry
        self._ids: dict[int, int] = {}
        self._trials: dict[int, optuna.Trial] = {}

    def create_trial(self, active: Container[int]) -> int:
        """The number of a trial that is not `active` yet: one that the storage created although its
        answer was lost, or a new one."""

        def create() -> tuple[int, int]:
            for frozen in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if frozen.number not in active:
                    return frozen.number, frozen._trial_id
            trial = self._study.ask()
            return trial.number, trial._trial_id

        number, self._ids[number] = self._retry.call(create)
        return number

    def resume_trial(self, trial: optuna.trial.FrozenTrial) -> None:
        """Write a trial that another driver created."""
        self._ids[trial.number] = trial._trial_id

    def suggest(self, number: int) -> dict[str, Value]:
        """Draw the settings of a created trial, as far as it has none."""

        def draw() -> dict[str, Value]:
            # Read again, for what the storage took although its answer was lost.
            trial = self._trials[number] = optuna.Trial(self._study, self._ids[number])
            return self._suggest(trial)

        return self._retry.call(draw)

    def report(self, number: int, result: EpochResult) -> None:
        """Write a trial's value of an epoch.

        Args:
            number: The trial's.
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

    def requeue(self, number: int) -> None:
        """Write that a trial has not begun: the next driver asks for it first."""
        self._retry.call(lambda: requeue(self._study, self._ids[number]))
