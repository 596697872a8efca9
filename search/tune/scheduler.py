"""Ray Tune's TrialScheduler: passes workers' messages to the trial controller, and stops trials
whose end is decided there."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from fdan import errors
from search.study.trial_controller import TrialController
from search.tune.grouping import Received, TuneRun
from search.tune.ray_session import check_ray_alive, owns_ray
from search.tune.resources import GPUS
from search.tune.searcher import PicklesEmpty, StopTune, stopping_tune
from search.tune.worker_errors import parse_error_file
from search.worker import messages

_Result = dict[str, Any]  # a worker's report, with keys that Ray Tune adds

_START_S = 60.0  # time in which a worker starts even on a busy node

_AWAKE_S = 5.0
"""The driver polls several times a second. Where it did not for longer than this (it was stopped,
the laptop slept, a storage was away), the trials' reports may wait unread, so it does not count."""


class OptunaScheduler(PicklesEmpty, FIFOScheduler):  # type: ignore[misc]
    """Passes messages on, and decides which trial gets a worker that is free.

    When a trainable returns, Tune repeats its last result with `done`; that repetition stops the
    trial before it reaches a scheduler, so each epoch comes here once.
    """

    def __init__(self, controller: TrialController, settings: TuneRun) -> None:
        super().__init__()
        self._controller = controller
        self._settings = settings
        self._watchdog = StallWatchdog(settings.epoch_timeout)
        self._killed: set[str] = set()
        self._added_at: dict[str, float] = {}

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        self._added_at[trial.trial_id] = time.monotonic()

    def choose_trial_to_run(self, tune_controller: TuneController) -> Trial | None:
        """The trial that gets a free worker. Tune asks several times a second: its only tick."""
        trials: list[Trial] = tune_controller.get_live_trials()
        with stopping_tune():
            check_ray_alive()
        if not self._settings.stop.due() and not owns_ray():
            self._settings.capacity.update()
        if self._settings.stop.reason:
            raise StopTune
        self._kill_stalled_workers(trials)
        pending = [trial for trial in trials if trial.status == Trial.PENDING]
        pending.sort(key=lambda trial: self._added_at[trial.trial_id])
        return self._reserve_capacity(pending) or self._choose(pending)

    def _kill_stalled_workers(self, trials: Sequence[Trial]) -> None:
        running = {trial.trial_id: trial for trial in trials if trial.status == Trial.RUNNING}
        for key in self._watchdog.stalled(running):
            self._killed.add(key)
            self._watchdog.forget(key)
            # Its end comes back as on_trial_error.
            ray.kill(running[key].temporary_state.ray_actor, no_restart=True)

    def _reserve_capacity(self, pending: Sequence[Trial]) -> Trial | None:
        """The first trial that needs a larger share of a GPU than the others. No other trial starts
        until it has its place."""
        capacity = self._settings.capacity
        share = capacity.resources.gpus
        wide = next((trial for trial in pending if trial.config[GPUS] > share), None)
        capacity.reserved = wide is not None
        return wide

    def _choose(self, pending: Sequence[Trial]) -> Trial | None:
        """Choose the newest trial, unless the oldest has waited too long.

        Tune starts a worker for each pending trial, and drops it when the trial gets another one.
        If the oldest trial always came first, no worker on a new node would be up before a short
        trial ends on another node.
        """
        if not pending:
            return None
        overdue = time.monotonic() - self._added_at[pending[0].trial_id] > _START_S
        return pending[0 if overdue else -1]

    def on_trial_result(
        self, tune_controller: TuneController, trial: Trial, result: _Result
    ) -> str:
        self._watchdog.reported(trial.trial_id)
        with stopping_tune():
            for number in _numbers(trial):
                self._controller.place(number, result.get("node_ip", ""))
            self._receive(trial, result[messages.MESSAGE])
            running = any(self._controller.is_running(number) for number in _numbers(trial))
        if not running:
            self._watchdog.forget(trial.trial_id)
        decision: str = TrialScheduler.CONTINUE if running else TrialScheduler.STOP
        return decision

    def on_trial_complete(
        self, tune_controller: TuneController, trial: Trial, result: _Result
    ) -> None:
        self._forget(trial)

    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        self._forget(trial)
        text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
        message = parse_error_file(text)
        if trial.trial_id in self._killed and isinstance(message, messages.WorkerLost):
            message = replace(message, reason=f"no epoch for {self._watchdog.timeout_s:.0f} s")
        self._killed.discard(trial.trial_id)
        with stopping_tune():
            self._receive(trial, message)

    def _receive(self, trial: Trial, received: Received) -> None:
        settings = self._settings
        for number, message in settings.grouping.route(_numbers(trial), received):
            match message:
                case messages.EpochDone(result, node):
                    settings.capacity.epoch_done(node)
                    self._controller.record(number, result)
                case messages.TrialFailed() | messages.WorkerLost() | messages.OutOfGpuMemory():
                    self._controller.interrupt(number, message)
                case messages.NodeRejected(reason):
                    settings.capacity.exclude(message)
                    self._controller.interrupt(
                        number, messages.WorkerLost(reason, blame_trial=False)
                    )
                case messages.GpuFault():  # the worker's end comes as on_trial_error
                    settings.capacity.gpu_fault(message)
                case messages.DiskFull(path):
                    raise errors.DiskFull(path)
                case messages.NoRights(reason):
                    raise errors.FdanError(f"{reason}; the same command then goes on")
                case messages.Note(text):
                    settings.notify(text)

    def _forget(self, trial: Trial) -> None:
        self._added_at.pop(trial.trial_id, None)
        self._watchdog.forget(trial.trial_id)


def _numbers(trial: Trial) -> tuple[int, ...]:
    """Numbers of the study's trials in a trial of Tune."""
    return tuple(assignment.number for assignment in trial.config[messages.ASSIGNMENTS])


class StallWatchdog:
    """Finds the trials that have reported nothing for `timeout_s` seconds."""

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.timeout_s = timeout_s
        self._clock = clock
        self._awake_s = 0.0
        self._polled_at = clock()
        self._last_report: dict[str, float] = {}

    def reported(self, trial: str) -> None:
        """The trial has reported an epoch."""
        self._last_report[trial] = self._awake_s

    def forget(self, trial: str) -> None:
        """The trial has ended, or waits for another worker."""
        self._last_report.pop(trial, None)

    def stalled(self, running: Iterable[str]) -> list[str]:
        """Stalled trials among the `running` ones. A trial's time begins when it is first
        seen running."""
        now = self._clock()
        self._awake_s += min(now - self._polled_at, _AWAKE_S)
        self._polled_at = now
        return [
            trial
            for trial in running
            if self._awake_s - self._last_report.setdefault(trial, self._awake_s) >= self.timeout_s
        ]
