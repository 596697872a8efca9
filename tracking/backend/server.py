"""The MLflow server (or its database) as the sender sees it: a few calls, and three ways to fail.

ServerUnavailable: try again later. Rejected: the server will never take this. RunNotFound: the run
is not on this server (any more). Connecting imports mlflow, in the sender's thread.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tracking.backend import sqlite_setup
from tracking.backend.batching import Item
from tracking.backend.client import TrackingClient
from tracking.record import Record
from tracking.tags import PROBE
from tracking.uri import check_uri, sqlite_file

# 413: a proxy's limit on the size of what is sent; it will be as large next time.
_REJECTIONS: Final = frozenset(
    ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", "413")
)

# MLflow calls nearly any error of its database a bad request, a connection that broke included.
# SQLAlchemy names the kind by a link; these two are about the data.
_DATABASE: Final = re.compile(r"https://sqlalche\.me/e/\w+/(?!9h9h|gkpj)")

# An answer that is not MLflow's, but a proxy's before it or another server's altogether; and one
# that requests would ask again for, whose text it keeps to itself.
_HTTP: Final = re.compile(
    r"failed with error code (\d+) != 200\. Response body: '(.*)'$|too many (\d+) error responses"
)

# What matters in the long messages of requests, libpq and SQLAlchemy.
_CAUSE: Final = re.compile(
    r"\[Errno -?\d+\] ([\w ]+)|(Read timed out|timed out|Connection refused|Connection reset by "
    r"peer|Remote end closed connection|the database system is [\w ]+|"
    r"server closed the connection unexpectedly|terminating connection due to [\w ]+)"
)


class ServerUnavailable(Exception):  # noqa: N818
    """The server cannot be reached, or answers that it cannot work just now. Try again later."""


class ServerUnusable(ServerUnavailable):
    """The server is of no use as it is, and waiting alone does not mend it."""


class Rejected(Exception):  # noqa: N818
    """The server will never take this, as it is."""


class RunNotFound(Exception):  # noqa: N818
    """The server does not know the run (any more)."""


class Server:
    """One MLflow tracking server or database, and one experiment on it.

    Every method may raise ServerUnavailable; those that say so, Rejected and RunNotFound.
    """

    def __init__(self, uri: str, experiment: str, artifacts: Path) -> None:
        """Connects at the first call.

        Args:
            uri: URI of the server or database.
            experiment: Name of the experiment; made if there is none.
            artifacts: Folder for artifacts if `uri` is a database; a server chooses its own.
        """
        check_uri(uri)
        self.uri = uri
        self._experiment = experiment
        self._artifacts = artifacts
        self._connected: tuple[TrackingClient, str] | None = None

    @property
    def page(self) -> str | None:
        """Path of the experiment's page in the UI; None before the first contact. Without the
        workflow, a browser that is new to MLflow shows its pages for language models."""
        if self._connected is None:
            return None
        return f"/#/experiments/{self._connected[1]}/runs?workflowType=machine_learning"

    def find_run(self, tags: Mapping[str, str]) -> str | None:
        """Id of the oldest run of the experiment with these tags, deleted ones included."""
        with self._experiment_exists(), self._calling() as (client, experiment):
            return client.find_run(experiment, tags)

    def create_run(self, name: str, start: int, tags: Mapping[str, str]) -> str:
        """Create a run and return its id. Raises Rejected.

        Args:
            name: Name that MLflow's pages show.
            start: Start in ms since 1970.
            tags: Tags set with the run.
        """
        with self._experiment_exists(), self._calling() as (client, experiment):
            return client.create_run(experiment, name, start, tags)

    def log(self, run_id: str, items: Sequence[Item]) -> None:
        """Log one batch. Raises Rejected and RunNotFound.

        Args:
            run_id: Id of the run that gets it.
            items: Items within MLflow's limits.
        """
        with self._calling() as (client, _):
            client.log(run_id, items)

    def reopen(self, run_id: str) -> None:
        """Set a run RUNNING again. Raises Rejected and RunNotFound."""
        with self._calling() as (client, _):
            client.update(run_id, "RUNNING", None)

    def finish(self, run_id: str, status: str, end: int) -> None:
        """End a run. Raises Rejected and RunNotFound.

        Args:
            run_id: Id of the run.
            status: FINISHED, FAILED or KILLED.
            end: End in ms since 1970.
        """
        with self._calling() as (client, _):
            client.update(run_id, status, end)

    def send_file(self, run_id: str, file: Path, folder: str) -> None:
        """Log an artifact. Raises Rejected and RunNotFound.

        Args:
            run_id: Id of the run that gets it.
            file: File to send.
            folder: Folder among the run's artifacts; "" for the top.
        """
        with self._calling() as (client, _):
            client.send_file(run_id, file, folder)

    def deleted(self, run_id: str) -> bool:
        """Whether somebody deleted the run: then it takes nothing more. Raises RunNotFound."""
        with self._calling() as (client, _):
            return client.stage(run_id) == "deleted"

    def writable(self, run_id: str) -> bool:
        """Whether the run takes a harmless tag just now: distinguishes a server in trouble from a
        record that troubles it."""
        try:
            self.log(run_id, [Item(Record(0, 0, "tags", "", {}), "tag", PROBE, "1")])
        except (ServerUnavailable, Rejected, RunNotFound):
            return False
        return True

    @contextlib.contextmanager
    def _calling(self) -> Iterator[tuple[TrackingClient, str]]:
        try:
            if self._connected is None:
                self._connected = self._connect()
            yield self._connected
        except (ServerUnavailable, Rejected, RunNotFound):
            raise
        except Exception as error:
            raise self._classify(error) from error

    @contextlib.contextmanager
    def _experiment_exists(self) -> Iterator[None]:
        """Not found, while a run is looked for or made, means that the experiment is gone, with its
        database; the next connection makes it again."""
        try:
            yield
        except RunNotFound as error:
            self._connected = None
            raise ServerUnavailable(f"experiment '{self._experiment}' is gone: {error}") from error

    def _classify(self, error: Exception) -> Exception:
        response = getattr(error, "response", None)  # of requests' errors, for artifacts
        code = getattr(error, "error_code", "") or str(getattr(response, "status_code", ""))
        text = " ".join(str(error).split())
        if secret := urlsplit(self.uri).password:
            text = text.replace(secret, "***")
        if answer := _HTTP.search(text):
            code = answer[1] or answer[3]
            text = f"HTTP {code}: {answer[2]}" if answer[2] else f"HTTP {code}"
        if code == "RESOURCE_DOES_NOT_EXIST":
            return RunNotFound(text)
        if code in _REJECTIONS and not _DATABASE.search(text):
            return Rejected(text)
        cause = _CAUSE.search(text)
        short = next((part for part in cause.groups() if part), text) if cause else text
        return ServerUnavailable(short if len(short) < 200 else short[:200] + " ...")

    def _connect(self) -> tuple[TrackingClient, str]:
        path = sqlite_file(self.uri)
        if path is None:
            return self._open_experiment()
        from filelock import FileLock

        # Two processes that open a new SQLite file at once break each other's migration.
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.opening", timeout=120):
            sqlite_setup.make(path, self._artifacts)
            try:
                return self._open_experiment()
            except Exception:
                if not sqlite_setup.half_made(path):
                    raise
                raise ServerUnusable(
                    f"{path} is half made, its maker was killed, and no run is in it: move it away"
                ) from None

    def _open_experiment(self) -> tuple[TrackingClient, str]:
        client = TrackingClient(self.uri)
        experiment = client.experiment(self._experiment)
        if experiment is None:
            is_server = self.uri.startswith("http")
            artifacts = None if is_server else self._artifacts.resolve().as_uri()
            try:
                return client, client.create_experiment(self._experiment, artifacts)
            except Exception:
                # Another study may just have made it.
                experiment = client.experiment(self._experiment)
                if experiment is None:
                    raise
        experiment_id, stage = experiment
        if stage == "deleted":
            raise ServerUnavailable(
                f"experiment '{self._experiment}' was deleted there; bring it back with: "
                f"mlflow experiments restore --experiment-id {experiment_id}"
            )
        return client, experiment_id
