"""Ray Tune's TrialScheduler: after each report, Optuna's pruner decides."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from fdan.errors import DiskFull
from search.bridge import Bridge
from search.placement import GPUS
from search.report import (
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
from search.room import Room
from search.searcher import Shell, Stopped, leaving
from search.silence import Silence

_START_S = 60.0
"""Enough for a worker to start on a busy node."""

_NODE_GONE = "its node is gone"
_UNREACHABLE = "its worker cannot be reached any more: its node is gone, or the network"


class OptunaScheduler(FIFOScheduler):  # type: ignore[misc]
    """Passes each report to the bridge and stops a trial whose verdict is set.

    When
    a trainable returns, Tune repeats its last result with `done`; that repetition stops the trial
    before it reaches a scheduler, so each epoch comes here once.
    """

    def __init__(
        self,
        bridge: Bridge,
        due: Callable[[], bool],
        silence: Silence,
        room: Room,
        say: Callable[[str], None],
    ) -> None:
        """`due()` is asked several times a second; once true, Tune's loop ends by Stopped. The
        worker of a trial that is in `silence` for too long is killed. `room` hears of nodes that
        take no part, `say` what workers want known."""
        super().__init__()
        self._bridge = bridge
        self._due = due
        self._silence = silence
        self._room = room
        self._say = say
        self._killed: dict[int, str] = {}
        self._added: dict[int, float] = {}

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._added[trial.config["number"]] = time.monotonic()

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
        wide = [one for one in pending if one.config[GPUS] > self._room.each.gpus]
        self._room.held = bool(wide)
        if wide or not pending:
            return wide[0] if wide else None
        overdue = time.monotonic() - self._since(pending[0]) > _START_S
        return pending[0 if overdue else -1]

    def _since(self, trial: Any) -> float:
        return self._added[trial.config["number"]]

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        number = trial.config["number"]
        self._silence.heard(number)
        with leaving():
            stop = self._told(number, result)
        if stop:
            self._silence.forget(number)
        decision: str = TrialScheduler.STOP if stop else TrialScheduler.CONTINUE
        return decision

    def _told(self, number: int, result: dict[str, Any]) -> bool:
        """What a worker has told. True: its trial ends here."""
        if FULL in result:
            raise DiskFull(result[FULL])
        self._bridge.at(number, result.get("node_ip", ""))
        if NOTE in result:
            self._say(result[NOTE])
        elif REPORT in result:
            report = result[REPORT]
            assert isinstance(report, Report)
            self._room.works(result.get(NODE, ""))
            return self._bridge.report(number, report)
        elif BROKEN in result:  # the worker's end comes as on_trial_error
            self._room.broke(result[NODE], result[BROKEN])
        else:
            self._gave_up(number, result)
            return True
        return False

    def _gave_up(self, number: int, result: dict[str, Any]) -> None:
        """The worker could not go on with its trial, and is fit for another one."""
        if FAILED in result:
            self._bridge.condemn(number, result[FAILED])
        elif STARVED in result:
            self._bridge.starved(number, result[STARVED])
        elif REFUSED in result:
            self._room.refuse(result[NODE], result[REFUSED])
            self._bridge.died(number, result[REFUSED], blamed=False)
        else:
            self._bridge.died(number, result[LOST])

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._gone(trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        number = self._gone(trial)
        text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
        raised, reason = crash(text)
        if raised:
            self._bridge.condemn(number, reason)
        else:
            blamed = reason not in (_NODE_GONE, _UNREACHABLE)
            self._bridge.died(number, self._killed.pop(number, reason), blamed=blamed)

    def _gone(self, trial: Any) -> int:
        number: int = trial.config["number"]
        self._added.pop(number, None)
        self._silence.forget(number)
        return number

    def _end_silent(self, tune_controller: Any) -> None:
        live = tune_controller.get_live_trials()
        running = {trial.config["number"]: trial for trial in live if trial.status == Trial.RUNNING}
        for number in self._silence.over(running):
            self._killed[number] = f"no epoch for {self._silence.limit:.0f} s"
            self._silence.forget(number)
            # Its end comes back as on_trial_error.
            ray.kill(running[number].temporary_state.ray_actor, no_restart=True)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Shell, ())


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
