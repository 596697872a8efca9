"""Ray Tune's TrialScheduler: after each report, Optuna's pruner decides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from search.bridge import Bridge
from search.report import FAILED, REPORT, Report
from search.searcher import Shell, Stopped, leaving


class OptunaScheduler(FIFOScheduler):  # type: ignore[misc]
    """Passes each report to the bridge and stops a trial whose verdict is set.

    Trials start in the order in which the study was asked for them, as FIFOScheduler has it. When
    a trainable returns, Tune repeats its last result with `done`; that repetition stops the trial
    before it reaches a scheduler, so each epoch comes here once.
    """

    def __init__(self, bridge: Bridge, due: Callable[[], bool]) -> None:
        """`due()` is asked several times a second; once true, Tune's loop ends by Stopped."""
        super().__init__()
        self._bridge = bridge
        self._due = due

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        if self._due():
            raise Stopped
        return super().choose_trial_to_run(tune_controller)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        number = trial.config["number"]
        if FAILED in result:
            self._bridge.condemn(number, result[FAILED])
            stop = True
        else:
            report = result.get(REPORT)
            assert isinstance(report, Report), f"trial {number} reported {sorted(result)}"
            with leaving():
                stop = self._bridge.report(number, report)
        decision: str = TrialScheduler.STOP if stop else TrialScheduler.CONTINUE
        return decision

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
        self._bridge.condemn(trial.config["number"], crash(text))

    def __reduce__(self) -> tuple[Any, ...]:
        return (Shell, ())


def crash(text: str) -> str:
    """One line out of the error file that Tune writes: the trial's exception, else the last line
    of a traceback, else how the worker died."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Failure #")]
    if not lines:
        return "the worker failed"
    if any(line.startswith("Traceback ") or "ray::" in line for line in lines[:2]):
        return lines[-1].rpartition("Crashed: ")[2][:300]
    return f"the worker died: {lines[0]}"[:300]
