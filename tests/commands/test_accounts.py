"""Two accounts in a group's folder, accounts without a home, folders without locks or rights."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.accounts import account, group_folder, refusing_flock
from tests.commands.conftest import ROOT
from tracking.tracker import Tracker

ANNA, BEN = 4001, 4002

SMALL = ["--spectrogram-size", "32", "--face-size", "32", "--workers", "1"]
TRAIN = [*SMALL, "--backbone", "resnet18", "--weights", "none", "--tuning", "frozen"]
TRAIN += ["--folds", "none"]

Done = subprocess.CompletedProcess[str]


def start(before: list[str], words: list[str], cwd: Path, **environment: str) -> Done:
    """A command behind the words of `account`, without a home but for what `environment` says."""
    known = {k: v for k, v in os.environ.items() if k not in ("HOME", "USER", "LOGNAME")}
    known["TMPDIR"] = str(cwd.with_name("temporary"))
    if words[0].endswith(".py"):
        words = [str(ROOT / words[0]), *words[1:]]
    return subprocess.run(
        [*before, sys.executable, *words],
        cwd=cwd,
        env={**known, "COLUMNS": "100", "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=480,
        check=False,
    )


def private(folder: Path) -> list[str]:
    """Files and folders below that their group may not write."""
    return [str(path) for path in folder.rglob("*") if not path.lstat().st_mode & 0o020]


def error_of(done: Done) -> str:
    """The only line of an error."""
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    (line,) = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
    return line


@pytest.mark.long
def test_a_second_account_goes_on_where_the_first_one_was(corpus: Path, tmp_path: Path) -> None:
    """Whatever their umask, and without a home or a name: prepared data, a model in training."""
    group = group_folder(tmp_path / "group")
    train = ["-m", "fdan", "train", "--task", f"demo:{corpus}", *TRAIN]
    train += ["--runs", str(group / "runs"), "--out", str(group / "runs" / "first"), "--epochs"]
    first = start(account(ANNA), [*train, "1"], group)
    assert first.returncode == 0, first.stderr
    assert "this account has no home: caches go to" in first.stderr
    assert private(group) == []
    second = start(account(BEN), [*train, "2"], group)
    assert second.returncode == 0, second.stderr
    assert "continuing after epoch 1" in second.stdout
    prepare = ["-m", "fdan", "prepare", "--task", f"demo:{corpus}", *SMALL, "--mels", "32"]
    third = start(account(BEN), [*prepare, "--runs", str(group / "runs")], group)
    assert third.returncode == 0, third.stderr
    assert private(group) == []
    clip = next((corpus / "AudioData").rglob("*.wav"))
    predict = ["-m", "fdan", "predict", str(group / "runs" / "first"), str(clip)]
    asked = start(account(ANNA), predict, group, HOME="/")
    assert asked.returncode == 0, asked.stderr
    assert "/ cannot be written: caches go to" in asked.stderr


@pytest.mark.long
def test_a_second_account_goes_on_with_the_study_of_the_first(corpus: Path, tmp_path: Path) -> None:
    group = group_folder(tmp_path / "group")
    words = ["search/run.py", "--runs", str(group / "runs"), "--task", f"demo:{corpus}", *TRAIN]
    words += ["--study", "s", "--concurrent", "1", "--epochs", "2"]
    promoting = ["--confirm", "1", "--seeds", "1", "--score-test"]
    for trials, user, more in (("1", ANNA, []), ("2", BEN, promoting)):
        done = start(account(user), [*words, *more, "--trials", trials], group)
        assert done.returncode == 0, done.stderr
        assert "of no use" not in done.stderr and "wait for MLflow" not in done.stderr
        assert f"study s: {trials} " in done.stdout
        assert private(group) == []
    server = {"MLFLOW_TRACKING_URI": f"sqlite:///{group / 'runs' / 'mlflow.db'}"}
    for user, command, shown in (
        (ANNA, ["promote", str(group / "runs" / "s"), "--accept-yardstick-tie"], "fdan/1"),
        (BEN, ["champion"], "fdan/1"),
        (BEN, ["report", str(group / "runs" / "s"), "--open", "no"], "logged to MLflow"),
    ):
        done = start(account(user), ["-m", "tracking", *command], group, **server)
        assert done.returncode == 0 and shown in done.stdout, (command, done)
        assert private(group) == []


def test_where_rights_lack_a_line_names_the_file_and_the_remedy(tmp_path: Path) -> None:
    group = group_folder(tmp_path / "group")
    study = group / "runs" / "s"
    (group / "runs").mkdir()
    uri = f"sqlite:///{group / 'runs' / 'mlflow.db'}"
    with Tracker(study / "spool", uri, "fdan") as tracker:
        tracker.open_study("s", {}, {})
        assert tracker.drain(120)
        tracker.set_tags("study", {"a": "b"})
    (study / "lock").touch()
    for path in (group, *group.rglob("*")):
        os.chown(path, ANNA, -1)
        path.chmod(0o2775 if path.is_dir() else 0o664)
    remedy = f"chmod -R g+rwX {group / 'runs'}"
    flush = ["-m", "tracking", "flush", str(study)]

    (group / "runs" / "mlflow.db").chmod(0o644)
    done = start(account(BEN), flush, group)
    assert done.returncode == 1, done.stderr
    assert f"{group / 'runs' / 'mlflow.db'}: Permission denied" in done.stderr
    assert f"user {ANNA}'s" in done.stderr and remedy in done.stderr
    assert "once it is back" not in done.stderr and "away" not in done.stderr

    (study / "lock").chmod(0o644)
    search = ["search/run.py", "--runs", str(group / "runs"), "--study", "s", *TRAIN]
    line = error_of(start(account(BEN), search, group))
    assert f"{study / 'lock'}: Permission denied" in line and f"{remedy}/s" in line

    (study / "spool" / "lock").chmod(0o600)
    line = error_of(start(account(BEN), flush, group))
    assert f"{study / 'spool' / 'lock'}: Permission denied" in line and remedy in line


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(tmp_path: Path, corpus: Path, number: int) -> None:
    """Status and list read all the same."""
    runs = tmp_path / "runs"
    (runs / "s").mkdir(parents=True)
    (runs / "s" / "begun.json").write_text('{"arguments": ["--study", "s"]}')
    (runs / "s" / "lock").write_text("1 0 elsewhere\n")

    def run(*words: str | Path) -> Done:
        return subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            preexec_fn=refusing_flock(number),
        )

    for verb in ("list",), ("status", "s"):
        done = run("-m", "search", *verb, "--runs", runs)
        assert done.returncode == 0 and "begun" in done.stdout.replace("stopped", "begun"), done
    data = ("--task", f"demo:{corpus}", *SMALL, "--runs", runs)
    commands = [("-m", "fdan", "prepare")]
    if number == errno.ENOLCK:
        commands.append(("search/run.py", "--study", "new"))
    for command in commands:
        line = error_of(run(*command, *data))
        assert f"{runs}/" in line and "its file system has no file locks" in line
        assert os.strerror(number) in line
    assert not (runs / "new").exists()
