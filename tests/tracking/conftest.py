"""A real MLflow server, an initialised database, and the database read without MLflow."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import made_once

ROOT = Path(__file__).parents[2]


@dataclass
class Tables:
    """The SQL tables of an MLflow database in an SQLite file."""

    path: Path

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.path}"

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=20) as connection:
            return connection.execute(query, values).fetchall()

    def metrics(self) -> dict[tuple[str, str, int], list[float]]:
        """Values of each (run's name, key, step), as many as there are rows."""
        found: dict[tuple[str, str, int], list[float]] = {}
        for name, key, step, value in self.rows(
            "select r.name, m.key, m.step, m.value from metrics m join runs r using (run_uuid)"
        ):
            found.setdefault((name, key, step), []).append(value)
        return found

    def runs(self) -> dict[str, str]:
        """Name -> status; a name twice is a failure."""
        rows = self.rows("select name, status from runs")
        assert len(dict(rows)) == len(rows), f"runs doubled: {rows}"
        return dict(rows)

    def tags(self, run: str) -> dict[str, str]:
        return dict(
            self.rows(
                "select t.key, t.value from tags t join runs r using (run_uuid) where r.name = ?",
                run,
            )
        )

    def params(self, run: str) -> dict[str, str]:
        return dict(
            self.rows(
                "select p.key, p.value from params p join runs r using (run_uuid) where r.name = ?",
                run,
            )
        )


class MlflowServer:
    """`mlflow server` on a loopback port; may be killed and started again."""

    def __init__(self, folder: Path, tables: Tables) -> None:
        self.folder = folder
        self.tables = tables
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, wait: bool = True) -> None:
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "mlflow", "server", "--workers=1"),
                    *("--host=127.0.0.1", f"--port={self.port}"),
                    f"--backend-store-uri={self.tables.uri}",
                    f"--artifacts-destination={self.folder / 'artifacts'}",
                ],
                cwd=self.folder,
                env={
                    **os.environ,
                    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                    "MLFLOW_DISABLE_TELEMETRY": "true",
                },
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if wait:
            self.wait()

    def wait(self) -> None:
        for _ in range(1200):
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise AssertionError((self.folder / "server.log").read_text())

    def signal(self, number: int) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        if self.process is not None:
            self.signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def database(tmp_path: Path, template: Path) -> Tables:
    """A database of the test's own."""
    path = tmp_path / "runs" / "mlflow.db"
    path.parent.mkdir(exist_ok=True)
    shutil.copyfile(template, path)
    return Tables(path)


@pytest.fixture
def uri(database: Tables) -> str:
    return database.uri


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Iterator[MlflowServer]:
    """One server for all tests; each uses an experiment and a study's name of its own, and
    leaves the server running."""
    folder = tmp_path_factory.mktemp("server")
    running = MlflowServer(folder, Tables(folder / "server.db"))
    shutil.copyfile(template, running.tables.path)
    running.start()
    yield running
    running.kill()


@pytest.fixture
def python() -> Callable[..., subprocess.Popen[str]]:
    """Start a Python program with our packages on its path."""

    def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Who tests in the background of a shell ignores Ctrl-C, and so would what starts there.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            **options,
        )

    return start


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder with the finished studies of tests/finished.py."""
    from tests.finished import make_all

    return made_once(tmp_path_factory, "finished", make_all)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promotions do not load the packaged model in a process of its own, which is most of their
    time. test_promote.py and test_pyfunc_model.py have it loaded."""
    from tracking.promotion.challenger import Challenger

    stored = property(lambda challenger: challenger.predictions.probabilities)
    monkeypatch.setattr(Challenger, "package_probabilities", stored)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Downloaded models go here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"
