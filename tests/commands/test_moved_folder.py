"""A runs folder is moved, and copied: the study goes on where its folder is now, with artifacts,
champion, prediction and promotion, and nothing at the old place changes."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from pathlib import Path

import pytest

from tests.commands.conftest import Run

pytestmark = pytest.mark.long

FLAGS = ["--backbone", "resnet18", "--weights", "none", "--tuning", "frozen", "--width", "32"]
FLAGS += ["--spectrogram-size", "32", "--face-size", "32", "--epochs", "1", "--workers", "1"]
FLAGS += ["--pruner", "none", "--study", "s", "--confirm", "1", "--seeds", "1"]
ACCEPT = "--accept-yardstick-tie"  # of a corpus of 28 utterances and a trial of one epoch
PROMOTE = ["--promote", ACCEPT]
FLAGS += ["--folds", "none"]


def digests(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.mark.timeout(900)
def test_a_study_goes_on_in_a_folder_that_was_moved_or_copied(
    run: Run, corpus: Path, tmp_path: Path
) -> None:
    old, new, copy = (tmp_path / name / "runs" for name in ("old", "new 100%", "copy"))
    data = shutil.copytree(corpus, tmp_path / "old" / "corpus")
    old.mkdir()
    words = ["--task", f"savee:{data}", "--storage", f"sqlite:///{old}/o%20b.db", *FLAGS]
    done = run("search/run.py", "--runs", old, *words, "--trials", "1", *PROMOTE)
    assert "champion:      fdan/1" in done.stdout, done.stderr
    assert (old / "o%20b.db").is_file() and not (old / "o b.db").exists()

    shutil.copytree(old, copy)
    before = digests(old)
    done = run("search/run.py", "--runs", copy, "--study", "s", "--trials", "2")
    assert done.returncode in (0, 1), done.stderr  # 1: a winner that is not better is refused
    assert f"{copy} was copied from {old}: the places of artifacts" in done.stderr
    assert f"study s was copied from {old}/s" in done.stderr
    assert "study s: 2 COMPLETE" in done.stdout
    assert str(old) not in done.stdout.replace(str(data), "")
    clip = next(data.rglob("*.wav"))
    server = {"MLFLOW_TRACKING_URI": f"sqlite:///{copy}/mlflow.db"}
    server["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    for command, code in (
        (["-m", "fdan", "predict", "--model", "models:/fdan@champion", clip], 0),
        (["-m", "tracking", "champion", "--runs", copy], 0),
        (["-m", "tracking", "report", copy / "s", "--open", "no"], 0),
        (["-m", "tracking", "flush", copy / "s"], 0),
        (["-m", "tracking", "promote", copy / "s", "--name", "own", ACCEPT], 0),
        (["-m", "search", "status", "s", "--runs", copy], 0),
        (["-m", "search", "list", "--runs", copy], 0),
    ):
        done = run(*command, **server)
        assert done.returncode == code, (command, done.stderr)
        assert str(old) not in done.stdout + done.stderr, command
    status = run("-m", "search", "status", "s", "--runs", copy)
    assert "2 of 2" in status.stdout, "of its own database"
    assert digests(old) == before, "the original"

    new.parent.mkdir()
    old.parent.rename(tmp_path / "parked")
    (tmp_path / "parked" / "runs").rename(new)
    (tmp_path / "parked" / "corpus").rename(new.parent / "corpus")
    done = run("search/run.py", "--runs", new, "--study", "s")
    assert done.returncode == 0, done.stderr
    assert f"study s was moved from {old}/s" in done.stderr, done.stderr
    assert f"{new} was moved from {old}: the places of artifacts" in done.stderr
    assert "fdan/1" in done.stdout
    shown = done.stdout + done.stderr.replace(f"from {old}", "")
    assert str(old.parent) not in shown, "every command names the folder of now"

    with sqlite3.connect(new / "mlflow.db") as database:
        (location,) = database.execute("SELECT artifact_uri FROM runs LIMIT 1").fetchone()
    assert location.startswith(f"{new.as_uri()}/mlartifacts/")
    clip = next((new.parent / "corpus").rglob("*.wav"))
    server["MLFLOW_TRACKING_URI"] = f"sqlite:///{new}/mlflow.db"
    done = run("-m", "fdan", "predict", "--model", "models:/fdan@champion", clip, **server)
    assert done.returncode == 0, done.stderr
    done = run("-m", "tracking", "promote", new / "s")
    assert done.returncode == 0, done.stderr
    assert "champion" in done.stdout
    assert not old.parent.exists()
