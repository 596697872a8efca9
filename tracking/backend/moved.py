"""MLflow's database in a folder that was moved or copied. MLflow stores absolute places of its
artifacts; those that provably lay beside the database are mended before anything else reads it. A
place that somebody chose for an experiment of their own may look alike, and stays."""

import contextlib
import json
import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from fdan.lock import Owner, lock_owner
from fdan.machine.rights import why_unwritable
from tracking.uri import sqlite_file

ARTIFACTS: Final = "mlartifacts"  # folder of the artifacts, beside the database

_PLACES: Final = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns with the places of artifacts."""


def artifacts_uri(database: Path) -> str:
    """Where the runs of an SQLite database keep their artifacts."""
    return (database.parent / ARTIFACTS).resolve().as_uri()


def print_line(line: str) -> None:
    """Print a line about what is being done, apart from the result."""
    print(line, file=sys.stderr, flush=True)


def mend_places(uri: str, log: Callable[[str], None] = print_line) -> None:
    """Make MLflow's artifacts those beside its database, if the folder of both was moved or copied.

    Args:
        uri: A tracking URI; only SQLite files hold such places.
        log: Function that is given a line about what was mended.
    """
    database = sqlite_file(uri)
    if database is None or not database.is_file():
        return
    database, here = database.absolute(), artifacts_uri(database)
    elsewhere: list[str] = []
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection:
            elsewhere = _elsewhere(connection, database.parent, here)
            if elsewhere and (owner := _running(database.parent)) is not None:
                log(
                    f"{database.parent} was {_path(elsewhere[0]).parent} for {database.name}, and"
                    f" a study is being run in it by {owner}: the places of artifacts and"
                    " models stay as they are until it ends"
                )
                return
            for old in elsewhere:
                with connection:
                    for table, column in _PLACES:
                        connection.execute(
                            f"UPDATE {table} SET {column} = ? || substr({column}, ?)"
                            f" WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                            (here, len(old) + 1, old, len(old) + 1, f"{old}/"),
                        )
                _forget_places()
                before = _path(old).parent
                how = "copied" if before.exists() else "moved"
                log(
                    f"{database.parent} was {how} from {before}: the places of artifacts and"
                    f" models in its {database.name} are mended"
                )
    except sqlite3.OperationalError as error:
        if "no such" not in str(error):  # not a database of MLflow, which is told elsewhere
            was = f" was {_path(elsewhere[0]).parent}/{database.name}:" if elsewhere else ":"
            why = why_unwritable(database) or error
            log(f"{database}{was} the places of its artifacts cannot be mended: {why}")
    except sqlite3.DatabaseError:  # none at all
        pass


def _running(runs: Path) -> Owner | None:
    """Another process that runs a study in this folder, which it may reach by another path (in a
    container, over NFS), or a study of the original of a copy: its files lie there, too."""
    for lock in runs.glob("*/lock"):
        with contextlib.suppress(OSError):
            owner = lock_owner(lock)
            if owner is not None and not (owner.on_this_host and owner.pid == os.getpid()):
                return owner
    return None


def _forget_places() -> None:
    """MLflow remembers where it sent a run's artifacts for as long as the process lives, and has no
    public way to make it read the place again."""
    if (utils := sys.modules.get("mlflow.tracking._tracking_service.utils")) is not None:
        getattr(utils, "_artifact_repos_cache", {}).clear()


def _elsewhere(connection: sqlite3.Connection, runs: Path, here: str) -> list[str]:
    """Places of artifacts that provably lay beside the database when MLflow was told them, and now
    do not: files that MLflow knows there lie here; or, where there are no such files, neither there
    nor here, a study says that its runs folder was there. Those that can still be reached under
    another name stay, and so does any other place, whose folder may just not be mounted.

    Args:
        connection: MLflow's database.
        runs: The folder of the database, and of studies.
        here: Place of the artifacts beside it.
    """
    rows = connection.execute("SELECT DISTINCT artifact_location FROM experiments")
    places = [
        place
        for place in (str(location) for (location,) in rows)
        if place.startswith("file://") and place.endswith(f"/{ARTIFACTS}") and place != here
    ]
    former = _former_folders(runs) if places else set()
    found: list[str] = []
    for place in places:
        old = _path(place)
        if _same(old, _path(here)) or _same(old.parent, runs):
            continue
        known = _known_below(connection, place)
        if any((_path(here) / name).exists() for name in known) or (
            old.parent in former and not any((old / name).exists() for name in known)
        ):
            found.append(place)
    return found


def _known_below(connection: sqlite3.Connection, place: str) -> set[str]:
    """Names, relative to a place of artifacts, of all that MLflow says lies below it."""
    names: set[str] = set()
    for table, column in _PLACES:
        rows = connection.execute(
            f"SELECT DISTINCT {column} FROM {table} WHERE substr({column}, 1, ?) = ?",
            (len(place) + 1, f"{place}/"),
        )
        names.update(unquote(str(uri)[len(place) + 1 :]) for (uri,) in rows)
    return names - {""}


def _former_folders(runs: Path) -> set[Path]:
    """What this runs folder was called when its studies were started last."""
    folders: set[Path] = set()
    for file in runs.glob("*/study.json"):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            recorded = Path(json.loads(file.read_text(encoding="utf-8"))["runs"])
            folders |= {recorded, recorded.resolve()}
    return folders


def _same(one: Path, other: Path) -> bool:
    """Whether both are there, and the same folder."""
    with contextlib.suppress(OSError):
        return one.samefile(other)
    return False


def artifacts_folder(uri: str) -> Path | None:
    """The folder of this machine that an artifact location names; None for any other store."""
    return _path(uri) if uri.startswith("file://") else None


def _path(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))
