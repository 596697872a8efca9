"""Tracking URIs: the default one, which ones can work, and how they are shown."""

import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from fdan.errors import FdanError, unknown

TRACKING_URI_VARIABLE: Final = "MLFLOW_TRACKING_URI"  # MLflow's, names the server
_REGISTRY_URI_VARIABLE: Final = "MLFLOW_REGISTRY_URI"  # MLflow's, names a registry elsewhere
_SQLITE: Final = re.compile(r"sqlite(\+pysqlite)?:///")
_DRIVERS: Final = ("pymysql", "pyodbc", "psycopg", "psycopg2")  # modules of SQLAlchemy's drivers
_IN_MEMORY: Final = re.compile(r":memory:|[?&]mode=memory")
_PORT: Final = re.compile(
    r"[\w+]+://(?:[^:/]*(?::[^@]*)?@)?(?:\[[^/?]+\]|[^/:?]+)?(?::(?P<port>[^/?]*))?"
)
"""The beginning of a URI as SQLAlchemy reads it, whose passwords may hold a slash."""

_SCHEMES: Final = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")


def default_uri(runs: Path = Path("runs")) -> str:
    """The database that needs no server: `mlflow.db` in the folder of the studies."""
    return sqlite_uri((runs / "mlflow.db").absolute())


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
    shown = f"{source} '{mask_password(uri)}'"
    if uri != uri.strip():
        raise FdanError(f"{shown} begins or ends with a blank: remove it")
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise FdanError(f"{shown} is no URI ({error})") from None
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
    if scheme != "sqlite" and not _has_good_port(uri):
        raise FdanError(f"{shown}: the port is no number from 1 to 65535; {remedy}")
    if scheme == "sqlite" and (not parts.path.strip("/") or _IN_MEMORY.search(uri)):
        raise FdanError(
            f"{shown} names no file: a database in memory ends with its process; {remedy}"
        )
    if scheme == "sqlite" and not _SQLITE.match(uri):
        raise FdanError(f"{shown}: three slashes begin a file's name; {remedy}")
    if (file := sqlite_file(uri)) is not None and file.is_dir():
        raise FdanError(f"{shown} is a folder; give a file in it, such as {file}/mlflow.db")
    with_driver(uri)


def _has_good_port(uri: str) -> bool:
    found = _PORT.match(uri)
    port = found["port"] if found else None
    return not port or (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535)


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
    installed, or none is named for another kind of server."""
    scheme = urlsplit(uri).scheme
    if scheme in ("mysql", "mssql"):
        raise FdanError(
            f"tracking URI '{mask_password(uri)}' names no driver: give {scheme}+DRIVER://, such as"
            f" {'mysql+pymysql' if scheme == 'mysql' else 'mssql+pyodbc'}://, and install it"
        )
    driver = scheme.partition("+")[2]
    if driver in _DRIVERS and not find_spec(driver):
        raise FdanError(
            f"tracking URI '{mask_password(uri)}': no {driver} is installed; pip install {driver}"
        )
    if not uri.startswith("postgresql://"):
        return uri
    installed = next((name for name in ("psycopg", "psycopg2") if find_spec(name)), None)
    if installed is None:
        raise FdanError(
            f"tracking URI '{mask_password(uri)}': no driver for PostgreSQL is installed; "
            "pip install 'fdan-search[postgres]'"
        )
    return f"postgresql+{installed}{uri.removeprefix('postgresql')}"


def sqlite_uri(file: Path, query: str = "") -> str:
    """The URI of an SQLite file, with escapes where SQLAlchemy would read something else. Then its
    driver is named, too: MLflow makes the folder that `sqlite:///` names without its escapes read.

    Args:
        file: The database.
        query: What follows the question mark of an URI, such as `timeout=60`.

    >>> sqlite_uri(Path("/data/a%20b/what?/o.db"))
    'sqlite+pysqlite:////data/a%2520b/what%3F/o.db'
    """
    path = str(file).replace("%", "%25").replace("?", "%3F")
    driver = "" if path == str(file) else "+pysqlite"
    return f"sqlite{driver}:///{path}{'?' * bool(query)}{query}"


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite database; None if the URI names no such file. A name with `%` or `?`
    means what is there as typed or, failing that, with its escapes resolved: first the folder, then
    the file in it. In a URI of `sqlite_uri` it is always the latter."""
    scheme = _SQLITE.match(uri)
    text = uri[scheme.end() :] if scheme else ""
    path, mark, query = text.partition("?")
    if path in ("", ":memory:"):
        return None
    typed = [text] if mark and "/" in query else []
    if scheme is not None and scheme[1]:  # sqlite_uri's, whose escapes are its own
        return Path(unquote(path))
    files = [Path(name) for name in dict.fromkeys((*typed, path, unquote(path)))]
    folder = next((file.parent for file in files if file.parent.is_dir()), files[-1].parent)
    inside = [file for file in files if file.parent == folder]
    return next((file for file in inside if file.is_file()), inside[0])


def absolute_uri(uri: str) -> str:
    """The URI with an SQLite file's absolute path, so that it means the same in any folder.

    >>> absolute_uri("sqlite:////data/mlflow.db"), absolute_uri("http://host:5000")
    ('sqlite:////data/mlflow.db', 'http://host:5000')
    """
    file = sqlite_file(uri)
    if file is None:
        return uri
    query = uri.partition("?")[2]
    return sqlite_uri(file.absolute(), "" if "/" in query else query)


def portable_uri(uri: str, runs: Path) -> str:
    """The URI as files below the runs folder hold it: one of a database in that folder is relative
    to it, so that the folder can be moved.

    Args:
        uri: An absolute URI.
        runs: The folder of studies.
    """
    file = sqlite_file(uri)
    if file is None or not file.is_relative_to(runs):
        return uri
    return sqlite_uri(file.relative_to(runs), uri.partition("?")[2])


def located_uri(portable: str, runs: Path) -> str:
    """The absolute URI that `portable_uri` was given, in the runs folder as it is now. An absolute
    one, of an earlier release, whose file is gone is that of the same name in the folder.

    Args:
        portable: The URI that a file holds.
        runs: The folder of studies.
    """
    scheme = _SQLITE.match(portable)
    path, _, query = portable[scheme.end() :].partition("?") if scheme else ("", "", "")
    if path in ("", ":memory:"):
        return portable
    file = Path(unquote(path))
    if file.is_absolute():
        recorded = sqlite_file(portable) or file
        here = runs / recorded.name
        return sqlite_uri(here, query) if here.is_file() and not recorded.exists() else portable
    return sqlite_uri(runs / file, query)


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
