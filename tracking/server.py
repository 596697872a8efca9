"""The MLflow server (or its database) as the sender sees it: six calls, three ways to fail.

mlflow is imported at the first call, in the sender's thread: it takes seconds. Only MlflowClient
is used, no fluent API and no active run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from fdan.errors import FdanError, unknown

if TYPE_CHECKING:
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.tracking import MlflowClient

_SCHEMES: Final = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")

# One immediate second try, for a connection that went stale while it was idle; patience is the
# sender's business. MLflow's own is seven tries and four minutes a call. A user's choice stands.
_SETTINGS: Final = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

_REFUSALS: Final = frozenset(("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS"))


class Away(Exception):  # noqa: N818
    """The server cannot be reached, or answers that it cannot just now. Try again later."""


class Refused(Exception):  # noqa: N818
    """The server will never take this, as it is."""


class Gone(Exception):  # noqa: N818
    """The server does not know the run (any more)."""


def check_uri(uri: str) -> None:
    """FdanError for a tracking URI that can never work."""
    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme in ("", "file"):
        raise FdanError(
            f"tracking URI '{uri}': MLflow keeps no runs in plain folders any more; give "
            "http://HOST:PORT of a server, or sqlite:////absolute/path/mlflow.db"
        )
    if scheme not in _SCHEMES:
        raise FdanError(f"tracking URI '{shown(uri)}': {unknown('scheme', scheme, _SCHEMES)}")
    if scheme in ("http", "https") and not urlsplit(uri).hostname:
        raise FdanError(f"tracking URI '{shown(uri)}' names no host; give http://HOST:PORT")


def shown(uri: str) -> str:
    """The URI without its password, for logs and files.

    >>> shown("postgresql://me:secret@db/mlflow")
    'postgresql://me:***@db/mlflow'
    """
    return re.sub(r"(://[^/@:]*):[^@/]*@", r"\1:***@", uri)


class Server:
    """One MLflow tracking server or database, and one experiment on it.

    artifacts: folder for artifacts where `uri` is a database; a server chooses its own.
    Every method may raise Away; those that say so, Refused and Gone.
    """

    def __init__(self, uri: str, experiment: str, artifacts: Path) -> None:
        check_uri(uri)
        self.uri = uri
        self._experiment = experiment
        self._artifacts = artifacts
        self._connected: tuple[MlflowClient, str] | None = None

    @property
    def page(self) -> str | None:
        """The experiment's page, to be put behind the UI's address; None before the first contact.
        Without the workflow a browser that is new to MLflow shows its pages for language models."""
        if self._connected is None:
            return None
        return f"/#/experiments/{self._connected[1]}/runs?workflowType=machine_learning"

    def find_run(self, tags: Mapping[str, str]) -> str | None:
        """Id of the first run of the experiment with these tags, deleted ones included."""
        with self._asking() as (client, experiment):
            from mlflow.entities import ViewType

            runs = client.search_runs(
                [experiment],
                " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items()),
                run_view_type=ViewType.ALL,
                order_by=["attributes.start_time ASC"],
                max_results=1,
            )
            return runs[0].info.run_id if runs else None

    def create_run(self, name: str, start: int, tags: Mapping[str, str]) -> str:
        """start: ms since 1970. Raises Refused."""
        with self._asking() as (client, experiment):
            run = client.create_run(experiment, start_time=start, tags=dict(tags), run_name=name)
            return str(run.info.run_id)

    def log(
        self,
        run_id: str,
        metrics: Sequence[Metric],
        params: Sequence[Param],
        tags: Sequence[RunTag],
    ) -> None:
        """One batch within MLflow's limits. Raises Refused and Gone."""
        with self._asking() as (client, _):
            client.log_batch(run_id, metrics=metrics, params=params, tags=tags)

    def reopen(self, run_id: str) -> None:
        """Set RUNNING again. Raises Refused and Gone."""
        with self._asking() as (client, _):
            client.update_run(run_id, status="RUNNING")

    def finish(self, run_id: str, status: str, end: int) -> None:
        """status: FINISHED, FAILED or KILLED; end: ms since 1970. Raises Refused and Gone."""
        with self._asking() as (client, _):
            client.set_terminated(run_id, status=status, end_time=end)

    def send_file(self, run_id: str, file: Path, folder: str) -> None:
        """Raises Refused and Gone."""
        with self._asking() as (client, _):
            client.log_artifact(run_id, str(file), folder or None)

    def deleted(self, run_id: str) -> bool:
        """Whether somebody deleted the run: it then takes nothing more. Raises Gone."""
        with self._asking() as (client, _):
            return bool(client.get_run(run_id).info.lifecycle_stage == "deleted")

    def writable(self, run_id: str) -> bool:
        """Whether the run takes a harmless tag just now: tells a server in trouble from a record
        that troubles it."""
        try:
            with self._asking() as (client, _):
                client.set_tag(run_id, "fdan.tracking", "1")
        except (Away, Refused, Gone):
            return False
        return True

    @contextlib.contextmanager
    def _asking(self) -> Iterator[tuple[MlflowClient, str]]:
        try:
            if self._connected is None:
                self._connected = self._connect()
            yield self._connected
        except (Away, Refused, Gone):
            raise
        except Exception as error:
            raise self._meaning(error) from error

    def _meaning(self, error: Exception) -> Exception:
        code = getattr(error, "error_code", "")
        text = " ".join(str(error).split())
        if self.uri != shown(self.uri):
            secret = urlsplit(self.uri).password
            text = text.replace(secret, "***") if secret else text
        if code == "RESOURCE_DOES_NOT_EXIST":
            return Gone(text)
        if code in _REFUSALS:
            return Refused(text)
        cause = re.search(r"\[Errno \d+\] ([\w ]+)|(Read timed out|timed out)", text)
        short = next((part for part in cause.groups() if part), text) if cause else text
        return Away(short if len(short) < 200 else short[:200] + " ...")

    def _connect(self) -> tuple[MlflowClient, str]:
        for key, value in _SETTINGS.items():
            os.environ.setdefault(key, value)
        from filelock import FileLock
        from mlflow.tracking import MlflowClient

        # They would talk over the user's progress display: of tables made, of connections tried
        # again. What matters of it the sender says itself.
        for name, level in (("mlflow", "WARNING"), ("alembic", "WARNING"), ("urllib3", "ERROR")):
            logging.getLogger(name).setLevel(level)
        if not self.uri.startswith("sqlite:"):
            return self._open(MlflowClient(self.uri))
        # Two processes that open a new SQLite file at once break each other's migration.
        database = Path(self.uri.partition("///")[2])
        database.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{database}.opening", timeout=120):
            return self._open(MlflowClient(self.uri))

    def _open(self, client: MlflowClient) -> tuple[MlflowClient, str]:
        found: Any = client.get_experiment_by_name(self._experiment)
        if found is None:
            place = None
            if not self.uri.startswith("http"):
                place = self._artifacts.resolve().as_uri()
            try:
                return client, client.create_experiment(self._experiment, artifact_location=place)
            except Exception:
                # Another study may just have made it.
                found = client.get_experiment_by_name(self._experiment)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            raise Away(
                f"experiment '{self._experiment}' was deleted there; bring it back with: "
                f"mlflow experiments restore --experiment-id {found.experiment_id}"
            )
        return client, str(found.experiment_id)
