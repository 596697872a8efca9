"""Figures are drawn by another process, which may be killed, and which outlives nobody."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fdan.errors import DiskFull, FdanError
from search.callbacks.trial_figures import CONFIGURATION, FigureJob, TrialFigures
from tests.disk import fill

ROOT = Path(__file__).parents[3]
EPOCHS = [(1, {"train/loss": 1.0, "value": 0.2}), (2, {"train/loss": 0.5, "value": 0.3})]
COUNTS = [[row + column for column in range(7)] for row in range(7)]
PNG = b"\x89PNG"


@pytest.fixture
def figures() -> Iterator[TrialFigures]:
    with TrialFigures() as made:
        yield made


def pid(figures: TrialFigures) -> int:
    """The process that draws; 0 while there is none."""
    return 0 if figures._process is None else figures._process.pid


def limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next answer has a second's time, so that one that never comes is given up soon; those
    after it have a minute, in which a busy machine starts another process."""
    limits = iter([1.0])
    timer = threading.Timer
    monkeypatch.setattr(threading, "Timer", lambda _, end: timer(next(limits, 60.0), end))


def drawn(by: TrialFigures, folder: Path, number: int = 0) -> list[Path]:
    job = FigureJob(folder / str(number), number, "epoch 2: value 0.300", EPOCHS, COUNTS)
    return by.submit(job, {"lr": 0.1}).result(60)


def test_a_trial_s_files(figures: TrialFigures, tmp_path: Path) -> None:
    configuration, *images = drawn(figures, tmp_path)
    assert json.loads(configuration.read_text()) == {"lr": 0.1}
    assert [file.name for file in images] == ["learning_curve.png", "confusion_matrix.png"]
    assert all(file.read_bytes().startswith(PNG) for file in images)


def test_a_trial_that_has_reported_nothing(figures: TrialFigures, tmp_path: Path) -> None:
    job = FigureJob(tmp_path / "0", 0, "out of memory", [], ())
    assert [file.name for file in figures.submit(job, {}).result(60)] == ["config.json"]


def test_a_process_that_is_killed_is_replaced(figures: TrialFigures, tmp_path: Path) -> None:
    drawn(figures, tmp_path)
    assert pid(figures)
    before = pid(figures)
    os.kill(pid(figures), signal.SIGKILL)
    assert len(drawn(figures, tmp_path, 1)) == 3
    assert pid(figures) != before


def test_an_error_does_not_wait_for_figures(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), TrialFigures() as figures:
        drawn(figures, tmp_path)
        job = FigureJob(tmp_path / "1", 1, "epoch 2: value 0.300", EPOCHS, COUNTS)
        waiting = [figures.submit(job, {"lr": 0.1}) for _ in range(20)]
        raise KeyboardInterrupt
    assert waiting[-1].cancelled()
    assert not pid(figures)


def test_a_process_that_is_stuck_is_replaced(
    figures: TrialFigures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn(figures, tmp_path)
    assert pid(figures)
    before = pid(figures)
    limited(monkeypatch)
    os.kill(before, signal.SIGSTOP)
    assert len(drawn(figures, tmp_path, 1)) == 3
    assert pid(figures) != before


def test_an_insisting_user_does_not_wait_for_one_that_is_stuck(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), TrialFigures() as figures:
        drawn(figures, tmp_path)
        assert pid(figures)
        os.kill(pid(figures), signal.SIGSTOP)
        job = FigureJob(tmp_path / "1", 1, "epoch 2: value 0.300", EPOCHS, COUNTS)
        figures.submit(job, {"lr": 0.1})
        time.sleep(0.2)
        began = time.monotonic()  # on a busy machine, the process takes long to start
        raise KeyboardInterrupt
    assert not pid(figures) and time.monotonic() - began < 20


def test_one_that_is_stuck_before_it_is_up_is_replaced_too(
    figures: TrialFigures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch)
    until = time.monotonic() + 20
    while not pid(figures):
        assert time.monotonic() < until
        time.sleep(0.001)
    os.kill(pid(figures), signal.SIGSTOP)
    assert len(drawn(figures, tmp_path)) == 3


def test_what_goes_wrong_there_is_said_here(figures: TrialFigures, tmp_path: Path) -> None:
    (tmp_path / "0" / "learning_curve.png").mkdir(parents=True)
    with pytest.raises(FdanError, match=f"{tmp_path}/0: figures cannot be written: Is a directory"):
        drawn(figures, tmp_path)
    assert len(drawn(figures, tmp_path, 1)) == 3


def test_a_full_disk_is_one_line(figures: TrialFigures, disk: Path) -> None:
    (disk / "0").mkdir()
    ballast = fill(disk)
    with ballast.open("rb+") as file:
        file.truncate(ballast.stat().st_size - 8192)  # room for the configuration
    with pytest.raises(DiskFull) as caught:
        drawn(figures, disk)
    assert f"no room left on the disk ({disk}/0)" in str(caught.value)
    assert (disk / "0" / CONFIGURATION).stat().st_size
    ballast.unlink()
    assert len(drawn(figures, disk)) == 3


DRIVER = """
import sys, time
from pathlib import Path
from search.callbacks.trial_figures import TrialFigures, FigureJob
made = TrialFigures()
made.submit(FigureJob(Path(sys.argv[1]), 0, "", [(1, {"value": 0.1})], ()), {}).result()
print(made._process.pid, flush=True)
time.sleep(300)
"""


def test_it_ends_with_its_driver(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DRIVER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as driver:
        assert driver.stdout is not None
        number = int(driver.stdout.readline())
        os.kill(number, 0)
        driver.send_signal(signal.SIGKILL)
    until = time.monotonic() + 20
    while Path(f"/proc/{number}").exists():
        state = Path(f"/proc/{number}/stat").read_text().rpartition(") ")[2][0]
        if state == "Z":  # nobody waits for it any more, in some containers
            break
        assert time.monotonic() < until, "it is still there"
        time.sleep(0.1)
