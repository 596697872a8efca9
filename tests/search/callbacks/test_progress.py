"""What a terminal without a live table shows while the first trials run."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from search.callbacks import progress
from search.callbacks.progress import Progress
from search.worker.messages import EpochResult


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    monkeypatch.setattr(progress, "_HEARTBEAT_S", 0.0)
    return io.StringIO()


def test_a_line_says_how_far_running_trials_are(lines: io.StringIO) -> None:
    shown = Progress(Console(file=lines, width=200), "s", trials=4, epochs=60)
    reports: list[EpochResult] = [EpochResult(12, 0.5), EpochResult(9, 0.4)]
    with shown:
        for number, report in enumerate(reports):
            shown.on_trial_start(number, {})
            shown.on_epoch(number, report)
        until = time.monotonic() + 10
        while not lines.getvalue() and time.monotonic() < until:
            time.sleep(0.05)
    first = lines.getvalue().splitlines()[0]
    assert first == "0/4 trials, 2 running, best none yet; epochs 9 to 12 of 60"
