"""Commands as a user gives them: a process, its exit code, what it prints."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from fdan.corpora.demo import generate
from tests.warm_process import run_warm, runs_warm

ROOT = Path(__file__).resolve().parent.parent.parent

_TIMEOUT_S = 480

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`run("-m", "fdan", ...)` or `run("search/run.py", ...)` in a folder of its own, by a process
    that has its libraries already, where that makes no difference."""
    return _in_folder(tmp_path, execute)


@pytest.fixture
def run_anew(tmp_path: Path) -> Run:
    """As `run`, always by a new Python, whose imports the test is about."""
    return _in_folder(tmp_path, execute_anew)


def _in_folder(folder: Path, execute: Run) -> Run:
    def start(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        words = [str(argument) for argument in arguments]
        if words[0] == "search/run.py":
            words[0] = str(ROOT / words[0])
        return execute(words, folder, **environment)

    return start


def execute(words: list[str], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these words behind it: in a fork of a process that has imported the libraries
    (tests/warm_process.py), or in a new one where the imports may matter."""
    changed = _environment(environment)
    if runs_warm(words, changed):
        return run_warm(words, cwd, changed, _TIMEOUT_S)
    return execute_anew(words, cwd, **environment)


def execute_anew(
    words: list[str], cwd: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """As `execute`, in a new process."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env=_environment(environment),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )


def _environment(changes: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, "COLUMNS": "100", **changes}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four speakers, an utterance of each emotion: wav and avi files in SAVEE's layout."""
    return generate(
        tmp_path_factory.mktemp("corpus") / "demo", speakers=4, takes=1, uneven=False, workers=1
    )


@pytest.fixture(scope="session")
def prepared(corpus: Path, template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder with the corpus in small images, and MLflow's database without runs."""
    runs = tmp_path_factory.mktemp("prepared") / "runs"
    sizes = ("--spectrogram-size", "32", "--face-size", "32", "--workers", "1")
    words = ["-m", "fdan", "prepare", "--task", f"demo:{corpus}", *sizes, "--runs", str(runs)]
    done = execute(words, runs.parent)
    assert done.returncode == 0, done.stderr
    shutil.copyfile(template, runs / "mlflow.db")
    return runs


@pytest.fixture
def with_prepared(prepared: Path, tmp_path: Path) -> None:
    """For a test of what comes after preparing: a copy of `prepared` is its `runs`."""
    shutil.copytree(prepared, tmp_path / "runs")
