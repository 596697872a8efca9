"""Tracking URIs: which can work, and how they are shown."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from fdan.errors import FdanError, unknown

TRACKING: Final = "MLFLOW_TRACKING_URI"
"""MLflow's variable of the environment that names the server."""

_SQLITE: Final = "sqlite:///"
_SCHEMES: Final = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")


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
    with_driver(uri)


def with_driver(uri: str) -> str:
    """The URI of a PostgreSQL names its driver, the one that is installed: which one SQLAlchemy
    takes for granted depends on its version. Any other URI comes back as it is. Raises FdanError
    where there is none."""
    if not uri.startswith("postgresql://"):
        return uri
    driver = next((name for name in ("psycopg", "psycopg2") if find_spec(name)), None)
    if driver is None:
        raise FdanError(
            f"tracking URI '{shown(uri)}': no driver for PostgreSQL is installed; "
            "pip install 'fdan-search[postgres]'"
        )
    return f"postgresql+{driver}{uri.removeprefix('postgresql')}"


def file_of(uri: str) -> Path | None:
    """The file of an SQLite database; None where the URI names no such file."""
    path = uri.removeprefix(_SQLITE).partition("?")[0]
    return Path(path) if uri.startswith(_SQLITE) and path not in ("", ":memory:") else None


def absolute(uri: str) -> str:
    """The URI with an SQLite file's whole path: it means the same in any working folder.

    >>> absolute("sqlite:////data/mlflow.db"), absolute("http://host:5000")
    ('sqlite:////data/mlflow.db', 'http://host:5000')
    """
    file = file_of(uri)
    if file is None or file.is_absolute():
        return uri
    return f"{_SQLITE}{Path.cwd() / uri.removeprefix(_SQLITE)}"


def shown(uri: str) -> str:
    """The URI without its password, for logs and files.

    >>> shown("postgresql://me:secret@db/mlflow"), shown("postgresql:///db?password=secret")
    ('postgresql://me:***@db/mlflow', 'postgresql:///db?password=***')
    """
    uri = re.sub(r"(://[^/@:]*):[^/]*@", r"\1:***@", uri)
    return re.sub(r"(?i)([?&][^=&]*pass[^=&]*=)[^&]+", r"\1***", uri)


def masked(uri: str) -> bool:
    """Whether the URI had a password that `shown` has taken out."""
    return ":***@" in uri or "=***" in uri
