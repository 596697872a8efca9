"""The MLflow server (or its database) as the sender sees it: a few calls, and three ways to fail.

ServerUnavailable: try again later. Rejected: the server will never take this. RunNotFound: the run
is not on this server (any more). Connecting imports mlflow, in the sender's thread.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fdan.errors import FdanError
from fdan.lock import wait_for_lock
from fdan.machine.rights import denied, explain, why_unwritable
from tracking.backend.batching import Item
from tracking.backend.client import (
    configure_mlflow,
    connect,
    deleted_line,
    error_line,
    schema_line,
    shorten,
)
from tracking.backend.moved import artifacts_folder
from tracking.record import Record
from tracking.tags import PROBE, tag_filter
from tracking.uri import check_uri, sqlite_file, sqlite_uri

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

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

_PROBE: Final = (Item(Record(0, 0, "tags", "", {}), "tag", PROBE, "1"),)


class ServerUnavailable(Exception):  # noqa: N818
    """The server cannot be reached, or answers that it cannot work just now. Try again later."""


class ServerUnusable(ServerUnavailable):
    """The server is of no use as it is, and waiting alone does not mend it."""


class Rejected(Exception):  # noqa: N818
    """The server will never take this, as it is."""


class RunNotFound(Exception):  # noqa: N818
    """The server does not know the run (any more)."""


@dataclass(repr=False)  # the URI may hold a password
class Server:
    """One MLflow tracking server or database, and one experiment on it.

    It connects at the first call. Every method may raise ServerUnavailable; those that say so,
    Rejected and RunNotFound.
    """

    uri: str
    experiment: str  # its name; made if there is none
    artifacts: Path  # their folder if `uri` is a database; a server chooses its own
    _connected: tuple[MlflowClient, str] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        check_uri(self.uri)

    @property
    def page(self) -> str | None:
        """Path of the experiment's page in the UI; None before the first contact. Without the
        workflow, a browser that is new to MLflow shows its pages for language models."""
        if self._connected is None:
            return None
        return f"/#/experiments/{self._connected[1]}/runs?workflowType=machine_learning"

    def find_run(self, tags: Mapping[str, str]) -> str | None:
        """Id of the oldest run of the experiment with these tags, deleted ones included."""
        with self._calling(needs_run=False) as (client, experiment):
            from mlflow.entities import ViewType

            runs = client.search_runs(
                [experiment],
                tag_filter(tags),
                run_view_type=ViewType.ALL,
                order_by=["attributes.start_time ASC"],
                max_results=1,
            )
            return str(runs[0].info.run_id) if runs else None

    def create_run(self, name: str, start: int, tags: Mapping[str, str]) -> str:
        """Create a run and return its id. Raises Rejected.

        Args:
            name: Name that MLflow's pages show.
            start: Start in ms since 1970.
            tags: Tags set with the run.
        """
        with self._calling(needs_run=False) as (client, experiment):
            run = client.create_run(experiment, start, dict(tags), run_name=name)
            return str(run.info.run_id)

    def log(self, run_id: str, items: Sequence[Item]) -> None:
        """Log one batch. Raises Rejected and RunNotFound.

        Args:
            run_id: Id of the run that gets it.
            items: Items within MLflow's limits.
        """
        with self._calling() as (client, _):
            from mlflow.entities import Metric, Param, RunTag

            client.log_batch(
                run_id,
                [
                    Metric(item.key, float(item.value), item.record.time, item.step)
                    for item in items
                    if item.kind == "metric"
                ],
                [Param(item.key, str(item.value)) for item in items if item.kind == "param"],
                [RunTag(item.key, str(item.value)) for item in items if item.kind == "tag"],
                synchronous=True,
            )

    def set_status(self, run_id: str, status: str, end: int | None) -> None:
        """End a run, or open it again. Raises Rejected and RunNotFound.

        Args:
            run_id: Id of the run.
            status: FINISHED, FAILED, KILLED or RUNNING.
            end: End in ms since 1970; None for a run that continues.
        """
        with self._calling() as (client, _):
            if end is None:
                client.update_run(run_id, status)
            else:
                client.set_terminated(run_id, status, end)

    def send_file(self, run_id: str, file: Path, folder: str) -> None:
        """Log an artifact. Raises Rejected and RunNotFound.

        Args:
            run_id: Id of the run that gets it.
            file: File to send.
            folder: Folder among the run's artifacts; "" for the top.
        """
        with self._calling() as (client, _):
            client.log_artifact(run_id, str(file), folder or None)

    def deleted(self, run_id: str) -> bool:
        """Whether somebody deleted the run: then it takes nothing more. Raises RunNotFound."""
        with self._calling() as (client, _):
            return bool(client.get_run(run_id).info.lifecycle_stage == "deleted")

    def accepts(self, run_id: str, items: Sequence[Item] = _PROBE) -> bool:
        """Whether the run takes a batch just now; if so, it is logged.

        Args:
            run_id: Id of the run.
            items: Items within MLflow's limits. Without them a harmless tag, which distinguishes a
                server in trouble from a record that troubles it.
        """
        try:
            self.log(run_id, items)
        except (ServerUnavailable, Rejected, RunNotFound):
            return False
        return True

    @contextlib.contextmanager
    def _calling(self, *, needs_run: bool = True) -> Iterator[tuple[MlflowClient, str]]:
        try:
            if self._connected is None:
                self._connected = self._connect()
            yield self._connected
        except ServerUnavailable:
            raise
        except Exception as error:
            meaning = self._classify(error)
            if isinstance(meaning, RunNotFound) and not needs_run:
                # The experiment is gone, with its database; the next connection makes it again.
                self._connected = None
                meaning = ServerUnavailable(f"experiment '{self.experiment}' is gone: {meaning}")
            raise meaning from error

    def _classify(self, error: Exception) -> Exception:
        if isinstance(error, OSError) and error.filename and denied(error):
            return ServerUnusable(explain(error, self.artifacts))
        if isinstance(error, FdanError):  # it has no locks, say
            return ServerUnusable(str(error))
        response = getattr(error, "response", None)  # of requests' errors, for artifacts
        code = getattr(error, "error_code", "") or str(getattr(response, "status_code", ""))
        text = error_line(error, self.uri)
        if line := schema_line(text, self.uri):
            return ServerUnusable(line)
        if answer := _HTTP.search(text):
            code = answer[1] or answer[3]
            text = f"HTTP {code}: {answer[2]}" if answer[2] else f"HTTP {code}"
        if code == "401":
            return ServerUnusable(
                f"{shorten(text)}: it wants credentials (MLFLOW_TRACKING_USERNAME and"
                " MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN)"
            )
        if code == "403":
            return ServerUnusable(shorten(text))
        if code == "RESOURCE_DOES_NOT_EXIST":
            return RunNotFound(text)
        if code in _REJECTIONS and not _DATABASE.search(text):
            return Rejected(text)
        file = sqlite_file(self.uri)
        if file is not None and file.exists() and (why := why_unwritable(file)):
            return ServerUnusable(why)
        cause = _CAUSE.search(text)
        short = next((part for part in cause.groups() if part), text) if cause else text
        return ServerUnavailable(shorten(short))

    def _connect(self) -> tuple[MlflowClient, str]:
        path = sqlite_file(self.uri)
        if path is None:
            return self._open_experiment()
        # Two processes that open a new SQLite file at once break each other's migration.
        path.parent.mkdir(parents=True, exist_ok=True)
        with wait_for_lock(path.with_name(f"{path.name}.opening"), 120):
            _make_database(path, self.artifacts)
            try:
                return self._open_experiment()
            except Exception:
                if not _half_made(path):
                    raise
                raise ServerUnusable(
                    f"{path} is half made, its maker was killed, and no run is in it: move it away"
                ) from None

    def _open_experiment(self) -> tuple[MlflowClient, str]:
        client = connect(self.uri)
        experiment = client.get_experiment_by_name(self.experiment)
        if experiment is None:
            own = None if self.uri.startswith("http") else self.artifacts.resolve().as_uri()
            try:
                return client, str(client.create_experiment(self.experiment, own))
            except Exception:
                # Another study may just have made it.
                experiment = client.get_experiment_by_name(self.experiment)
                if experiment is None:
                    raise
        if experiment.lifecycle_stage == "deleted":
            raise ServerUnusable(
                deleted_line(self.experiment, str(experiment.experiment_id), self.uri)
            )
        folder = artifacts_folder(experiment.artifact_location)
        if folder is not None and not folder.parent.is_dir():  # MLflow would make it anew
            raise ServerUnusable(
                f"experiment '{self.experiment}' keeps its artifacts in {folder}, which is not"
                " there: bring that folder back"
            )
        return client, str(experiment.experiment_id)


def _make_database(database: Path, artifacts: Path) -> None:
    """Make MLflow's database in an SQLite file, whole or not at all; one process at a time.

    MLflow builds its tables in some sixty migrations, and none of them is one transaction: a
    process that is killed on the way leaves a file in which no later one can continue. So the
    tables are built in a file beside it, which gets the name once it is whole. `artifacts` is where
    MLflow's experiment `Default` would keep them.
    """
    if database.exists() and database.stat().st_size:
        return
    configure_mlflow()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    folder = database.with_name(f"{database.name}.making")
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    folder.mkdir(parents=True)
    # A name of its own, since MLflow keeps its connections by name, those of a failure, too.
    file = folder / f"{uuid.uuid4().hex}.db"
    file.touch()  # SQLite's own are for their owner alone to write; it has the rest follow this one
    make_tables: Any = SqlAlchemyStore
    make_tables(sqlite_uri(file), artifacts.resolve().as_uri()).engine.dispose()
    with file.open("rb") as written:
        os.fsync(written.fileno())
    file.replace(database)
    shutil.rmtree(folder, ignore_errors=True)


def _half_made(database: Path) -> bool:
    """Whether MLflow began to build its tables and never reached the first experiment, which every
    database has: so the file holds nothing. A migration that rewrites their table keeps the rows in
    a second one meanwhile."""
    try:
        uri = f"{database.absolute().as_uri()}?mode=rw"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            return "alembic_version" in tables and not any(
                connection.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone()
                for name in ("experiments", "_alembic_tmp_experiments")
                if name in tables
            )
    except sqlite3.Error:  # no database, or one that is being written
        return False
