"""The MLflow server (or its database) as the sender sees it: six calls, three ways to fail.

Connecting may import mlflow (tracking/backend/client.py), in the sender's thread: it takes seconds.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tracking.backend import sqlite_setup as database
from tracking.backend.api import Api
from tracking.backend.batching import Item
from tracking.backend.client import Client
from tracking.backend.rest import Rest, speaks
from tracking.outbox.record import Record
from tracking.tags import PROBE
from tracking.uri import check_uri, mask_password, sqlite_file

# 413: a proxy's limit on the size of what is sent; it will be as large next time.
_REFUSALS: Final = frozenset(
    ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", "413")
)

# MLflow calls nearly any error of its database a bad request, a connection that broke included.
# SQLAlchemy names the kind by a link; these two are about the data.
_DATABASE: Final = re.compile(r"https://sqlalche\.me/e/\w+/(?!9h9h|gkpj)")

# What matters in the long stories of requests, libpq and SQLAlchemy.
_CAUSE: Final = re.compile(
    r"\[Errno -?\d+\] ([\w ]+)|(Read timed out|timed out|Connection refused|the database system is "
    r"[\w ]+|server closed the connection unexpectedly|terminating connection due to [\w ]+)"
)


class ServerUnavailable(Exception):  # noqa: N818
    """The server cannot be reached, or answers that it cannot just now. Try again later."""


class ServerUnusable(ServerUnavailable):
    """It is of no use as it is, and waiting alone will not mend it."""


class Rejected(Exception):  # noqa: N818
    """The server will never take this, as it is."""


class RunNotFound(Exception):  # noqa: N818
    """The server does not know the run (any more)."""


class Server:
    """One MLflow tracking server or database, and one experiment on it.

    artifacts: folder for artifacts where `uri` is a database; a server chooses its own.
    Every method may raise ServerUnavailable; those that say so, Rejected and RunNotFound.
    """

    def __init__(self, uri: str, experiment: str, artifacts: Path) -> None:
        check_uri(uri)
        self.uri = uri
        self._experiment = experiment
        self._artifacts = artifacts
        self._connected: tuple[Api, str] | None = None

    @property
    def page(self) -> str | None:
        """The experiment's page, to be put behind the UI's address; None before the first contact.
        Without the workflow a browser that is new to MLflow shows its pages for language models."""
        if self._connected is None:
            return None
        return f"/#/experiments/{self._connected[1]}/runs?workflowType=machine_learning"

    def find_run(self, tags: Mapping[str, str]) -> str | None:
        """Id of the first run of the experiment with these tags, deleted ones included."""
        with self._experiment_there(), self._asking() as (api, experiment):
            return api.find_run(experiment, tags)

    def create_run(self, name: str, start: int, tags: Mapping[str, str]) -> str:
        """start: ms since 1970. Raises Rejected."""
        with self._experiment_there(), self._asking() as (api, experiment):
            return api.create_run(experiment, name, start, tags)

    def log(self, run_id: str, items: Sequence[Item]) -> None:
        """One batch within MLflow's limits. Raises Rejected and RunNotFound."""
        with self._asking() as (api, _):
            api.log(run_id, items)

    def reopen(self, run_id: str) -> None:
        """Set RUNNING again. Raises Rejected and RunNotFound."""
        with self._asking() as (api, _):
            api.update(run_id, "RUNNING", None)

    def finish(self, run_id: str, status: str, end: int) -> None:
        """status: FINISHED, FAILED or KILLED; end: ms since 1970. Raises Rejected and
        RunNotFound."""
        with self._asking() as (api, _):
            api.update(run_id, status, end)

    def send_file(self, run_id: str, file: Path, folder: str) -> None:
        """Raises Rejected and RunNotFound."""
        with self._asking() as (api, _):
            api.send_file(run_id, file, folder)

    def deleted(self, run_id: str) -> bool:
        """Whether somebody deleted the run: it then takes nothing more. Raises RunNotFound."""
        with self._asking() as (api, _):
            return api.stage(run_id) == "deleted"

    def writable(self, run_id: str) -> bool:
        """Whether the run takes a harmless tag just now: tells a server in trouble from a record
        that troubles it."""
        harmless = Item(Record(0, 0, "tags", "", {}), "tag", PROBE, "1")
        try:
            self.log(run_id, [harmless])
        except (ServerUnavailable, Rejected, RunNotFound):
            return False
        return True

    @contextlib.contextmanager
    def _asking(self) -> Iterator[tuple[Api, str]]:
        try:
            if self._connected is None:
                self._connected = self._connect()
            yield self._connected
        except (ServerUnavailable, Rejected, RunNotFound):
            raise
        except Exception as error:
            raise self._meaning(error) from error

    @contextlib.contextmanager
    def _experiment_there(self) -> Iterator[None]:
        """What is gone when a run is looked for or made is the experiment, with the database that
        held it; the next connection makes it again."""
        try:
            yield
        except RunNotFound as gone:
            self._connected = None
            raise ServerUnavailable(f"experiment '{self._experiment}' is gone: {gone}") from gone

    def _meaning(self, error: Exception) -> Exception:
        answer = getattr(error, "response", None)  # of requests' errors, for artifacts
        code = getattr(error, "error_code", "") or str(getattr(answer, "status_code", ""))
        text = " ".join(str(error).split())
        if self.uri != mask_password(self.uri):
            secret = urlsplit(self.uri).password
            text = text.replace(secret, "***") if secret else text
        if code == "RESOURCE_DOES_NOT_EXIST":
            return RunNotFound(text)
        if code in _REFUSALS and not _DATABASE.search(text):
            return Rejected(text)
        cause = _CAUSE.search(text)
        short = next((part for part in cause.groups() if part), text) if cause else text
        return ServerUnavailable(short if len(short) < 200 else short[:200] + " ...")

    def _connect(self) -> tuple[Api, str]:
        if speaks(self.uri):
            return self._open(Rest(self.uri))
        path = sqlite_file(self.uri)
        if path is None:
            return self._open(Client(self.uri))
        from filelock import FileLock

        # Two processes that open a new SQLite file at once break each other's migration.
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.opening", timeout=120):
            database.make(path, self._artifacts)
            try:
                return self._open(Client(self.uri))
            except Exception:
                if not database.half_made(path):
                    raise
                raise ServerUnusable(
                    f"{path} is half made, its maker was killed, and no run is in it: move it away"
                ) from None

    def _open(self, api: Api) -> tuple[Api, str]:
        found = api.experiment(self._experiment)
        if found is None:
            place = None
            if not self.uri.startswith("http"):
                place = self._artifacts.resolve().as_uri()
            try:
                return api, api.create_experiment(self._experiment, place)
            except Exception:
                # Another study may just have made it.
                found = api.experiment(self._experiment)
                if found is None:
                    raise
        experiment, stage = found
        if stage == "deleted":
            raise ServerUnavailable(
                f"experiment '{self._experiment}' was deleted there; bring it back with: "
                f"mlflow experiments restore --experiment-id {experiment}"
            )
        return api, experiment
