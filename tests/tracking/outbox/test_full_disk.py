"""A disk that is full, for real: a small tmpfs of the test's own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.disk import fill
from tests.tracking.conftest import Tables
from tests.tracking.history import history
from tracking.outbox import sender as sender_module
from tracking.outbox.spool import SpoolFull
from tracking.tracker import Tracker

pytestmark = pytest.mark.long

Start = Callable[..., "subprocess.Popen[str]"]
NOBODY = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _no_lingering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender_module, "LINGER", 0.02)


def left(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


def record_until_full(tracker: Tracker) -> int:
    """The last epoch that was recorded."""
    epoch = 0
    try:
        while True:
            tracker.log_metrics("0", epoch + 1, {"value": epoch + 1, "x": 0.5})
            epoch += 1
    except SpoolFull as error:
        assert "\n" not in str(error)
        assert "(No space left on device): everything recorded so far is whole" in str(error)
    return epoch


def test_a_tracker_ends_clearly_sends_what_it_has_and_goes_on_once_there_is_room(
    disk: Path, database: Tables, uri: str, tmp_path: Path
) -> None:
    figure = tmp_path / "curve.png"
    figure.write_bytes(b"png" * 1000)
    spool = disk / "runs" / "demo" / "spool"
    with Tracker(spool, uri, "fdan") as tracker:
        tracker.open_study("demo", {}, {})
        tracker.open_run("0", {}, {})
        ballast = fill(disk)
        last = record_until_full(tracker)
        for call in (
            lambda: tracker.close_run("0", "COMPLETE", "done"),
            lambda: tracker.log_artifact("0", figure),
            lambda: tracker.set_tags("0", {"much": "x" * 5000}),
        ):
            with pytest.raises(SpoolFull, match="free some space and run the same command again"):
                call()
        assert left(disk) == 0
        assert tracker.drain(60), tracker.sender.reason  # a full disk does not hold up the sending
        assert tracker.sender.unavailable_since is None
        assert tracker.open_trials() == {0} and tracker.files["0"] == set()
        assert [epoch for epoch, _ in history(tracker, 0)] == list(range(1, last + 1))
        ballast.unlink()
        tracker.log_artifact("0", figure)
        tracker.log_metrics("0", last + 1, {"value": -1.0})
        tracker.close_run("0", "COMPLETE", "done")
        assert tracker.drain(60)
    assert database.runs() == {"demo": "RUNNING", "trial-0000": "FINISHED"}
    wanted = {("trial-0000", "value", epoch): [float(epoch)] for epoch in range(1, last + 1)}
    wanted |= {("trial-0000", "x", epoch): [0.5] for epoch in range(1, last + 1)}
    assert database.metrics() == wanted | {("trial-0000", "value", last + 1): [-1.0]}


def test_starting_again_on_a_full_disk_is_told_in_one_line(disk: Path, uri: str) -> None:
    spool = disk / "runs" / "demo" / "spool"
    with Tracker(spool, NOBODY, "fdan") as tracker:
        tracker.open_study("demo", {}, {})
        tracker.open_run("0", {}, {})
        fill(disk)
        last = record_until_full(tracker)
    with Tracker(spool, NOBODY, "fdan") as tracker:
        assert [epoch for epoch, _ in history(tracker, 0)] == list(range(1, last + 1))
        with pytest.raises(SpoolFull):
            tracker.open_study("demo", {}, {})
    with pytest.raises(SpoolFull, match="No space left"):  # there is no room for another target
        Tracker(spool, uri, "fdan")
    with pytest.raises(SpoolFull, match="No space left"):
        Tracker(disk / "runs" / "other" / "spool", uri, "fdan")
    assert not list(spool.glob("*.part"))


def test_flush_on_a_full_disk(
    disk: Path, database: Tables, uri: str, python: Start, tmp_path: Path
) -> None:
    figure = tmp_path / "curve.png"
    figure.write_bytes(b"png" * 10_000)
    study = disk / "runs" / "demo"
    with Tracker(study / "spool", NOBODY, "fdan") as tracker:
        tracker.open_study("demo", {}, {})
        tracker.open_run("0", {}, {})
        fill(disk)
        (disk / "ballast").write_bytes(b"")  # some room again, for some records
        last = record_until_full(tracker)
    for _ in range(2):  # nothing could be noted, so the second time does it all again
        process = python("-m", "tracking", "flush", str(study), "--tracking-uri", uri)
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out) == (
            0,
            f"{last + 3} records sent; {uri} has all {last + 3}\n",
        ), err
        assert "Traceback" not in err
    assert len(database.metrics()) == 2 * last
    assert all(len(values) == 1 for values in database.metrics().values())
    assert set(database.runs()) == {"demo", "trial-0000"}


def test_artifacts_that_are_sent_make_room(
    disk: Path, database: Tables, uri: str, python: Start, tmp_path: Path
) -> None:
    figure = tmp_path / "curve.png"
    figure.write_bytes(b"png" * 10_000)
    with Tracker(disk / "spool", NOBODY, "fdan") as tracker:
        tracker.open_study("demo", {}, {})
        kept = 0
        try:
            while True:
                tracker.log_artifact("study", figure, str(kept))
                kept += 1
        except SpoolFull:
            pass
        fill(disk)
    assert kept > 4 and left(disk) == 0
    with Tracker(disk / "spool", NOBODY, "fdan") as tracker:
        assert tracker.unsent == kept + 2
    process = python("-m", "tracking", "flush", str(disk / "spool"), "--tracking-uri", uri)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert left(disk) > 0.9 * kept * figure.stat().st_size
    sent = list(database.path.parent.rglob("mlartifacts/*/artifacts/*/curve.png"))
    assert len(sent) == kept
