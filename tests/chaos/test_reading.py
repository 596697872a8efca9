"""Stores that Optuna and MLflow have written, read past them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from mlflow.entities import Metric
from mlflow.tracking import MlflowClient
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from benchmarks.chaos.processes import Process, descendants, marked
from benchmarks.chaos.reading import (
    Unreadable,
    by_params,
    key_of,
    read_database,
    read_journal,
    read_lines,
    read_mlflow,
)
from benchmarks.chaos.stores import Row, Trial


def fill(storage: BaseStorage) -> None:
    """A study with a complete, a pruned and a running trial, and another study beside it."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    optuna.create_study(storage=storage, study_name="other").ask()
    study = optuna.create_study(storage=storage, study_name="small", direction="maximize")
    for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING):
        trial = study.ask()
        trial.suggest_float("lr", 0.0, 1.0)
        trial.report(0.25, 1)
        trial.report(1 / 3, 2)
        trial.set_user_attr("reason", "why")
        if state is not TrialState.RUNNING:
            study.tell(trial, 1 / 3 if state is TrialState.COMPLETE else None, state)


def expected(found: tuple[Trial, ...]) -> None:
    assert [trial.number for trial in found] == [0, 1, 2]
    assert [trial.state for trial in found] == ["COMPLETE", "PRUNED", "RUNNING"]
    assert [trial.endings for trial in found] == [1, 1, 0]
    assert found[0].value == 1 / 3
    assert all(trial.values == {1: 0.25, 2: 1 / 3} for trial in found)
    assert all(trial.reason == "why" and set(trial.params) == {"lr"} for trial in found)


def test_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    fill(JournalStorage(JournalFileBackend(str(path))))
    before = path.read_bytes()
    expected(read_journal(path, "small"))
    assert path.read_bytes() == before
    path.write_bytes(before + b'{"op_code": 6, "torn')
    expected(read_journal(path, "small"))


def test_a_trial_that_was_ended_twice_shows_in_the_journal(tmp_path: Path) -> None:
    """Optuna's own readers pass over the second end."""
    path = tmp_path / "journal.log"
    fill(JournalStorage(JournalFileBackend(str(path))))
    lines = path.read_bytes().splitlines(keepends=True)
    end = next(line for line in lines if b'"op_code":6' in line and b'"state":1' in line)
    path.write_bytes(b"".join([*lines, end.replace(b"worker_id", b"other_id")]))
    with pytest.raises(Unreadable):  # spoilt, not missing its end
        read_journal(path, "small")
    path.write_bytes(b"".join([*lines, end]))
    assert [trial.endings for trial in read_journal(path, "small")] == [2, 1, 0]


def test_what_is_not_there_is_unreadable_and_not_made(tmp_path: Path) -> None:
    for path in (tmp_path / "journal.log", tmp_path / "tables.db"):
        with pytest.raises(Unreadable):
            read_journal(path, "small")
        with pytest.raises(Unreadable):
            read_database(f"sqlite:///{path}", "small")
        with pytest.raises(Unreadable):
            read_mlflow(path, experiment="fdan-search")
        assert read_lines(path) == []
    fill(JournalStorage(JournalFileBackend(str(tmp_path / "journal.log"))))
    with pytest.raises(Unreadable):
        read_journal(tmp_path / "journal.log", "smaller")


def test_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    fill(RDBStorage(url))
    expected(read_database(url, "small"))


def test_mlflow(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    client = MlflowClient(f"sqlite:///{database}")
    experiment = client.create_experiment("mine", artifact_location=str(tmp_path))
    first = client.create_run(experiment, start_time=1, tags={"fdan.study": "small"}).info.run_id
    client.create_run(experiment, start_time=2, tags={"fdan.study": "another"})
    deleted = client.create_run(experiment, start_time=3, tags={"fdan.study": "small"}).info.run_id
    client.delete_run(deleted)
    metrics = [
        Metric("value", 1 / 3, 10, 1),
        Metric("value", 1 / 3, 20, 1),  # the same step, recorded again at another time
        Metric("value", float("nan"), 30, 2),
    ]
    client.log_batch(first, metrics=metrics)
    client.log_param(first, "lr", 0.1)
    client.set_terminated(first, "KILLED")
    found = read_mlflow(database, experiment="mine", tags={"fdan.study": "small"})
    assert [run.id for run in found] == [first, deleted]
    assert found[0].status == "KILLED" and found[0].params == {"lr": "0.1"}
    assert found[0].rows[:2] == [Row("value", 1, 1 / 3)] * 2
    assert str(found[0].rows[2].value) == "nan" and found[0].rows[2].step == 2
    assert len(read_mlflow(database, experiment="mine")) == 3


def test_trials_and_runs_meet_by_their_settings() -> None:
    trials = [Trial(n, "COMPLETE", params={"lr": 0.1 * n, "layers": 2}) for n in range(3)]
    assert by_params(trials)[key_of({"layers": "2", "lr": str(0.2)})] == 2


def test_lines_that_were_torn_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b'{"a": 1}\n{"a": 2\n{"a": 3}\n{"a": 4}')
    assert read_lines(tmp_path / "log") == [{"a": 1}, {"a": 3}]


def test_processes_below_one_another() -> None:
    sleeping = f"{sys.executable} -c 'import time; time.sleep(60)'"
    parent = subprocess.Popen(
        ["bash", "-c", f"{sleeping} & wait"], env={**os.environ, "CHAOS_TEST": str(os.getpid())}
    )
    try:
        until = time.monotonic() + 10
        while not (below := descendants(parent.pid)) and time.monotonic() < until:
            time.sleep(0.05)
        (child,) = below
        assert child in descendants(os.getpid())
        while "time.sleep" not in child.title and time.monotonic() < until:
            time.sleep(0.05)
        assert {child.pid, parent.pid} == {p.pid for p in marked(f"CHAOS_TEST={os.getpid()}")}
        impostor = Process(child.pid, child.started + 1)
        assert not impostor.alive and not impostor.signal(signal.SIGKILL)
        assert child.alive and child.signal(signal.SIGKILL)
        parent.wait(10)
        assert not child.alive and not child.signal(signal.SIGKILL)
        assert descendants(parent.pid) == []
    finally:
        parent.kill()
