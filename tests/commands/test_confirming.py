"""Confirming is as hard to lose as the search: its driver is killed, the same command goes on."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from fdan.evaluation.predictions import Predictions
from fdan.files import sha256_file
from fdan.inference.model_folder import read_model
from fdan.training.checkpoint import Checkpoint
from search.selection import confirm
from search.study.storage import open_storage_read_only
from search.study.storage_retry import StorageError
from search.worker.trial_folder import CHECKPOINT, trial_folder
from tests.commands.test_survival import FLAGS, Home
from tracking.registry.pickle_scan import pickle_reason
from tracking.result import StudyResult

pytestmark = pytest.mark.long

EPOCHS = 30


@pytest.fixture(scope="module")
def home(corpus: Path, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    made = Home(tmp_path_factory.mktemp("confirming"), [*FLAGS, "--task", f"demo:{corpus}"])
    shutil.copytree(prepared, made.path / "runs")
    made.flags += ["--epochs", str(EPOCHS), "--confirm", "2", "--seeds", "2", "--promote"]
    made.flags += ["--accept-yardstick-tie"]  # of a corpus of 28 utterances
    yield made
    for number in made.processes():
        os.kill(number, signal.SIGKILL)


def runs(home: Home) -> list[FrozenTrial]:
    """The confirming runs, read off the journal."""
    try:
        held = open_storage_read_only(None, home.folder)
        return optuna.load_study(study_name=confirm.confirmation_name("s"), storage=held).trials
    except (StorageError, KeyError):
        return []


def test_it_goes_on_where_its_driver_was_killed(home: Home) -> None:
    home.start()
    home.wait_for(lambda: sum(len(run.intermediate_values) for run in runs(home)) >= 10)
    assert home.process is not None
    home.process.kill()
    home.ends()
    before = runs(home)
    assert TrialState.RUNNING in {run.state for run in before}
    home.start()
    code, out, said = home.ends()
    assert code == 0, said
    assert "Traceback" not in said, said
    assert "going on with the runs that were under way" in said
    assert "confirmed with fresh seeds" in out and "test part:" in out
    assert "champion:      fdan/1: there is no champion yet: the first one" in out
    home.path.joinpath("out.txt").write_text(out)
    after = runs(home)
    assert len(after) == 4, "nothing twice"
    for run in after:
        assert run.state is TrialState.COMPLETE
        assert list(run.intermediate_values) == list(range(1, EPOCHS + 1))
    assert {(run.user_attrs["of"], run.user_attrs["seed"]) for run in after} == {
        (of, seed) for of in {run.user_attrs["of"] for run in after} for seed in (1000, 1001)
    }


def test_mlflow_has_each_run_once_below_the_study(home: Home) -> None:
    rows = home.mlflow(
        "select r.name, r.status, s.value, c.value, m.step, m.value from runs r"
        " join tags s on s.run_uuid = r.run_uuid and s.key = 'fdan.stage'"
        " join tags c on c.run_uuid = r.run_uuid and c.key = 'confirms'"
        " join tags p on p.run_uuid = r.run_uuid and p.key = 'mlflow.parentRunId'"
        " join metrics m on m.run_uuid = r.run_uuid and m.key = 'value'"
    )
    found: dict[str, dict[int, float]] = {}
    for name, status, stage, confirms, step, value in rows:
        number = int(name.removeprefix("confirm-"))
        assert (status, stage) == ("FINISHED", "confirm")
        assert int(confirms) == runs(home)[number].user_attrs["of"]
        assert step not in found.setdefault(name, {}), f"{name} has epoch {step} twice"
        found[name][step] = value
    assert found == {f"confirm-{run.number:04d}": run.intermediate_values for run in runs(home)}


def test_the_winner_is_the_best_mean_and_its_model_a_typical_one(home: Home) -> None:
    result = StudyResult.load(home.folder)
    assert result.confirm is not None and result.test is not None
    best, other = result.confirm.settings
    assert best.mean >= other.mean
    values = {run.number: run.value for run in runs(home)}
    assert sorted(best.values) == sorted(
        run.value for run in runs(home) if run.user_attrs["of"] == best.trial
    )
    assert best.optimism == best.search_value - best.mean
    assert values[result.confirm.run] == min(best.values), "the lower one of two"
    model = read_model(home.folder / "winner")
    assert model.facts["trial"] == best.trial == result.confirm.winner
    assert model.run.training.seed == result.confirm.seed
    kept = trial_folder(home.folder / confirm.FOLDER, result.confirm.run) / CHECKPOINT
    assert Checkpoint.load(kept).value == values[result.confirm.run]
    assert result.test.model_sha256 == sha256_file(home.folder / "winner" / "model.safetensors")
    answers = Predictions.read(home.folder / "winner" / "test.csv")
    assert answers.measures().uar == result.test.uar
    assert all(check.ok for check in result.checks), result.checks
    assert len(result.checks) == 4
    json.dumps(asdict(result.confirm), allow_nan=False)


def test_the_commands_at_the_end_work_as_they_are_printed(home: Home) -> None:
    printed = {
        line.partition(":")[0]: line.partition(":")[2].strip()
        for line in home.path.joinpath("out.txt").read_text().splitlines()
    }
    done = subprocess.run(
        printed["predict"], shell=True, cwd=home.path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "by speech, model fdan version 1 (study s, trial " in done.stdout
    assert (home.path / printed["report"]).read_text().startswith("<!doctype html>")
    assert printed["compare them"].split()[1] == "ui"


def test_the_summary_is_printed_whatever_promotion_says(home: Home) -> None:
    """Here: that another MLflow made the database, so that nobody can promote there."""
    database = home.path / "runs" / "mlflow.db"
    with sqlite3.connect(database) as connection:
        ((schema,),) = connection.execute("select version_num from alembic_version")
        connection.execute("update alembic_version set version_num = '0123456789ab'")
    try:
        home.start()
        code, out, said = home.ends()
    finally:
        with sqlite3.connect(database) as connection:
            connection.execute("update alembic_version set version_num = ?", (schema,))
    assert code == 1 and "Traceback" not in said, said
    assert "confirmed with fresh seeds" in out and "test part:" in out and "report:" in out
    (line,) = (line for line in out.splitlines() if line.startswith("not promoted:"))
    assert "schema 0123456789ab" in line and "is kept, for: python -m tracking promote " in line


def test_nothing_that_was_logged_is_a_pickle(home: Home) -> None:
    """Runs' artifacts and the registered model, file by file."""
    files = [file for file in (home.path / "runs" / "mlartifacts").rglob("*") if file.is_file()]
    names = {file.name for file in files}
    assert {"model.safetensors", "MLmodel", "report.html", "config.json", "trials.csv"} <= names
    for file in files:
        assert pickle_reason(file) == "", file
    spoilt = home.path / "spoilt.json"
    spoilt.write_bytes(pickle.dumps({"a": 1}))
    assert pickle_reason(spoilt), "the check can fail"
