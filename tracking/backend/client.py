"""MLflow's own client, for databases and servers alike: the one way to MLflow.

mlflow is imported when the first client is made, in the sender's thread: it takes seconds. Only
MlflowClient is used, no fluent API and no active run.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final

from tracking.uri import with_driver

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_HTTP_DEFAULTS: Final = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": 0, "MLFLOW_HTTP_REQUEST_TIMEOUT": 15}
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
        # MLflow would try ten times, for 100 s in all.
        import sqlalchemy

        sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool).connect().close()
    return MlflowClient(uri, registry_uri=uri)  # whatever the environment says


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
