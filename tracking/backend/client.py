"""MLflow through its own client: databases, https, proxies, whatever way to log in it knows, and
artifacts that the server does not pass on but leaves to its clients.

mlflow is imported here, when the first one is made: it takes seconds. Only MlflowClient is used,
no fluent API and no active run.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tracking.backend.batching import Item
from tracking.tags import tag_filter
from tracking.uri import with_driver

# One immediate second try, for a connection that went stale while it was idle; patience is the
# sender's business. MLflow's own is seven tries and four minutes a call. A user's choice stands.
_SETTINGS: Final = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
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


def connect(uri: str) -> Any:
    """An MlflowClient that gives up soon and keeps quiet. Raises whatever goes wrong."""
    keep_quiet()
    from mlflow.tracking import MlflowClient

    uri = with_driver(uri)
    if not uri.startswith(("http", "sqlite")):
        _knock(uri)
    return MlflowClient(uri)


def keep_quiet() -> None:
    """Before mlflow is used: its settings, and its loggers silent."""
    for key, value in _SETTINGS.items():
        os.environ.setdefault(key, value)
    import mlflow  # noqa: F401  it sets its loggers' levels

    # They would talk over the user's progress display: of tables made, of connections tried
    # again. What matters of it the sender says itself.
    for name, level in _LEVELS.items():
        logging.getLogger(name).setLevel(level)


class Client:
    """An Api."""

    def __init__(self, uri: str) -> None:
        self._client = connect(uri)
        from mlflow import entities

        self._entities = entities

    def experiment(self, name: str) -> tuple[str, str] | None:
        found: Any = self._client.get_experiment_by_name(name)
        return None if found is None else (str(found.experiment_id), str(found.lifecycle_stage))

    def create_experiment(self, name: str, artifacts: str | None) -> str:
        return str(self._client.create_experiment(name, artifact_location=artifacts))

    def find_run(self, experiment: str, tags: Mapping[str, str]) -> str | None:
        runs = self._client.search_runs(
            [experiment],
            tag_filter(tags),
            run_view_type=self._entities.ViewType.ALL,
            order_by=["attributes.start_time ASC"],
            max_results=1,
        )
        return str(runs[0].info.run_id) if runs else None

    def create_run(self, experiment: str, name: str, start: int, tags: Mapping[str, str]) -> str:
        run = self._client.create_run(experiment, start_time=start, tags=dict(tags), run_name=name)
        return str(run.info.run_id)

    def log(self, run_id: str, items: Sequence[Item]) -> None:
        made: dict[str, list[Any]] = {"metric": [], "param": [], "tag": []}
        for item in items:
            if item.kind == "metric":
                time = item.record.time
                entity = self._entities.Metric(item.key, float(item.value), time, item.step)
                made["metric"].append(entity)
            elif item.kind == "param":
                made["param"].append(self._entities.Param(item.key, str(item.value)))
            else:
                made["tag"].append(self._entities.RunTag(item.key, str(item.value)))
        self._client.log_batch(run_id, made["metric"], made["param"], made["tag"])

    def update(self, run_id: str, status: str, end: int | None) -> None:
        if end is None:
            self._client.update_run(run_id, status=status)
        else:
            self._client.set_terminated(run_id, status=status, end_time=end)

    def send_file(self, run_id: str, file: Path, folder: str) -> None:
        self._client.log_artifact(run_id, str(file), folder or None)

    def stage(self, run_id: str) -> str:
        return str(self._client.get_run(run_id).info.lifecycle_stage)


def _knock(uri: str) -> None:
    """Raises if nobody answers at a database's door. MLflow knocks ten times, for 100 s in all."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
    engine.connect().close()
