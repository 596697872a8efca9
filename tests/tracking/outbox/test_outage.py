"""A real `mlflow server` that is killed, stopped and brought back."""

from __future__ import annotations

import logging
import os
import re
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tracking.outbox import sender as sender_module
from tracking.tracker import Tracker

pytestmark = pytest.mark.long

if TYPE_CHECKING:
    from conftest import MlflowServer


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sender_module, "LINGER", 0.05)
    monkeypatch.setattr(sender_module, "LONGEST_PAUSE", 0.5)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    yield


class Driver:
    """Records epochs of four trials and takes the time that each call needs."""

    def __init__(self, tracker: Tracker, name: str) -> None:
        self.tracker = tracker
        self.costs: list[float] = []
        self.epochs = 0
        tracker.open_study(name, {}, {})
        for number in range(4):
            tracker.open_run(str(number), {"alpha": number}, {})

    def run(self, epochs: int) -> None:
        for epoch in range(self.epochs + 1, self.epochs + epochs + 1):
            for number in range(4):
                start = time.perf_counter()
                self.tracker.log_metrics(
                    str(number), epoch, {"value": epoch + number / 10, "x": -epoch}
                )
                self.costs.append(time.perf_counter() - start)
            time.sleep(0.01)
        self.epochs += epochs

    def end(self) -> None:
        for number in range(4):
            self.tracker.close_run(str(number), "COMPLETE", "done")
        self.tracker.close_run("study", "COMPLETE", "done")


def check(server: MlflowServer, epochs: int) -> None:
    """Everything is there, once."""
    wanted = {}
    for number in range(4):
        for epoch in range(1, epochs + 1):
            wanted[f"trial-{number:04d}", "value", epoch] = [epoch + number / 10]
            wanted[f"trial-{number:04d}", "x", epoch] = [float(-epoch)]
    assert server.tables.metrics() == wanted
    runs = server.tables.runs()
    assert len(runs) == 5 and set(runs.values()) == {"FINISHED"}


def empty(server: MlflowServer) -> None:
    with sqlite3.connect(server.tables.path, timeout=20) as connection:
        for table in ("metrics", "latest_metrics", "params", "tags", "runs"):
            connection.execute(f"delete from {table}")


def test_killed_and_stopped_servers_lose_nothing_and_hold_nobody_up(
    tmp_path: Path, server: MlflowServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="tracking")
    empty(server)
    figure = tmp_path / "curve.png"
    figure.write_bytes(b"png" * 1000)
    with Tracker(tmp_path / "spool", server.uri, "outage") as tracker:
        driver = Driver(tracker, "outage")
        driver.run(30)
        assert tracker.drain(60)
        tracker.log_metrics("0", 0, {"value": 1.0})  # not above the last epoch: passed over

        driver.run(20)
        server.signal(signal.SIGSTOP)  # hangs in the middle of whatever it did
        driver.run(20)
        assert not tracker.drain(1.0)
        driver.run(5)
        server.signal(signal.SIGCONT)

        driver.run(30)
        server.kill()
        driver.run(40)
        tracker.log_artifact("2", figure, "figures")
        assert not tracker.drain(1.0)
        assert tracker.sender.unavailable_since is not None and tracker.unsent > 100
        assert "refused" in tracker.sender.reason
        server.start(wait=False)
        driver.run(40)
        driver.end()
        assert tracker.drain(120), tracker.sender.reason
        assert (
            tracker.unsent,
            len(tracker.sender.state.refused),
            tracker.sender.unavailable_since,
        ) == (0, 0, None)
    check(server, 185)
    (sent,) = (server.folder / "artifacts").rglob("curve.png")
    assert sent.read_bytes() == figure.read_bytes()
    assert sent.parent.name == "figures"
    assert max(driver.costs) < 0.5, "no call waited for the server"
    # Once when it goes, once when it is back, however many tries lie between.
    away = [r.getMessage() for r in caplog.records if "away since" in r.getMessage()]
    back = [r.getMessage() for r in caplog.records if "is back after" in r.getMessage()]
    assert 1 <= len(away) <= 2 and len(back) == len(away)
    assert f"records are kept in {tmp_path / 'spool'}, nothing is lost" in away[-1]
    # A server that is killed during a call closes the connection, and only then refuses a new one.
    assert re.search(r"\((Connection (refused|reset)|Remote end closed connection)", away[-1])


def test_the_same_records_sent_again_through_a_server(tmp_path: Path, server: MlflowServer) -> None:
    empty(server)
    for time_sent in range(3):
        with Tracker(tmp_path / "spool", server.uri, "again") as tracker:
            if time_sent == 0:
                driver = Driver(tracker, "again")
                driver.run(25)
                driver.end()
            assert tracker.drain(60)
        check(server, 25)
        (tmp_path / "spool" / "sent.json").unlink()
        (tmp_path / "spool" / "runs.json").unlink()


def test_no_server_at_all(tmp_path: Path) -> None:
    start = time.monotonic()
    with Tracker(tmp_path / "spool", "http://127.0.0.1:9", "none") as tracker:
        tracker.open_study("s", {}, {})
        assert time.monotonic() - start < 2
        assert not tracker.drain(0.3)
        assert tracker.unsent >= 1
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "3", "a user's own setting stands"
