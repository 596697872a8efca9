"""Where Optuna keeps a study: a journal file in the study's folder, SQLite or PostgreSQL."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import time
from pathlib import Path

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import IntegrityError

from fdan.errors import ConfigError
from search.study.journal import JOURNAL_FILE, open_journal
from search.study.storage_retry import StorageError, innermost_line, is_server
from tracking.uri import mask_password

_RACE_PAUSE_S = 0.2
_MAX_OPENINGS = 20
"""Of a new database, by as many processes at once as may be: each opening that loses the race for a
table finds it the next time, and Optuna has fewer tables than this."""


class _RaceError(ConfigError):
    """Another process made a table of Optuna's between our look for it and our making it."""


def check_storage_url(url: str) -> None:
    """Refuse what Optuna's RDBStorage would take for something else."""
    if not url.startswith(("sqlite:///", "postgresql://", "postgresql+")):
        raise ConfigError(
            f"--storage {mask_password(url)}: expected sqlite:///FILE or "
            "postgresql://USER@HOST/DATABASE; without it, a journal in the study's folder"
        )


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """A study's storage, to be read and written. Called by the study's driver, the only one to
    write it.

    Args:
        url: Of a database; None for the journal.
        folder: The study's, in which the journal is.
    """
    return open_journal(folder) if url is None else _open_database(url, create_tables=True)


def open_storage_read_only(url: str | None, folder: Path) -> BaseStorage:
    """A study's storage, to be read: nothing is made where there is none.

    Args:
        url: Of a database; None for the journal.
        folder: The study's, in which the journal is.

    Raises:
        StorageError: There is none.
    """
    if url is None:
        path = folder / JOURNAL_FILE
        if not path.is_file():
            raise StorageError(f"{path}: no such file")
        return JournalStorage(JournalFileBackend(str(path)))
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).is_file():
        raise StorageError(f"{url}: no such file")
    return _open_database(url, create_tables=False)


def _open_database(url: str, *, create_tables: bool) -> RDBStorage:
    check_storage_url(url)
    for _ in range(_MAX_OPENINGS - 1):
        with contextlib.suppress(_RaceError):
            return _open_once(url, create_tables=create_tables)
        time.sleep(random.uniform(0, _RACE_PAUSE_S))
    return _open_once(url, create_tables=create_tables)


def _open_once(url: str, *, create_tables: bool) -> RDBStorage:
    try:
        return RDBStorage(
            # Named, since SQLAlchemy's own choice for PostgreSQL changes over its versions.
            url.replace("postgresql://", "postgresql+psycopg2://", 1),
            engine_kwargs={"pool_pre_ping": True} if is_server(url) else None,
            skip_compatibility_check=False,
            heartbeat_interval=None,  # the driver knows its trials, no other process may end them
            grace_period=None,
            heartbeat_stale_trial_callback=None,
            skip_table_creation=not create_tables,
        )
    except ImportError as error:
        raise ConfigError(
            f"--storage {mask_password(url)}: {error}; for PostgreSQL:"
            " pip install 'fdan-search[postgres]'"
        ) from None
    except Exception as error:  # SQLAlchemy's and each driver's own hierarchies
        kind = _RaceError if _lost_race(error) else ConfigError
        reason = innermost_line(error)
        raise kind(f"--storage {mask_password(url)}: cannot be opened: {reason}") from None


def _lost_race(error: Exception) -> bool:
    """Whether what was to be made is there already: a row, a table ("42P07" in PostgreSQL)."""
    original = getattr(error, "orig", None)
    return (
        isinstance(error, IntegrityError)
        or getattr(original, "pgcode", None) == "42P07"
        or (isinstance(original, sqlite3.Error) and "already exists" in str(original))
    )
