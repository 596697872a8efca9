"""MLflow's own client, for databases and servers alike: the one way to MLflow.

mlflow is imported when the first client is made, in the sender's thread: it takes seconds. Only
MlflowClient is used, no fluent API and no active run.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import textwrap
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from tracking.backend.moved import mend_places
from tracking.uri import absolute_uri, mask_password, with_driver

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


_OTHER_SCHEMA: Final = re.compile(r"database schema \(found version (\w+), but expected (\w+)\)")


def connect(uri: str) -> MlflowClient:
    """An MlflowClient that gives up soon and logs little. Raises whatever goes wrong. The places of
    artifacts in a database that was moved are mended first."""
    configure_mlflow()
    from mlflow.tracking import MlflowClient

    uri = with_driver(absolute_uri(uri))
    mend_places(uri)
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


def error_line(error: Exception, uri: str) -> str:
    """An error in one line, without the URI's password.

    Args:
        error: Whatever MLflow raised.
        uri: The server or database that it is about.
    """
    text = " ".join(str(error).split())
    if secret := urlsplit(uri).password:
        text = text.replace(secret, "***")
    return text


def shorten(text: str) -> str:
    """At most 300 characters, and no word is cut."""
    return textwrap.shorten(text, 300, placeholder=" ...")


def schema_line(text: str, uri: str) -> str | None:
    """What to do about a database whose tables another version of MLflow made; None if the text of
    an error is not about that.

    Args:
        text: Text of MLflow's error.
        uri: The database.
    """
    if (schema := _OTHER_SCHEMA.search(text)) is None:
        return None
    from mlflow.version import VERSION

    return (
        f"its tables are another MLflow's (schema {schema[1]}, MLflow {VERSION} here wants"
        f" {schema[2]}): if that one is older, back the database up, then: mlflow db upgrade"
        f" {shlex.quote(mask_password(uri))}; if it is newer, install its version here"
    )


def deleted_line(experiment: str, experiment_id: str, uri: str) -> str:
    """What to do about an experiment that somebody deleted.

    Args:
        experiment: Its name.
        experiment_id: Its id.
        uri: The server or database that has it in its trash.
    """
    shown = mask_password(uri)
    return (
        f"experiment '{experiment}' was deleted at {shown}; bring it back with:"
        f" MLFLOW_TRACKING_URI={shlex.quote(shown)} mlflow experiments restore --experiment-id"
        f" {experiment_id}"
    )
