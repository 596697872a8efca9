"""What a worker writes down is there for whoever comes after it, and a torn line never counted."""

from __future__ import annotations

import contextlib
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from search.worker.messages import EpochResult
from search.worker.trial_folder import EPOCH_LOG, EpochLog, read_epoch_log

ROOT = Path(__file__).parents[3]


def of(epoch: int, value: float = 0.5) -> EpochResult:
    return EpochResult(
        epoch, value, {"validation/uar": value, "train/loss": 1.0 / epoch}, [[epoch, 0]]
    )


def write(folder: Path, *reports: EpochResult) -> None:
    with contextlib.closing(EpochLog(folder)) as log:
        for report in reports:
            log.append(report)
        log.sync()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read_epoch_log(tmp_path) == {}
    write(tmp_path, of(1), of(2, 1 / 3))
    write(tmp_path, of(3))
    assert read_epoch_log(tmp_path) == {1: of(1), 2: of(2, 1 / 3), 3: of(3)}


def test_the_newest_account_of_an_epoch_counts(tmp_path: Path) -> None:
    """A trial that began anew trains its epochs again."""
    write(tmp_path, of(1, 0.1), of(2, 0.2))
    write(tmp_path, of(1, 0.7))
    assert read_epoch_log(tmp_path) == {1: of(1, 0.7), 2: of(2, 0.2)}


@pytest.mark.parametrize(
    "lost", [1, 20, None], ids=["the newline", "half a line", "all but a byte"]
)
def test_a_torn_line_never_counted(lost: int | None, tmp_path: Path) -> None:
    write(tmp_path, of(1), of(2))
    log = tmp_path / EPOCH_LOG
    first, second = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(first + (second[:-lost] if lost else second[:1]))
    torn = log.read_bytes()
    if lost != 1:  # whole but for its newline, it may be read
        assert read_epoch_log(tmp_path) == {1: of(1)}
    assert log.read_bytes() == torn, "whoever only reads touches nothing"
    write(tmp_path, of(2, 0.7), of(3))
    assert read_epoch_log(tmp_path) == {1: of(1), 2: of(2, 0.7), 3: of(3)}
    assert log.read_bytes().startswith(first)
    assert log.read_bytes().count(b"\n") == 3


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    write(tmp_path, of(1))
    before = (tmp_path / EPOCH_LOG).read_bytes()
    log = EpochLog(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            log.append(of(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / EPOCH_LOG).read_bytes() == before
    log.append(of(2))
    log.close()
    assert read_epoch_log(tmp_path) == {1: of(1), 2: of(2)}


WRITER = """
import sys
from pathlib import Path
from search.worker.trial_folder import EpochLog
from search.worker.messages import EpochResult
log = EpochLog(Path(sys.argv[1]))
for epoch in range(1, 1_000_000):
    log.append(EpochResult(epoch, epoch / 7, {"padding": 0.1}, [[epoch] * 7] * 7))
    if epoch == 50:
        print("writing", flush=True)
"""


def test_a_writer_that_is_killed_leaves_every_epoch_before(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        writer.send_signal(signal.SIGKILL)
    found = read_epoch_log(tmp_path)
    assert len(found) >= 50
    assert list(found) == list(range(1, len(found) + 1))
    assert all(report.value == epoch / 7 for epoch, report in found.items())
    write(tmp_path, of(len(found) + 1))
    assert list(read_epoch_log(tmp_path)) == list(range(1, len(found) + 2))
