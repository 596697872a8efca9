"""MLflow on PostgreSQL, which crashes in the middle: straight to it, and through a server."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.postgres import Postgres, postgres
from tests.tracking.conftest import MlflowServer, Tables
from tracking.outbox import sender as sender_module
from tracking.tracker import Tracker
from tracking.uri import with_driver

pytestmark = pytest.mark.long

TEMPLATE = "mlflow_template"


class PostgresTables(Tables):
    """The same tables on a PostgreSQL."""

    def __init__(self, url: str) -> None:
        super().__init__(Path())
        self.url = url

    @property
    def uri(self) -> str:
        return with_driver(self.url)

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        import psycopg2

        with contextlib.closing(psycopg2.connect(self.url)) as connection:
            cursor = connection.cursor()
            cursor.execute(query.replace("?", "%s"), values)
            return list(cursor.fetchall())


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender_module, "LINGER", 0.05)
    monkeypatch.setattr(sender_module, "LONGEST_PAUSE", 0.5)


@pytest.fixture(scope="module")
def database_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine

    with postgres(tmp_path_factory.mktemp("postgres")) as server:
        engine = create_sqlalchemy_engine(with_driver(server.database(TEMPLATE)))
        _initialize_tables(engine)
        engine.dispose()
        yield server


def record(tracker: Tracker, epochs: range) -> None:
    for epoch in epochs:
        for number in range(3):
            tracker.log_metrics(str(number), epoch, {"value": epoch + number / 10, "x": -epoch})
        time.sleep(0.01)


def through_crashes(tracker: Tracker, server: Postgres, figure: Path) -> None:
    """A study of three trials and 300 epochs, during which the database crashes twice and is away
    once for a while."""
    tracker.open_study("demo", {"trials": 3}, {})
    for number in range(3):
        tracker.open_run(str(number), {"alpha": number}, {})
    record(tracker, range(1, 11))
    assert tracker.drain(60), tracker.sender.reason
    record(tracker, range(11, 61))
    server.restart("immediate")
    record(tracker, range(61, 161))
    server.restart("immediate")  # without waiting for what the first crash has left to be sent
    record(tracker, range(161, 201))
    server.stop("fast")
    record(tracker, range(201, 301))
    tracker.log_artifact("1", figure)
    for number in range(3):
        tracker.close_run(str(number), "COMPLETE", "done")
    assert not tracker.drain(1.5) and tracker.sender.unavailable_since is not None
    server.start()
    tracker.close_run("study", "COMPLETE", "done")
    assert tracker.drain(120), tracker.sender.reason
    assert not tracker.sender.state.refused


def check(tables: Tables) -> None:
    assert tables.metrics() == {
        (f"trial-{number:04d}", key, epoch): [value]
        for number in range(3)
        for epoch in range(1, 301)
        for key, value in (("value", epoch + number / 10), ("x", float(-epoch)))
    }
    assert tables.runs() == {
        "demo": "FINISHED",
        **{f"trial-{number:04d}": "FINISHED" for number in range(3)},
    }
    assert tables.params("trial-0002") == {"alpha": "2"}


def test_straight_to_a_database_that_crashes(
    tmp_path: Path, database_server: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    figure = tmp_path / "curve.png"
    figure.write_bytes(b"png")
    url = database_server.database("straight", TEMPLATE)
    with Tracker(tmp_path / "runs" / "demo" / "spool", url, "fdan") as tracker:
        through_crashes(tracker, database_server, figure)
    check(PostgresTables(url))
    (sent,) = (tmp_path / "runs" / "mlartifacts").rglob("curve.png")
    assert sent.read_bytes() == b"png"
    # The user hears of it from the sender, and no tracebacks of others.
    loud = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert {record.name for record in loud} == {"tracking.outbox.sender"}
    assert not any("Traceback" in record.getMessage() for record in loud)


def test_through_a_server_whose_database_crashes(tmp_path: Path, database_server: Postgres) -> None:
    figure = tmp_path / "curve.png"
    figure.write_bytes(b"png")
    tables = PostgresTables(database_server.database("served", TEMPLATE))
    server = MlflowServer(tmp_path, tables)
    try:
        server.start()
        with Tracker(tmp_path / "runs" / "demo" / "spool", server.uri, "fdan") as tracker:
            through_crashes(tracker, database_server, figure)
        check(tables)
        (sent,) = (tmp_path / "artifacts").rglob("curve.png")
        assert sent.read_bytes() == b"png"
    finally:
        server.kill()


def test_a_database_that_is_away_at_the_start_is_found_when_it_comes(
    tmp_path: Path, database_server: Postgres
) -> None:
    """MLflow itself would wait longer and longer, and hear nothing of a search that ends."""
    url = database_server.database("late", TEMPLATE)
    database_server.stop()
    with Tracker(tmp_path / "runs" / "demo" / "spool", url, "fdan") as tracker:
        tracker.open_study("demo", {}, {})
        for _ in range(600):
            if tracker.sender.unavailable_since is not None:
                break
            time.sleep(0.1)
        assert tracker.sender.reason == "Connection refused"
        database_server.start()
        assert tracker.drain(20), tracker.sender.reason
    assert PostgresTables(url).runs() == {"demo": "RUNNING"}
