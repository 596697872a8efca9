"""A real `mlflow server` over SQLite for a measurement: started, killed, started again."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any


class MlflowServer:
    """One worker, job execution off, as our README advises; on a loopback port of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = folder / "mlflow.db"
        self.artifacts = folder / "artifacts"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        log = self.folder / "server.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "mlflow", "server", "--workers=1"),
                    *("--host=127.0.0.1", f"--port={self._port}"),
                    f"--backend-store-uri=sqlite:///{self.database}",
                    f"--artifacts-destination={self.artifacts}",
                ],
                cwd=self.folder,
                env={
                    **os.environ,
                    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                    "MLFLOW_DISABLE_TELEMETRY": "true",
                },
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        self.kill()
        raise SystemExit(f"the MLflow server did not start:\n{log.read_text()[-2000:]}")

    def kill(self) -> None:
        """SIGKILL to it and its workers, whatever they are doing."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """The answer of its database, read past the server."""
        path = f"file:{self.database}?mode=ro"
        with closing(sqlite3.connect(path, uri=True, timeout=60)) as connection:
            return connection.execute(query, values).fetchall()


@contextmanager
def mlflow_server(folder: Path) -> Iterator[MlflowServer]:
    """A running server with its database and log in `folder`; killed at the end."""
    server = MlflowServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()
