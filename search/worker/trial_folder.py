"""The folder that a trial owns, as workers, the driver and the status command find it.

    trials/0007/checkpoint/     the newest checkpoint
    trials/0007/reports.jsonl   an EpochResult a line

The driver may be gone when an epoch ends, so a worker writes the epoch into the log before it
reports it. Whoever resumes the trial reads there what the epochs of its checkpoint reported, and
the figures of an ended trial can be drawn from it at any time.
"""

import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import Final

from fdan.files import JsonLines, read_json_lines
from search.worker.messages import EpochResult

TRIALS: Final = "trials"  # in the folder of a study, or of its confirming runs
CHECKPOINT: Final = "checkpoint"
EPOCH_LOG: Final = "reports.jsonl"


def trial_folder(study: Path, number: int) -> Path:
    """The folder of one trial.

    Args:
        study: Folder of the study, or of its confirming runs.
        number: Optuna's number of the trial.
    """
    return study / TRIALS / f"{number:04d}"


class EpochLog(JsonLines):
    """Appends to the log in a trial's folder. One writer at a time: the holder of its lock.

    It is synced before a checkpoint is written, which must not know of epochs that the log lacks.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / EPOCH_LOG)

    def append(self, report: EpochResult) -> None:
        super().append(asdict(report))


def read_epoch_log(folder: Path) -> dict[int, EpochResult]:
    """The newest report of each epoch in a trial's log, by epoch. Empty if there is no log."""
    reports = {}
    for entry in read_json_lines(folder / EPOCH_LOG):
        with contextlib.suppress(TypeError):  # not a report
            report = EpochResult(**entry)
            reports[report.epoch] = report
    return reports
