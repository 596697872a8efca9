"""Ray Tune's TrialScheduler: after each report, Optuna's pruner decides.

What Tune takes for a trial is one, or several that train together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from fdan.errors import DiskFull
from search.study.trial_controller import Bridge
from search.tune.capacity import Capacity
from search.tune.grouping import Groups
from search.tune.resources import GPUS, TURNS
from search.tune.searcher import Shell, Stopped, leaving
from search.tune.stall_watchdog import StallWatchdog
from search.worker.messages import (
    BROKEN,
    FAILED,
    FULL,
    LOST,
    NODE,
    NOTE,
    REFUSED,
    REPORT,
    STARVED,
    Report,
)

_START_S = 60.0
"""Enough for a worker to start on a busy node."""

_NODE_GONE = "its node is gone"
_UNREACHABLE = "its worker cannot be reached any more: its node is gone, or the network"


class OptunaScheduler(FIFOScheduler):  # type: ignore[misc]
    """Passes each report to the bridge and stops a trial whose verdict is set, a group when that of
    each of its trials is.

    When a trainable returns, Tune repeats its last result with `done`; that repetition stops the
    trial before it reaches a scheduler, so each epoch comes here once.
    """

    def __init__(
        self,
        bridge: Bridge,
        due: Callable[[], bool],
        watchdog: StallWatchdog,
        capacity: Capacity,
        groups: Groups,
        say: Callable[[str], None],
    ) -> None:
        """`due()` is asked several times a second; once true, Tune's loop ends by Stopped. The
        worker of a trial that `watchdog` finds stalled is killed. `capacity` hears of nodes that
        are excluded, `groups` of those that were too large, `say` what workers want known."""
        super().__init__()
        self._bridge = bridge
        self._due = due
        self._watchdog = watchdog
        self._capacity = capacity
        self._groups = groups
        self._say = say
        self._killed: dict[int, str] = {}
        self._added: dict[int, float] = {}

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._added[_first(trial)] = time.monotonic()

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Who gets a worker that is free.

        For each trial that waits, Tune has a worker started, and gives that up when the trial gets
        another one. Were it always the first one's turn, no worker on a new node would ever be up
        before a short trial has ended elsewhere: so the newest one goes first, but none has to wait
        for long. One that needs more of a GPU than the others needs room, not a worker: they let it
        go before them.
        """
        if self._due():
            raise Stopped
        self._end_silent(tune_controller)
        pending = [one for one in tune_controller.get_live_trials() if one.status == Trial.PENDING]
        pending.sort(key=self._since)
        wide = [one for one in pending if one.config[GPUS] > self._capacity.resources.gpus]
        self._capacity.reserved = bool(wide)
        if wide or not pending:
            return wide[0] if wide else None
        overdue = time.monotonic() - self._since(pending[0]) > _START_S
        return pending[0 if overdue else -1]

    def _since(self, trial: Any) -> float:
        return self._added[_first(trial)]

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        self._watchdog.reported(_first(trial))
        with leaving():
            stop = self._told(_numbers(trial), result)
        if stop:
            self._watchdog.forget(_first(trial))
        decision: str = TrialScheduler.STOP if stop else TrialScheduler.CONTINUE
        return decision

    def _told(self, numbers: Sequence[int], result: dict[str, Any]) -> bool:
        """What the worker of these trials has told. True: they end here."""
        if FULL in result:
            raise DiskFull(result[FULL])
        for number in numbers:
            self._bridge.at(number, result.get("node_ip", ""))
        if NOTE in result:
            self._say(result[NOTE])
        elif BROKEN in result:  # the worker's end comes as on_trial_error
            self._capacity.gpu_fault(result[NODE], result[BROKEN])
        elif REPORT in result or FAILED in result:
            return self._heard(numbers, result)
        else:
            self._gave_up(numbers, result)
            return True
        return False

    def _heard(self, numbers: Sequence[int], result: dict[str, Any]) -> bool:
        reports: Sequence[tuple[int, Report]] = result.get(REPORT, ())
        if reports:
            self._capacity.epoch_done(result.get(NODE, ""))
        for number, report in reports:
            self._bridge.report(number, report)
        for number, reason in result.get(FAILED, ()):
            self._bridge.condemn(number, reason)
        return all(self._bridge.decided(number) for number in numbers)

    def _gave_up(self, numbers: Sequence[int], result: dict[str, Any]) -> None:
        """The worker could not go on with its trials, and is fit for others."""
        if STARVED in result and len(numbers) > 1:
            self._groups.smaller(len(numbers))
            self._say(
                f"{result[STARVED]} with {len(numbers)} trials at a time: groups of"
                f" {self._groups.most} at most from here on"
            )
        if REFUSED in result:
            self._capacity.exclude(result[NODE], result[REFUSED])
        for number in numbers:
            if REFUSED in result:
                self._bridge.died(number, result[REFUSED], blamed=False)
            elif LOST in result:
                self._bridge.died(number, result[LOST])
            elif len(numbers) > 1:
                self._bridge.died(number, result[STARVED], blamed=False)
            else:
                self._bridge.starved(number, result[STARVED])

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._gone(trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self._gone(trial)
        text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
        raised, reason = crash(text)
        numbers = _numbers(trial)
        if raised and len(numbers) == 1:
            self._bridge.condemn(numbers[0], reason)
            return
        # Of several, nobody knows whose fault it was: each goes on alone.
        blamed = reason not in (_NODE_GONE, _UNREACHABLE)
        reason = self._killed.pop(_first(trial), reason)
        with leaving():
            for number in numbers:
                self._bridge.died(number, reason, blamed=blamed)

    def _gone(self, trial: Any) -> None:
        self._added.pop(_first(trial), None)
        self._watchdog.forget(_first(trial))

    def _end_silent(self, tune_controller: Any) -> None:
        live = tune_controller.get_live_trials()
        running = {_first(trial): trial for trial in live if trial.status == Trial.RUNNING}
        for first in self._watchdog.stalled(running):
            self._killed[first] = f"no epoch for {self._watchdog.timeout_s:.0f} s"
            self._watchdog.forget(first)
            # Its end comes back as on_trial_error.
            ray.kill(running[first].temporary_state.ray_actor, no_restart=True)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Shell, ())


def _numbers(trial: Any) -> tuple[int, ...]:
    """Of the trials that train as this one of Tune's."""
    return tuple(turn.number for turn in trial.config[TURNS])


def _first(trial: Any) -> int:
    return _numbers(trial)[0]


def crash(text: str) -> tuple[bool, str]:
    """What the error file that Tune writes says, in one line: (True, the exception that the trial
    raised), or (False, how its worker died)."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Failure #")]
    if not lines:
        return False, "the worker died"
    if any(line.startswith("Traceback ") or "ray::" in line for line in lines[:2]):
        _, broken, why = lines[-1].rpartition("Broken: ")
        if broken:
            return False, why
        return True, lines[-1].rpartition("Crashed: ")[2][:300]
    if "low on memory" in text:
        return False, "the machine ran out of memory and Ray ended the worker"
    if "is unavailable" in lines[0]:
        return False, _UNREACHABLE
    if "node has died" in text or "node was terminated" in text:
        return False, _NODE_GONE
    if lines[0].startswith("The actor died unexpectedly"):
        return False, "the worker's process ended unexpectedly"
    return False, f"the worker died: {lines[0]}"[:300]
