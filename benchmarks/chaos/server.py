"""The studies' MLflow server, as something that can be killed and stopped."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.chaos.processes import Process, descendants
from benchmarks.mlflow_server import MlflowServer, mlflow_server

_TRIES: Final = 3


class Server:
    """A running server; `mlflow server` and the process below it that answers."""

    def __init__(self, server: MlflowServer) -> None:
        self._server = server
        self._starting: threading.Thread | None = None
        self.uri = server.uri
        self.database = server.database
        self.artifacts = server.artifacts

    def processes(self) -> list[Process]:
        """Empty while it is away or comes up again."""
        if self._starting is not None and self._starting.is_alive():
            return []
        below = descendants(os.getpid())
        top = next((process for process in below if str(self.database) in process.title), None)
        return [] if top is None else [top, *descendants(top.pid)]

    def kill(self) -> None:
        """SIGKILL to all of it."""
        self._server.kill()

    def start(self) -> None:
        """Start it again; returns before it answers."""
        self._starting = threading.Thread(target=self._start, daemon=True)
        self._starting.start()

    def _start(self) -> None:
        for _ in range(_TRIES):
            with contextlib.suppress(SystemExit):  # on a busy machine it may take too long
                self._server.start()
                return

    def wait(self) -> None:
        """Until it answers."""
        if self._starting is not None:
            self._starting.join()


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Server]:
    """A server whose database is in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with mlflow_server(folder) as server:
        yield Server(server)
