"""The only code that writes Optuna's storage, and that asks its pruner.

Each call is repeated until the storage takes it. The storage may take a call although its answer is
lost, so each call can be repeated. What a driver writes while trials run goes through a
StudyWriter; the functions serve whoever opens a study or adds to it between its rounds.
"""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from search.optimizer.pruners import explain
from search.optimizer.space import Value
from search.study.active_trials import ActiveTrial
from search.study.events import REASON, TrialOutcome
from search.study.storage_retry import retry_call

DIRECTION: Final = "maximize"

_Result = TypeVar("_Result")

_PRUNED: Final = "pruned"  # user attribute of a trial: why it is pruned, until it ends with that


def create_study(storage: BaseStorage, **options: Any) -> optuna.Study:
    """A study that maximises its value.

    Args:
        storage: Storage of the study.
        options: The other arguments of optuna.create_study.
    """
    create = partial(optuna.create_study, storage=storage, direction=DIRECTION, **options)
    return retry_call(storage, create)


def set_attributes(target: optuna.Study | optuna.Trial, attributes: Mapping[str, object]) -> None:
    """Keep facts with a study or a running trial, one after the other in their order.

    Args:
        target: Study or trial that gets the user attributes.
        attributes: JSON values by name.
    """
    storage = target._storage if isinstance(target, optuna.Study) else target.storage
    for name, value in attributes.items():
        retry_call(storage, partial(target.set_user_attr, name, value))


def enqueue(study: optuna.Study, params: Mapping[str, Value]) -> None:
    """Have settings tried before the sampler proposes any; nothing where they are enqueued already.

    Args:
        study: Optuna's study.
        params: Values of searched settings; the sampler adds the others.
    """
    attributes = {"origin": "enqueued"}
    add = partial(study.enqueue_trial, dict(params), attributes, skip_if_exists=True)
    retry_call(study._storage, add)


def requeue(study: optuna.Study, number: int) -> None:
    """A running trial goes back: it is the next one that a driver asks for.

    Args:
        study: Optuna's study.
        number: Number of the trial.
    """
    storage = study._storage

    def give_back() -> None:
        trial = study.get_trials(deepcopy=False)[number]
        if trial.state is TrialState.RUNNING:
            storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)

    retry_call(storage, give_back)


@dataclass
class StudyWriter:
    """Writes the trials of one study."""

    study: optuna.Study  # with its sampler and pruner
    suggest: Callable[[optuna.Trial], dict[str, Value]]  # the same settings if called again
    pruner: str  # its name, for its reasons
    _trials: dict[int, optuna.Trial] = field(default_factory=dict, init=False)

    def create_trial(self, active: Container[int]) -> int:
        """The number of a trial that is not `active` yet: one that the storage created although its
        answer was lost, or a new one."""

        def create() -> int:
            for frozen in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if frozen.number not in active:
                    return frozen.number
            return self.study.ask().number

        return self._retry(create)

    def draw(self, number: int) -> dict[str, Value]:
        """Draw the settings of a running trial, as far as it has none."""

        def draw() -> dict[str, Value]:
            # Read again, for what the storage took although its answer was lost.
            frozen = self.study.get_trials(deepcopy=False)[number]
            self._trials[number] = optuna.Trial(self.study, frozen._trial_id)
            return self.suggest(self._trials[number])

        return self._retry(draw)

    def report(self, trial: ActiveTrial) -> None:
        """Write the value of a trial's last epoch, which Optuna does not have yet."""
        last = trial.results[-1]
        self._retry(lambda: self._trials[trial.number].report(last.value, last.epoch))

    def pruned(self, number: int) -> str:
        """Why the pruner ends a trial after its last epoch; empty where the trial goes on. The
        decision is written down, for Optuna's pruners decide about an epoch once: called again,
        after the driver's death say, they let the trial go on."""
        trial = self._trials[number]
        reason: str = trial.user_attrs.get(_PRUNED, "")
        if not reason and self._retry(trial.should_prune):
            trials = self._retry(lambda: self.study.get_trials(deepcopy=False))
            reason = explain(self.pruner, trials[number], trials)
            self._retry(lambda: trial.set_user_attr(_PRUNED, reason))
        return reason

    def finish(self, outcome: TrialOutcome) -> None:
        """Write how a trial ended."""
        trial = self._trials[outcome.number]
        value = outcome.value if outcome.state is TrialState.COMPLETE else None

        def tell() -> None:
            if self.study._storage.get_trial(trial._trial_id).state is TrialState.RUNNING:
                trial.set_user_attr(REASON, outcome.reason)
                self.study.tell(trial, value, outcome.state)

        self._retry(tell)
        del self._trials[outcome.number]

    def _retry(self, action: Callable[[], _Result]) -> _Result:
        return retry_call(self.study._storage, action)
