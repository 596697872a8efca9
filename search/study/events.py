"""What a study's callbacks are told about each trial."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from optuna.trial import FrozenTrial, TrialState

from search.optimizer.space import Value
from search.worker.messages import EpochResult
from search.worker.trial_folder import read_epoch_log, trial_folder

REASON: Final = "reason"  # user attribute of a trial in Optuna's storage: its outcome's reason


@dataclass(frozen=True)
class TrialOutcome:
    """How a trial ended."""

    number: int
    state: TrialState
    reason: str
    reports: tuple[EpochResult, ...]

    @property
    def value(self) -> float | None:
        """The last reported value; None where nothing finite was reported."""
        return self.reports[-1].value if self.reports else None


def recorded_outcome(trial: FrozenTrial, folder: Path) -> TrialOutcome:
    """What the callbacks were told, or should have been, when a trial ended.

    Args:
        trial: The ended trial as Optuna's storage has it.
        folder: Folder of the study, or of its confirming runs, with the trials' epoch logs.
    """
    logged = read_epoch_log(trial_folder(folder, trial.number))
    reports = [
        logged.get(epoch) or EpochResult(epoch, value)
        for epoch, value in sorted(trial.intermediate_values.items())
    ]
    reason = trial.user_attrs.get(REASON, "")
    return TrialOutcome(trial.number, trial.state, reason, tuple(reports))


class StudyCallback:
    """Base class of everything that follows a study; its methods do nothing.

    All methods run on the driver's thread, between two reports of workers, so each one returns at
    once. An epoch is announced before Optuna's storage has it, and a second time where the driver
    dies in between; the end of a trial is announced after the storage has it.
    """

    def on_trial_start(self, number: int, params: Mapping[str, Value]) -> None:
        """A trial starts, or this driver resumes it.

        Args:
            number: Number of the trial.
            params: Searched settings of the trial.
        """

    def on_epoch(self, number: int, report: EpochResult) -> None:
        """A trial has finished an epoch.

        Args:
            number: Number of the trial.
            report: Epoch with all metrics, unless only Optuna's storage has it.
        """

    def on_worker_lost(self, number: int, reason: str) -> None:
        """A trial has lost its worker and waits for another one.

        Args:
            number: Number of the trial.
            reason: Reason in words.
        """

    def on_trial_placed(self, number: int, node: str) -> None:
        """A trial trains on a node, and did not before.

        Args:
            number: Number of the trial.
            node: Address of the node.
        """

    def on_trial_pause(self, number: int, reason: str) -> None:
        """This driver leaves an unfinished trial to the next one.

        Args:
            number: Number of the trial.
            reason: Why the study ends for now, in words.
        """

    def on_trial_end(self, outcome: TrialOutcome) -> None:
        """A trial has ended."""
