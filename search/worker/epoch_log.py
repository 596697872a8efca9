"""Every epoch of a trial, written down by its worker before anybody else hears of it.

    trials/0007/reports.jsonl   a report a line

The driver may be gone when an epoch ends. Whoever takes the trial up again reads here what the
checkpoint's epochs reported, and a closed trial's figures can be drawn from it at any time.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from search.worker.messages import Report

NAME = "reports.jsonl"


class EpochLog:
    """Appends to the log in a trial's folder. One writer at a time: the holder of its lock."""

    def __init__(self, folder: Path) -> None:
        path = folder / NAME
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        # A line that a dying worker or a full disk tore: it never counted.
        whole = path.read_bytes()
        os.ftruncate(self._handle, whole.rfind(b"\n") + 1)

    def append(self, report: Report) -> None:
        line = json.dumps(asdict(report)).encode() + b"\n"
        end = os.fstat(self._handle).st_size
        try:
            done = os.write(self._handle, line)
            while done < len(line):
                done += os.write(self._handle, line[done:])
        except OSError:
            os.ftruncate(self._handle, end)
            raise

    def sync(self) -> None:
        """On the disk for certain: a checkpoint must not know of epochs that this does not."""
        os.fsync(self._handle)

    def close(self) -> None:
        os.close(self._handle)


def read(folder: Path) -> dict[int, Report]:
    """Epoch -> its report, of the log in a trial's folder; the newest account of each epoch. Empty
    where there is no log."""
    try:
        lines = (folder / NAME).read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return {}
    found = {}
    for line in lines:
        try:
            report = Report(**json.loads(line))
        except (ValueError, TypeError):  # torn
            continue
        found[report.epoch] = report
    return found
