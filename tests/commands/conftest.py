"""Commands started as a user starts them: a new process, its exit code, what it prints."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fdan.corpora.demo import generate

ROOT = Path(__file__).resolve().parent.parent.parent

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`run("-m", "fdan", ...)` or `run("search/run.py", ...)` in a folder of its own."""

    def start(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        words = [str(argument) for argument in arguments]
        if words[0] == "search/run.py":
            words[0] = str(ROOT / words[0])
        return subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "100", **environment},
            capture_output=True,
            text=True,
            timeout=480,
            check=False,
        )

    return start


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four speakers, an utterance of each emotion: wav and avi files in SAVEE's layout."""
    return generate(
        tmp_path_factory.mktemp("corpus") / "demo", speakers=4, takes=1, uneven=False, workers=1
    )
