"""The log of a trial's epochs, which its worker writes before it reports them to the driver.

    trials/0007/reports.jsonl   a EpochResult a line

The driver may be gone when an epoch ends. Whoever resumes the trial reads here what the epochs of
its checkpoint reported, and the figures of an ended trial can be drawn from it at any time.
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from pathlib import Path

from fdan.files import JsonLines, read_json_lines
from search.worker.messages import EpochResult

EPOCH_LOG = "reports.jsonl"
"""In a trial's folder."""


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
