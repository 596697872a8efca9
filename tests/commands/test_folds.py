"""A small study with folds, from the command to the final model, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
import sqlite3
import wave
from pathlib import Path

import numpy as np
import pytest

from fdan.corpora.demo import generate
from fdan.data.provenance import reopen
from fdan.inference.model_folder import read_model
from fdan.training.checkpoint import Checkpoint
from search.worker.trial_folder import CHECKPOINT, read_epoch_log, trial_folder
from tests.commands.conftest import Run
from tests.commands.test_bad_input import SEARCH, SMALL, refused

pytestmark = pytest.mark.long

FLAGS = [*SMALL, "--trials", "3", "--epochs", "4", "--pruner", "none", "--concurrent", "1"]


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(
        tmp_path_factory.mktemp("five") / "demo", speakers=5, takes=2, uneven=False, workers=1
    )


def test_a_study_with_folds(run: Run, five: Path, tmp_path: Path) -> None:
    """Nobody chose its folds: four of five speakers are left, which are too few for one split."""
    flags = [*SEARCH, "--study", "f", "--task", f"demo:{five}", *FLAGS, "--folds", "auto"]
    flags += ["--confirm", "1", "--seeds", "2", "--score-test"]
    shown = run(*flags, "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert "4 folds (--folds loso), which a trial trains side by side:" in shown.stdout
    assert "fold 4 trains on" in shown.stdout
    done = run(*flags)
    assert done.returncode == 0, done.stderr
    assert "folds loso: 4 speakers are left for training and validation, fewer than" in done.stderr
    assert "training the final model: all speakers outside the test part" in done.stderr
    study = tmp_path / "runs" / "f"
    result = json.loads((study / "result.json").read_text())
    assert all(check["ok"] for check in result["checks"]), result["checks"]
    assert result["origin"]["split"]["folds"] == "loso" and result["folds"] == 4
    assert result["test"]["samples"] == 14
    # The final model: of the winner's setting and epochs, trained on all but the test part.
    model = read_model(study / "winner")
    confirmed = trial_folder(study / "confirm", result["confirm"]["run"])
    kept = study / "refit" / "winner" / confirmed.name / CHECKPOINT
    last = Checkpoint.load(kept)
    assert last.epoch == 4 and last.run == model.run
    log = read_epoch_log(confirmed)
    assert model.facts["validation_uar"] == pytest.approx(log[4].value)
    task, split = reopen(model.facts)
    assert result["parts"][1]["part"] == "train"
    assert sum(result["parts"][1]["emotions"].values()) == 56  # four of five speakers
    assert not {task.samples("acoustic").speakers[i] for i in split.acoustic_test} & {
        *result["parts"][1]["speakers"]
    }
    # The same command scores nothing again and trains nothing again.
    before = {file: file.stat().st_mtime_ns for file in kept.iterdir()}
    again = run(*flags)
    assert again.returncode == 0, again.stderr
    assert "folds loso: as this study has had from its beginning" in again.stderr
    assert "training the final model" not in again.stderr
    assert before == {file: file.stat().st_mtime_ns for file in kept.iterdir()}
    with sqlite3.connect(tmp_path / "runs" / "mlflow.db") as database:
        rows = database.execute("select distinct value from tags where key = 'folds'").fetchall()
    assert rows == [("4 folds",)]
    # A trial is repeated from its run in MLflow, folds and all.
    uri = f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}"
    with (study / "figures" / "trials.csv").open() as table:
        run_id = next(csv.DictReader(table))["run_id"]
    repeated = run("-m", "search", "rerun", run_id, "--tracking-uri", uri, "--json")
    assert repeated.returncode == 0, repeated.stderr
    found = json.loads(repeated.stdout)
    assert found["equal"] and found["epochs"] == 4


def make_noise(file: Path) -> None:
    with wave.open(str(file)) as clip:
        parameters = clip.getparams()
    noise = np.random.default_rng(0).integers(-9000, 9000, parameters.nframes, "<i2")
    with wave.open(str(file), "wb") as clip:
        clip.setparams(parameters)
        clip.writeframes(noise.tobytes())


def test_a_poisoned_test_part_changes_nothing_that_is_searched(
    run: Run, five: Path, tmp_path: Path
) -> None:
    """The same files but for the sound of the test speaker."""
    copy = Path(shutil.copytree(five, tmp_path / "poisoned" / "demo"))
    values = []
    for number, corpus in enumerate((five, copy)):
        flags = [*SEARCH, "--study", f"p{number}", "--task", f"demo:{corpus}", *FLAGS]
        done = run(*flags, "--folds", "2")
        assert done.returncode == 0, done.stderr
        result = json.loads((tmp_path / "runs" / f"p{number}" / "result.json").read_text())
        values.append([trial["value"] for trial in result["trials"]])
        if number == 0:
            tested = next(p for p in result["parts"] if p["part"] == "test")["speakers"]
            for name in tested:
                for file in (copy / "AudioData" / name).glob("*.wav"):
                    make_noise(file)
    assert values[0] == values[1]


@pytest.mark.parametrize(
    ("folds", "words"),
    [
        ("9", "use folds at most 4, loso or none"),
        (
            "1",
            "folds = '1': expected auto, none, loso (leave one speaker out) or a whole",
        ),
        ("lso", "expected auto, none, loso"),
    ],
)
def test_folds_that_cannot_be_had(run: Run, five: Path, folds: str, words: str) -> None:
    task = ["--task", f"demo:{five}"]
    assert words in refused(run, *SEARCH, *task, *SMALL, "--folds", folds)
    if folds == "9":
        assert words in refused(run, *SEARCH, *task, *SMALL, "--folds", folds, "--dry-run")


def test_folds_of_other_protocols(run: Run, five: Path) -> None:
    words = [*SEARCH, "--task", f"demo:{five}", *SMALL, "--folds", "3", "--protocol", "paper"]
    assert "use protocol speaker, or folds none" in refused(run, *words)
