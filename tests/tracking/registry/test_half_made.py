"""A process that is killed while MLflow's database is being made costs nothing but that try."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tracking.__main__ import main
from tracking.tracker import Tracker

pytestmark = pytest.mark.long

if TYPE_CHECKING:
    import subprocess

    from conftest import Tables

Start = Callable[..., "subprocess.Popen[str]"]

MOMENTS = (1, 60_000, 500_000)
"""Bytes of the database in the making at which its maker is killed."""

# MLflow is imported once for all makers, which are forks: that is what takes long.
_KILLED = """
import os, signal, sys, time
from pathlib import Path
from tracking.backend.client import configure_mlflow
from tracking.backend.server import Server
configure_mlflow()
import mlflow.store.tracking.sqlalchemy_store
root = Path(sys.argv[1])

def size():
    found = 0
    for file in [root / "mlflow.db", *root.glob("mlflow.db.making/*.db")]:
        try:
            found = max(found, file.stat().st_size)
        except OSError:
            pass
    return found

for moment in map(int, sys.argv[2:]):
    maker = os.fork()
    if not maker:
        Server(f"sqlite:///{root / 'mlflow.db'}", "fdan", root / "mlartifacts").find_run({})
        os._exit(0)
    while size() < moment and os.waitpid(maker, os.WNOHANG) == (0, 0):
        time.sleep(0.001)
    try:
        os.kill(maker, signal.SIGKILL)
        os.waitpid(maker, 0)
    except (ProcessLookupError, ChildProcessError):
        pass
    else:
        print("killed", size(), flush=True)
"""


def test_whoever_comes_next_makes_it(tmp_path: Path, python: Start) -> None:
    root = tmp_path / "runs"
    root.mkdir()
    out, err = python("-c", _KILLED, str(root), *map(str, MOMENTS)).communicate(timeout=120)
    assert out.count("killed") == len(MOMENTS), out + err
    uri = f"sqlite:///{root / 'mlflow.db'}"
    with Tracker(root / "s" / "spool", uri, "fdan") as tracker:
        tracker.open_study("s", {}, {})
        tracker.log_metrics("study", 1, {"best_value": 0.5})
        assert tracker.drain(60), tracker.sender.reason
    with sqlite3.connect(root / "mlflow.db") as database:
        assert database.execute("select key, value from metrics").fetchall() == [
            ("best_value", 0.5)
        ]
    assert not list(root.glob("*.making"))


@pytest.fixture
def half_made(database: Tables) -> Path:
    """As a process leaves it that is killed between two migrations."""
    with sqlite3.connect(database.path) as opened:
        opened.execute("delete from experiments")
        opened.execute("update alembic_version set version_num = '451aebb31d03'")
        opened.execute("drop table webhooks")
    return database.path


def test_one_that_is_half_made_is_told_from_one_that_is_away(
    half_made: Path, tmp_path: Path, python: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "runs" / "s"
    began = time.monotonic()
    with Tracker(study / "spool", f"sqlite:///{half_made}", "fdan") as tracker:
        tracker.open_study("s", {}, {})
        assert not tracker.drain(60)
        assert tracker.sender.reason == (
            f"{half_made} is half made, its maker was killed, and no run is in it: move it away"
        )
    assert main(["flush", str(study), "--wait", "60"]) == 1
    assert time.monotonic() - began < 60, "waiting does not mend it"
    said = capsys.readouterr().err
    assert f"error: {half_made} is half made, " in said and "unavailable" not in said
    assert f"2 wait safely in {study / 'spool'}; run the same command again then" in said
    shutil.move(half_made, tmp_path / "half.db")
    process = python("-m", "tracking", "flush", str(study))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out.partition(";")[0]) == (0, "2 records sent"), err
