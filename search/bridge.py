"""The trials that are under way, and the only code that writes them to Optuna's storage.

Ray Tune drives it from one thread: the searcher asks and closes, the scheduler reports. Everybody
else (tracking, progress) listens. A trial is asked for once and closed once, whatever happens
in between, and every closing carries its reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import optuna
from optuna.trial import TrialState

from search import pruners
from search.report import Report
from search.space import Space, Value
from search.study import REASON


@dataclass(frozen=True)
class Closed:
    """How a trial ended."""

    number: int
    state: TrialState
    reason: str
    reports: tuple[Report, ...]

    @property
    def value(self) -> float | None:
        """The last reported value; None where nothing finite was reported."""
        return self.reports[-1].value if self.reports else None


class Listener(Protocol):
    """Whoever wants to know. Called on the driver's thread, so each call returns at once."""

    def asked(self, number: int, params: Mapping[str, Value]) -> None: ...

    def reported(self, number: int, report: Report) -> None: ...

    def closed(self, trial: Closed) -> None: ...


@dataclass
class _Live:
    trial: optuna.Trial
    params: Mapping[str, Value]
    reports: list[Report] = field(default_factory=list)
    verdict: tuple[TrialState, str] | None = None


class Bridge:
    """Asks a study for trials and tells it how they went.

    `pruner` is the pruner's name, for the reason; `epochs` is where a trial ends by itself.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        *,
        pruner: str,
        epochs: int,
        listeners: Sequence[Listener] = (),
    ) -> None:
        self.study = study
        self._space = space
        self._pruner = pruner
        self._epochs = epochs
        self._listeners = listeners
        self._live: dict[int, _Live] = {}

    @property
    def live(self) -> tuple[int, ...]:
        return tuple(self._live)

    def ask(self) -> tuple[int, Mapping[str, Value]]:
        """A new trial: its number and its settings."""
        trial = self.study.ask()
        # In the bridge before its settings are drawn: a sampler that raises leaves nothing RUNNING.
        live = self._live[trial.number] = _Live(trial, {})
        live.params = self._space.suggest(trial)
        for listener in self._listeners:
            listener.asked(trial.number, live.params)
        return trial.number, live.params

    def report(self, number: int, report: Report) -> bool:
        """One epoch of a trial. True: the trial ends here, its verdict is set.

        The last epoch is not put before the pruner: the trial has done all its work, and its value
        is worth more to the sampler as a complete one.
        """
        live = self._live[number]
        if not math.isfinite(report.value):
            self.condemn(number, f"epoch {report.epoch}: value is {report.value}")
            return True
        live.reports.append(report)
        live.trial.report(report.value, report.epoch)
        for listener in self._listeners:
            listener.reported(number, report)
        if report.epoch >= self._epochs or not live.trial.should_prune():
            return False
        trials = self.study.get_trials(deepcopy=False)
        why = pruners.reason(self._pruner, trials[number], trials)
        live.verdict = (TrialState.PRUNED, why)
        return True

    def condemn(self, number: int, reason: str) -> None:
        """The trial will be closed as FAIL. The first verdict stays."""
        live = self._live[number]
        if live.verdict is None:
            live.verdict = (TrialState.FAIL, " ".join(reason.split()))

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
        live.trial.set_user_attr(REASON, reason)
        self.study.tell(live.trial, value, state)
        # Only now: while telling fails, the trial is still ours to close.
        del self._live[number]
        closed = Closed(number, state, reason, tuple(live.reports))
        for listener in self._listeners:
            listener.closed(closed)

    def close_all(self, reason: str, *, keep: bool = False) -> None:
        """End what still runs: FAIL, or with `keep` PRUNED where there are values to keep."""
        trouble: Exception | None = None
        for number in self.live:
            live = self._live[number]
            if keep and live.reports and live.verdict is None:
                epoch = live.reports[-1].epoch
                live.verdict = (TrialState.PRUNED, f"epoch {epoch}: {reason}")
            self.condemn(number, reason)
            try:
                self.close(number)
            except Exception as error:  # a listener's full disk must not leave others RUNNING
                trouble = trouble or error
        if trouble is not None:
            raise trouble
