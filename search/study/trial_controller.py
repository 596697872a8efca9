"""The trials that are under way, and the only code that writes them to Optuna's storage.

Ray Tune drives it from one thread: the searcher takes trials and lets go of them, the scheduler
reports. Everybody else (tracking, progress) listens. A trial is asked for once and closed once,
whatever happens in between, and every closing carries its reason. In between it may change hands:
a trial whose worker died waits here for the next one, a trial whose driver died is taken up again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.optimizer.pruners import decide, decision_epochs
from search.optimizer.space import Value
from search.study.events import StudyCallback, TrialOutcome
from search.study.open import REASON
from search.study.queries import running_trials
from search.study.storage_retry import StorageRetry
from search.worker.messages import Report, Turn

_PRUNED = "pruned"
"""The trial's user attribute that says why the pruner stopped it, until the trial is closed so."""

Untold = Callable[[int, Mapping[str, Value], int], Sequence[Report]]

DEATHS = 3
"""A trial that so many workers in a row die of, none of them finishing an epoch, is FAIL."""


@dataclass(frozen=True)
class Waiting:
    """A trial that waits for a worker."""

    number: int
    params: Mapping[str, Value]
    epoch: int
    """The last one that has been reported."""
    suspect: bool
    """Whether a worker died of it, perhaps, in the epoch that comes."""


@dataclass
class _Live:
    trial: optuna.Trial
    params: Mapping[str, Value]
    told: bool = False
    """Whether the listeners know of it."""
    reports: list[Report] = field(default_factory=list)
    verdict: tuple[TrialState, str] | None = None
    deaths: int = 0
    """Of workers, since the last new epoch."""
    gone: str = ""
    """Why the worker is gone that has the trial, if it is."""
    gpus: float = 0.0
    node: str = ""
    until: int = 0
    """The epoch that its turn ends with; 0 before the first one."""

    @property
    def epoch(self) -> int:
        return self.reports[-1].epoch if self.reports else 0


class Bridge:
    """Asks a study for trials and tells it how they went.

    `suggest` gives a trial its settings, the same ones when asked again; `pruner` is the pruner's
    name, for the reason; `epochs` is where a trial ends by itself; `trials` new ones are to be
    asked for; `patience` waits for a storage that is away; `gpus` is a trial's share to begin with;
    `untold(number, params, after)` are the epochs after `after` that a trial's workers have
    finished and saved.
    """

    def __init__(
        self,
        opened: optuna.Study,
        suggest: Callable[[optuna.Trial], dict[str, Value]],
        *,
        pruner: str,
        epochs: int,
        trials: int,
        patience: StorageRetry,
        callbacks: Sequence[StudyCallback] = (),
        gpus: float = 0.0,
        untold: Untold = lambda number, params, after: (),
    ) -> None:
        self.study = opened
        self._settings = suggest
        self._pruner = pruner
        self._epochs = epochs
        self._decided = decision_epochs(pruner, epochs)
        self._patience = patience
        self._callbacks = callbacks
        self._gpus = gpus
        self._untold = untold
        self._live: dict[int, _Live] = {}
        self._waiting: deque[int] = deque()
        self.left = trials
        """New trials still to be asked for."""
        self.epochs_heard = 0
        """New epochs of all trials, so far."""

    @property
    def live(self) -> tuple[int, ...]:
        """Trials that have not ended, with a worker or without."""
        return tuple(self._live)

    @property
    def waiting(self) -> int:
        """How many of them wait for a worker."""
        return len(self._waiting)

    @property
    def queue(self) -> Sequence[Waiting]:
        """Those that wait, the one that has waited longest first."""
        waiting = [self._live[number] for number in self._waiting]
        return [Waiting(o.trial.number, o.params, o.epoch, o.deaths > 0) for o in waiting]

    def ask(self) -> Turn:
        """A new trial."""
        return self._turn(self._new())

    def draw(self) -> None:
        """A new trial waits, for others to train with."""
        self._waiting.append(self._new().trial.number)

    def take_up(self, trial: FrozenTrial, reports: Mapping[int, Report]) -> None:
        """Go on with a trial that is RUNNING although no driver is. reports: what its worker wrote
        down; Optuna has the epochs that count."""
        number = trial.number
        trial_again = optuna.Trial(self.study, trial._trial_id)
        live = self._live[number] = _Live(trial_again, {}, gpus=self._gpus)
        for epoch, value in sorted(trial.intermediate_values.items()):
            live.reports.append(reports.get(epoch) or Report(epoch, value))
        self._draw(live)
        if live.reports:
            self._announce(live)
        for report in live.reports:
            for callback in self._callbacks:
                callback.on_epoch(number, report)
        if live.epoch < self._epochs and not self._pruned(live):
            self._catch_up(live)
        if live.epoch < self._epochs and live.verdict is None:
            self._waiting.append(number)
        else:
            self.close(number)

    def again(self, number: int | None = None, until: int | None = None) -> Turn:
        """A trial that waits; None: the one that has waited longest. until: the epoch after which
        it waits for another turn if nothing has ended it."""
        live = self._live[self._waiting[0] if number is None else number]
        self._waiting.remove(live.trial.number)
        return self._turn(live, until)

    def at(self, number: int, node: str) -> None:
        """The trial's worker is on the node of this address."""
        live = self._live[number]
        if node and live.node != node:
            live.node = node
            for callback in self._callbacks:
                callback.on_trial_placed(number, node)

    def report(self, number: int, report: Report) -> bool:
        """One epoch of a trial. True: the trial ends here, its verdict is set.

        An epoch that is known is passed over: a trial that goes on from its checkpoint comes by
        some again. So is one after the verdict: in a group, a trial hears of that only when its
        turn is over. The last epoch is not put before the pruner: the trial has done all its work,
        and its value is worth more to the sampler as a complete one.
        """
        live = self._live[number]
        if live.verdict is not None:
            return True
        if report.epoch <= live.epoch:
            return False
        if not math.isfinite(report.value):
            self.condemn(number, f"epoch {report.epoch}: value is {report.value}")
            return True
        live.reports.append(report)
        live.deaths = 0
        self.epochs_heard += 1
        for callback in self._callbacks:
            callback.on_epoch(number, report)
        self._patience.call(lambda: live.trial.report(report.value, report.epoch))
        return report.epoch < self._epochs and self._pruned(live)

    def decided(self, number: int) -> bool:
        """Whether the trial's verdict is set."""
        return self._live[number].verdict is not None

    def condemn(self, number: int, reason: str) -> None:
        """The trial will be closed as FAIL. The first verdict stays, and whoever has reported its
        last epoch is complete, whatever becomes of its worker or its group."""
        live = self._live[number]
        if live.verdict is None and live.epoch < self._epochs:
            live.verdict = (TrialState.FAIL, " ".join(reason.split()))

    def starved(self, number: int, reason: str) -> None:
        """The trial ran out of its share of a GPU's memory: it goes on with twice as much, if that
        is to be had."""
        live = self._live[number]
        if live.epoch >= self._epochs:
            return
        if not 0 < live.gpus < 1:
            self.died(number, reason)
            return
        before, live.gpus = live.gpus, min(1.0, 2 * live.gpus)
        live.gone = f"{reason} with {before:g} of a GPU: it goes on with {live.gpus:g}"

    def died(self, number: int, reason: str, blamed: bool = True) -> None:
        """The trial's worker is gone. Another one will go on, unless too many have died of it;
        blamed: whether the trial may have been the cause."""
        live = self._live[number]
        self._catch_up(live)
        if live.epoch >= self._epochs:
            return
        live.deaths += blamed
        if live.deaths < DEATHS:
            live.gone = " ".join(reason.split())
        else:
            self.condemn(number, f"{reason}: {DEATHS} times in a row in epoch {live.epoch + 1}")

    def all_lost(self, reason: str) -> None:
        """Every worker is gone, for a reason that is no trial's: all trials wait for others."""
        for number in self.live:
            if number not in self._waiting:
                self.died(number, reason, blamed=False)
                self.let_go(number)

    def let_go(self, number: int) -> None:
        """The worker has let go of the trial: it waits for another one, or has ended."""
        live = self._live.get(number)
        if live is None:
            return
        if live.gone and live.verdict is None:
            reason, live.gone = live.gone, ""
            self._waiting.append(number)
            for callback in self._callbacks:
                callback.on_worker_lost(number, reason)
        elif live.verdict is None and live.until <= live.epoch < self._epochs:
            # Beyond its turn is one whose checkpoint was: a driver died before it heard of that.
            self._waiting.append(number)
        else:
            self.close(number)

    def close(self, number: int) -> None:
        """The trial has ended: as its verdict says, or complete. Closing twice does nothing."""
        live = self._live.get(number)
        if live is None:
            return
        if live.verdict is not None:
            state, reason = live.verdict
        elif live.reports:
            last = live.reports[-1]
            state, reason = TrialState.COMPLETE, f"epoch {last.epoch}: value {last.value:.3f}"
        else:
            state, reason = TrialState.FAIL, "ended without a report"
        value = live.reports[-1].value if state is TrialState.COMPLETE else None
        self._patience.call(lambda: self._tell(live, value, state, reason))
        # Only now: while telling fails, the trial is still ours to close.
        del self._live[number]
        closed = TrialOutcome(number, state, reason, tuple(live.reports))
        for callback in self._callbacks:
            callback.on_trial_end(closed)

    def pause_all(self, reason: str) -> None:
        """Leave what still runs to the next driver. Optuna's storage need not hear of it."""
        for number in self.live:
            live = self._live.pop(number)
            for callback in self._callbacks if live.told else ():
                callback.on_trial_pause(number, reason)
        self._waiting.clear()

    def stop_all(self, reason: str) -> None:
        """End what still runs, for good: PRUNED with its values, FAIL where there are none. A trial
        that was drawn and not begun goes back: if the study is extended, it is asked for first."""
        for number in self.live:
            live = self._live[number]
            if not live.told:
                self._give_back(live)
                continue
            if live.reports and live.verdict is None and live.epoch < self._epochs:
                live.verdict = (TrialState.PRUNED, f"epoch {live.epoch}: {reason}")
            self.condemn(number, reason)
            self.close(number)
        self._waiting.clear()

    def _new(self) -> _Live:
        trial = self._patience.call(self._fresh)
        self.left -= 1
        # In the bridge before its settings are drawn: a sampler that raises loses no trial.
        live = self._live[trial.number] = _Live(trial, {}, gpus=self._gpus)
        self._draw(live)
        return live

    def _turn(self, live: _Live, until: int | None = None) -> Turn:
        self._announce(live)
        live.until = until or self._epochs
        return Turn(
            live.trial.number, live.params, live.epoch, live.until, live.gpus, self._decided
        )

    def _draw(self, live: _Live) -> None:
        live.params = self._patience.call(lambda: self._suggest(live))

    def _announce(self, live: _Live) -> None:
        if live.told:
            return
        live.told = True
        for callback in self._callbacks:
            callback.on_trial_start(live.trial.number, live.params)

    def _suggest(self, live: _Live) -> dict[str, Value]:
        # Read again, for what the storage took although its answer was lost.
        live.trial = optuna.Trial(self.study, live.trial._trial_id)
        return self._settings(live.trial)

    def _fresh(self) -> optuna.Trial:
        """A trial that is not in the bridge yet: one that the storage made although its answer was
        lost, or a new one."""
        for frozen in running_trials(self.study):
            if frozen.number not in self._live:
                return optuna.Trial(self.study, frozen._trial_id)
        return self.study.ask()

    def _catch_up(self, live: _Live) -> None:
        """Hear of what a worker has finished and died, or its driver, before it was told."""
        for report in self._untold(live.trial.number, live.params, live.epoch):
            self._announce(live)
            if self.report(live.trial.number, report):
                return

    def _pruned(self, live: _Live) -> bool:
        """The pruner's decision. It is written down, for Optuna's pruners decide about an epoch
        once: asked again, after the driver's death say, they let the trial go on."""
        why = live.trial.user_attrs.get(_PRUNED, "")
        if not why:
            decision = decide(self._pruner, live.trial, self._patience.call)
            if not decision.prune:
                return False
            why = decision.reason
            self._patience.call(lambda: live.trial.set_user_attr(_PRUNED, why))
        live.verdict = (TrialState.PRUNED, why)
        return True

    def _give_back(self, live: _Live) -> None:
        trial = live.trial

        def give() -> None:
            if trial.storage.get_trial(trial._trial_id).state is TrialState.RUNNING:
                trial.storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)

        self._patience.call(give)
        del self._live[trial.number]

    def _tell(self, live: _Live, value: float | None, state: TrialState, reason: str) -> None:
        trial = live.trial
        if trial.storage.get_trial(trial._trial_id).state is TrialState.RUNNING:
            trial.set_user_attr(REASON, reason)
            self.study.tell(trial, value, state)
