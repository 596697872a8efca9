"""MLflow's own client, for databases and servers alike: the one way to MLflow.

mlflow is imported when the first client is made, in the sender's thread: it takes seconds. Only
MlflowClient is used, no fluent API and no active run.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tracking.backend.batching import Item
from tracking.tags import tag_filter
from tracking.uri import with_driver

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_HTTP_DEFAULTS: Final = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": 0,
    "MLFLOW_HTTP_REQUEST_TIMEOUT": 15,
}
"""Set as MLflow's defaults and not in the environment: children of this process do not inherit
them. MLflow's are seven retries in four minutes; here, the sender retries. A user's own timeout
wins, but not a user's retries: one within a call creates a run twice where the server carries the
first request out and its answer is lost."""

_ENVIRONMENT: Final = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "PGCONNECT_TIMEOUT": "15",
}

_LEVELS: Final = {
    "mlflow": "WARNING",
    "mlflow.store.db.utils": "CRITICAL",  # a traceback for each try while a database is away
    "alembic": "WARNING",
    "urllib3": "ERROR",
}


def connect(uri: str) -> MlflowClient:
    """An MlflowClient that gives up soon and logs little. Raises whatever goes wrong."""
    configure_mlflow()
    from mlflow.tracking import MlflowClient

    uri = with_driver(uri)
    if not uri.startswith(("http", "sqlite")):
        _check_database_answers(uri)
    return MlflowClient(uri)


def configure_mlflow() -> None:
    """Set MLflow's defaults and silence its loggers; called before MLflow is used."""
    for key, text in _ENVIRONMENT.items():
        os.environ.setdefault(key, text)
    os.environ.pop("MLFLOW_HTTP_REQUEST_MAX_RETRIES", None)
    from mlflow import environment_variables

    for key, value in _HTTP_DEFAULTS.items():
        getattr(environment_variables, key).default = value
    # They would write over the user's progress display: of tables made, of connections tried
    # again. What matters of it, the sender logs itself. The import of mlflow has set the levels.
    for name, level in _LEVELS.items():
        logging.getLogger(name).setLevel(level)


class TrackingClient:
    """The calls of MlflowClient that sending a study needs.

    Every method raises whatever goes wrong; an error that MLflow itself answered with has its code
    in `error_code`.
    """

    def __init__(self, uri: str) -> None:
        self._client = connect(uri)

    def experiment(self, name: str) -> tuple[str, str] | None:
        """An experiment's id and stage, "active" or "deleted"; None if no such name exists."""
        entry = self._client.get_experiment_by_name(name)
        return None if entry is None else (str(entry.experiment_id), str(entry.lifecycle_stage))

    def create_experiment(self, name: str, artifacts: str | None) -> str:
        """Create an experiment and return its id.

        Args:
            name: Name of the experiment.
            artifacts: URI of the folder for its files; None leaves that to the server.
        """
        return str(self._client.create_experiment(name, artifact_location=artifacts))

    def find_run(self, experiment: str, tags: Mapping[str, str]) -> str | None:
        """Id of the oldest run with these tags, deleted ones included.

        Args:
            experiment: Id of its experiment.
            tags: Tags that it has, with their values.
        """
        from mlflow.entities import ViewType

        runs = self._client.search_runs(
            [experiment],
            tag_filter(tags),
            run_view_type=ViewType.ALL,
            order_by=["attributes.start_time ASC"],
            max_results=1,
        )
        return str(runs[0].info.run_id) if runs else None

    def create_run(self, experiment: str, name: str, start: int, tags: Mapping[str, str]) -> str:
        """Create a run and return its id.

        Args:
            experiment: Id of its experiment.
            name: Name that MLflow's pages show.
            start: Start in ms since 1970.
            tags: Tags set with the run.
        """
        run = self._client.create_run(experiment, start_time=start, tags=dict(tags), run_name=name)
        return str(run.info.run_id)

    def log(self, run_id: str, items: Sequence[Item]) -> None:
        """Log one batch.

        Args:
            run_id: Id of the run that gets it.
            items: Items within MLflow's limits.
        """
        from mlflow.entities import Metric, Param, RunTag

        metrics, params, tags = [], [], []
        for item in items:
            if item.kind == "metric":
                metrics.append(Metric(item.key, float(item.value), item.record.time, item.step))
            elif item.kind == "param":
                params.append(Param(item.key, str(item.value)))
            else:
                tags.append(RunTag(item.key, str(item.value)))
        self._client.log_batch(run_id, metrics, params, tags, synchronous=True)

    def update(self, run_id: str, status: str, end: int | None) -> None:
        """Set a run's status.

        Args:
            run_id: Id of the run.
            status: RUNNING, FINISHED, FAILED or KILLED.
            end: End in ms since 1970; None for a run that continues.
        """
        if end is None:
            self._client.update_run(run_id, status=status)
        else:
            self._client.set_terminated(run_id, status=status, end_time=end)

    def send_file(self, run_id: str, file: Path, folder: str) -> None:
        """Log an artifact.

        Args:
            run_id: Id of the run that gets it.
            file: File to send.
            folder: Folder among the run's artifacts; "" for the top.
        """
        self._client.log_artifact(run_id, str(file), folder or None)

    def stage(self, run_id: str) -> str:
        """A run's stage, "active" or "deleted"."""
        return str(self._client.get_run(run_id).info.lifecycle_stage)


def _check_database_answers(uri: str) -> None:
    """Raises if a database does not answer. MLflow would try ten times, for 100 s in all."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
    engine.connect().close()
