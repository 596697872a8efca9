"""Opens Optuna's storage: a journal in the study's folder, SQLite or PostgreSQL. A study is written
only by search/study/writer.py."""

import contextlib
import json
import os
import random
import sqlite3
import time
from pathlib import Path

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.storages.journal._file import LOCK_FILE_SUFFIX, get_lock_file
from optuna.storages.journal._storage import JournalOperation
from sqlalchemy.exc import IntegrityError

from fdan.errors import ConfigError
from fdan.files import cut_torn_line
from fdan.machine.libraries import why_not_loaded
from fdan.machine.rights import why_unwritable
from search.study.folder import JOURNAL_FILE
from search.study.storage_retry import StorageError, innermost_line, is_server
from tracking.uri import absolute_uri, mask_password, sqlite_file

_RACE_PAUSE_S = 0.2
_MAX_OPENINGS = 20
"""Attempts to open a new database while other processes do: an opening that loses the race for a
table finds it the next time, and Optuna has fewer tables than this."""

_LOCK_GRACE_S = 30

_UNSYNCED = frozenset(
    (
        JournalOperation.SET_TRIAL_PARAM,
        JournalOperation.SET_TRIAL_INTERMEDIATE_VALUE,
        JournalOperation.SET_TRIAL_USER_ATTR,
        JournalOperation.SET_TRIAL_SYSTEM_ATTR,
    )
)
"""Entries of a running trial. They are written at once, so that a killed process loses none, but
synced only when a trial begins or ends: a power cut loses epochs, which are reported again."""


def check_storage_url(url: str) -> None:
    """Refuse URLs that Optuna's RDBStorage would misread."""
    if not url.startswith(("sqlite:///", "sqlite+pysqlite:///", "postgresql://", "postgresql+")):
        raise ConfigError(
            f"--storage {mask_password(url)}: expected sqlite:///FILE or "
            "postgresql://USER@HOST/DATABASE; without it, a journal in the study's folder"
        )


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """Open a study's storage for writing. Only the study's driver does this.

    Args:
        url: URL of a database; None for the journal.
        folder: Folder of the study, with the journal.
    """
    if url is not None:
        return _open_database(url, create_tables=True)
    path = folder / JOURNAL_FILE
    if path.exists():
        with path.open("rb+") as file:
            cut_torn_line(file.fileno())
    # There is one driver at a time, so the process that held the journal's own lock is dead.
    path.with_name(path.name + LOCK_FILE_SUFFIX).unlink(missing_ok=True)
    lock = JournalFileSymlinkLock(str(path), grace_period=_LOCK_GRACE_S)
    return JournalStorage(_Journal(str(path), lock_obj=lock))


def open_storage_read_only(url: str | None, folder: Path) -> BaseStorage:
    """Open a study's storage for reading; creates nothing.

    Args:
        url: URL of a database; None for the journal.
        folder: Folder of the study, with the journal.

    Raises:
        StorageError: The storage does not exist.
    """
    if url is None:
        path = folder / JOURNAL_FILE
        if not path.is_file():
            raise StorageError(f"{path}: no such file")
        return JournalStorage(JournalFileBackend(str(path)))
    if (file := sqlite_file(url)) is not None and not file.is_file():
        raise StorageError(f"{url}: no such file")
    return _open_database(url, create_tables=False)


class _Journal(JournalFileBackend):
    """Syncs only when a trial begins or ends: Optuna's backend syncs each of a trial's twenty
    entries, which takes most of the driver's time where trials are short.

    Removes a line that a full disk cut off: in the middle of the journal, it would make all of it
    unreadable.
    """

    def append_logs(self, logs: list[dict[str, object]]) -> None:
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with get_lock_file(self._lock):
            size = Path(self._file_path).stat().st_size
            try:
                with Path(self._file_path).open("ab") as file:
                    file.write(text.encode())
                    file.flush()
                    if any(log["op_code"] not in _UNSYNCED for log in logs):
                        os.fsync(file.fileno())
            except OSError:
                os.truncate(self._file_path, size)
                raise


def _open_database(url: str, *, create_tables: bool) -> RDBStorage:
    check_storage_url(url)
    place = f"--storage {mask_password(url)}"
    if create_tables and (file := sqlite_file(url)) is not None and file.parent.is_dir():
        with contextlib.suppress(PermissionError):
            file.touch()  # SQLite's own are for their owner alone to write
        if why := why_unwritable(file):
            raise ConfigError(f"{place}: {why}")
    for openings_left in reversed(range(_MAX_OPENINGS)):
        try:
            return RDBStorage(
                # Named, since SQLAlchemy's default for PostgreSQL changes between versions.
                absolute_uri(url).replace("postgresql://", "postgresql+psycopg2://", 1),
                engine_kwargs={"pool_pre_ping": True} if is_server(url) else None,
                skip_compatibility_check=False,
                heartbeat_interval=None,  # the driver knows its trials: no other may end them
                grace_period=None,
                heartbeat_stale_trial_callback=None,
                skip_table_creation=not create_tables,
            )
        except ImportError as error:
            raise ConfigError(f"{place} {why_not_loaded('psycopg2', error)}") from None
        except Exception as error:  # of SQLAlchemy and each database driver
            if not openings_left or not _lost_race(error):
                reason = innermost_line(error)
                raise ConfigError(f"{place}: cannot be opened: {reason}") from None
        time.sleep(random.uniform(0, _RACE_PAUSE_S))
    raise AssertionError("the last opening returns or raises")


def _lost_race(error: Exception) -> bool:
    """Whether another process created the row or table at the same time (in PostgreSQL "42P07", or
    "42710" for the type that every table has)."""
    original = getattr(error, "orig", None)
    return (
        isinstance(error, IntegrityError)
        or getattr(original, "pgcode", None) in ("42P07", "42710")
        or (isinstance(original, sqlite3.Error) and "already exists" in str(original))
    )
