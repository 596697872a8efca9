"""`python -m search rerun` as a user starts it: against a server, from another folder, for a trial
of the search and for a run that confirms one."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands.conftest import Run
from tests.tracking.conftest import MlflowServer, Tables

pytestmark = pytest.mark.long

FLAGS = ["--backbone", "resnet18", "--spectrogram-size", "32", "--face-size", "32", "--epochs", "4"]
FLAGS += ["--workers", "1", "--study", "s", "--trials", "2", "--confirm", "1", "--seeds", "1"]
FLAGS += ["--pruner", "none", "--folds", "none"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MlflowServer]:
    started = MlflowServer(tmp_path, Tables(tmp_path / "server.db"))
    started.start()
    yield started
    started.kill()


def test_trials_on_a_server(
    run: Run, corpus: Path, prepared: Path, server: MlflowServer, tmp_path: Path
) -> None:
    runs, data = tmp_path / "far" / "runs", f"demo:{corpus}"
    shutil.copytree(prepared / "stores", runs / "stores")
    done = run(
        *("search/run.py", "--runs", runs, "--task", data, *FLAGS, "--tracking-uri", server.uri)
    )
    assert done.returncode == 0, done.stderr
    with sqlite3.connect(server.tables.path) as database:
        ids = dict(database.execute("select name, run_uuid from runs").fetchall())
    assert ids.keys() >= {"s", "trial-0000", "trial-0001", "confirm-0000"}

    here = {"MLFLOW_TRACKING_URI": server.uri}
    done = run("-m", "search", "rerun", ids["trial-0000"], **here)
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
    assert done.stdout == "epoch 4 of 4: all 10 metrics of 4 epochs equal to the last digit\n"
    assert "trial 0 of study s: COMPLETE" in done.stderr
    assert "data as recorded: " in done.stderr

    done = run("-m", "search", "rerun", ids["confirm-0000"], "--json", **here)
    found = json.loads(done.stdout)
    assert (done.returncode, found["equal"], found["trial"]) == (0, True, "confirm-0")
    assert "confirm 0 of study s: COMPLETE, 4 epochs recorded, seed 1000" in done.stderr

    done = run("-m", "search", "rerun", ids["s"], **here)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert ids["trial-0000"] in done.stderr

    server.kill()
    done = run("-m", "search", "rerun", ids["trial-0000"], **here)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"MLflow at {server.uri} cannot be read: " in done.stderr
