"""Tracking URIs: the default one, which ones can work, and how they are shown."""

import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from fdan.errors import FdanError, unknown

TRACKING_URI_VARIABLE: Final = "MLFLOW_TRACKING_URI"  # MLflow's, names the server
_REGISTRY_URI_VARIABLE: Final = "MLFLOW_REGISTRY_URI"  # MLflow's, names a registry elsewhere
_SQLITE: Final = "sqlite:///"
_IN_MEMORY: Final = re.compile(r":memory:|[?&]mode=memory")
_SCHEMES: Final = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")


def default_uri(runs: Path = Path("runs")) -> str:
    """The database that needs no server: `mlflow.db` in the folder of the studies."""
    return f"{_SQLITE}{(runs / 'mlflow.db').absolute()}"


def environment_uri() -> str:
    """MLFLOW_TRACKING_URI, or the database that a search makes in ./runs. Raises FdanError for one
    that can never work."""
    uri = os.environ.get(TRACKING_URI_VARIABLE)
    if not uri:
        return default_uri()
    check_uri(uri, TRACKING_URI_VARIABLE)
    return uri


def check_uri(uri: str, source: str = "tracking URI") -> None:
    """Raises FdanError for a tracking URI that can never work.

    Args:
        uri: The URI.
        source: What names it: an option, a variable.
    """
    parts, shown = urlsplit(uri), f"{source} '{mask_password(uri)}'"
    scheme = parts.scheme.partition("+")[0]
    unset = f", or unset {source}" if source == TRACKING_URI_VARIABLE else ""
    remedy = f"give http://HOST:PORT of a server, or sqlite:////absolute/path/mlflow.db{unset}"
    if scheme.startswith("databricks") or uri.startswith("databricks"):
        raise FdanError(f"{shown}: Databricks' own tracking is not supported; {remedy}")
    if re.fullmatch(r"[\w.-]+:\d+(/.*)?", uri):
        raise FdanError(f"{shown}: it lacks http:// or https://; did you mean http://{uri}?")
    if scheme in ("", "file"):
        raise FdanError(f"{shown}: MLflow keeps no runs in plain folders any more; {remedy}")
    if scheme not in _SCHEMES:
        raise FdanError(f"{shown}: {unknown('scheme', scheme, _SCHEMES)}; {remedy}")
    if scheme in ("http", "https") and not parts.hostname:
        raise FdanError(f"{shown} names no host; give http://HOST:PORT{unset}")
    if scheme == "sqlite" and (not parts.path.strip("/") or _IN_MEMORY.search(uri)):
        raise FdanError(
            f"{shown} names no file: a database in memory ends with its process; {remedy}"
        )
    with_driver(uri)


def check_registry(uri: str, environment: Mapping[str, str] = os.environ) -> None:
    """Raises FdanError where the environment names a registry other than the tracking server's own,
    in which champions are compared, moved and looked up.

    Args:
        uri: URI of the tracking server.
        environment: Variables that MLflow reads.
    """
    registry = environment.get(_REGISTRY_URI_VARIABLE, "")
    if registry and absolute_uri(registry).rstrip("/") != absolute_uri(uri).rstrip("/"):
        raise FdanError(
            f"{_REGISTRY_URI_VARIABLE} names another registry ({mask_password(registry)}), but"
            f" models are kept in that of {mask_password(uri)}, where their runs are: unset"
            f" {_REGISTRY_URI_VARIABLE}"
        )


def with_driver(uri: str) -> str:
    """The URI with the installed PostgreSQL driver in it, because SQLAlchemy's default driver
    depends on its version. Other URIs are returned unchanged. Raises FdanError if no driver is
    installed."""
    if not uri.startswith("postgresql://"):
        return uri
    driver = next((name for name in ("psycopg", "psycopg2") if find_spec(name)), None)
    if driver is None:
        raise FdanError(
            f"tracking URI '{mask_password(uri)}': no driver for PostgreSQL is installed; "
            "pip install 'fdan-search[postgres]'"
        )
    return f"postgresql+{driver}{uri.removeprefix('postgresql')}"


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite database; None if the URI names no such file."""
    path = uri.removeprefix(_SQLITE).partition("?")[0]
    return Path(path) if uri.startswith(_SQLITE) and path not in ("", ":memory:") else None


def absolute_uri(uri: str) -> str:
    """The URI with an SQLite file's absolute path, so that it means the same in any folder.

    >>> absolute_uri("sqlite:////data/mlflow.db"), absolute_uri("http://host:5000")
    ('sqlite:////data/mlflow.db', 'http://host:5000')
    """
    file = sqlite_file(uri)
    if file is None or file.is_absolute():
        return uri
    return f"{_SQLITE}{Path.cwd() / uri.removeprefix(_SQLITE)}"


def mask_password(uri: str) -> str:
    """The URI without its password, for logs and files.

    >>> mask_password("postgresql://me:secret@db/mlflow")
    'postgresql://me:***@db/mlflow'
    >>> mask_password("postgresql:///db?password=secret")
    'postgresql:///db?password=***'
    """
    uri = re.sub(r"(://[^/@:]*):[^/]*@", r"\1:***@", uri)
    return re.sub(r"(?i)([?&][^=&]*pass[^=&]*=)[^&]+", r"\1***", uri)


def check_not_masked(uri: str) -> None:
    """Raises FdanError for a stored URI that needs its password."""
    if is_masked(uri):
        raise FdanError(
            f"the password of {uri} was not stored; give the whole URI with --tracking-uri"
        )


def is_masked(uri: str) -> bool:
    """Whether `mask_password` has taken a password out of the URI."""
    return ":***@" in uri or "=***" in uri
