"""Where Optuna keeps a study: a journal file in the study's folder, SQLite or PostgreSQL."""

from __future__ import annotations

import contextlib
import json
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.storages.journal._file import LOCK_FILE_SUFFIX, get_lock_file
from optuna.storages.journal._storage import JournalOperation
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from fdan.errors import ConfigError, FdanError
from fdan.files import cut_torn_line, first_line
from tracking.uri import mask_password

JOURNAL = "journal.log"

_Result = TypeVar("_Result")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
_OPENINGS = 20
"""Of a new database, by as many processes at once as may be: each opening that loses the race for a
table finds it the next time, and Optuna has fewer tables than this."""


class StorageError(FdanError):
    """The storage cannot be read or written (any more)."""


class _RaceError(ConfigError):
    """Another process made a table of Optuna's between our look for it and our making it."""


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """The storage at `url`, or the journal in `folder` where there is none. Called by the study's
    driver, the only one to write it."""
    if url is None:
        path = folder / JOURNAL
        if path.exists():
            with path.open("rb+") as file:
                cut_torn_line(file.fileno())
        # So whoever held the journal's own lock is dead.
        path.with_name(path.name + LOCK_FILE_SUFFIX).unlink(missing_ok=True)
        lock = JournalFileSymlinkLock(str(path), grace_period=30)
        return JournalStorage(_Journal(str(path), lock_obj=lock))
    return _database(url, skip_table_creation=False)


def look_into(url: str | None, folder: Path) -> BaseStorage:
    """The storage, to be read only: nothing is made where there is none. Raises StorageError."""
    if url is None:
        path = folder / JOURNAL
        if not path.is_file():
            raise StorageError(f"{path}: no such file")
        return JournalStorage(JournalFileBackend(str(path)))
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).is_file():
        raise StorageError(f"{url}: no such file")
    return _database(url, skip_table_creation=True)


def _database(url: str, *, skip_table_creation: bool) -> RDBStorage:
    check(url)
    for _ in range(_OPENINGS - 1):
        with contextlib.suppress(_RaceError):
            return _opened(url, skip_table_creation=skip_table_creation)
        time.sleep(random.uniform(0, _FIRST_PAUSE_S))
    return _opened(url, skip_table_creation=skip_table_creation)


def _opened(url: str, *, skip_table_creation: bool) -> RDBStorage:
    try:
        return RDBStorage(
            # Named, since SQLAlchemy's own choice for PostgreSQL changes over its versions.
            url.replace("postgresql://", "postgresql+psycopg2://", 1),
            engine_kwargs={"pool_pre_ping": True} if _is_server(url) else None,
            skip_compatibility_check=False,
            heartbeat_interval=None,  # the driver knows its trials, nobody else may end them
            grace_period=None,
            heartbeat_stale_trial_callback=None,
            skip_table_creation=skip_table_creation,
        )
    except ImportError as error:
        raise ConfigError(
            f"--storage {mask_password(url)}: {error}; for PostgreSQL: "
            "pip install 'fdan-search[postgres]'"
        ) from None
    except Exception as error:  # SQLAlchemy's and each driver's own hierarchies
        kind = _RaceError if _lost_a_race(error) else ConfigError
        raise kind(f"--storage {mask_password(url)}: cannot be opened: {_line(error)}") from None


def check(url: str) -> None:
    """Refuse what Optuna's RDBStorage would take for something else."""
    if not url.startswith(("sqlite:///", "postgresql://", "postgresql+")):
        raise ConfigError(
            f"--storage {mask_password(url)}: expected sqlite:///FILE or "
            "postgresql://USER@HOST/DATABASE; without it, a journal in the study's folder"
        )


@contextlib.contextmanager
def failing_in_words(url: str | None) -> Iterator[None]:
    """Inside, a storage that cannot be read or written is a StorageError, one line."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        raise StorageError(
            f"Optuna's storage {mask_password(url or JOURNAL)} failed: {_line(error)}:"
            " what it holds is whole; once it works, the same command continues the study"
        ) from None


class Patience:
    """Waits for a database server that is away, as long as it takes. A file that cannot be written
    (a full disk, say) is a StorageError at once: that needs somebody."""

    def __init__(
        self, url: str | None, say: Callable[[str], None], due: Callable[[], bool]
    ) -> None:
        """say: is told when the server goes and comes; due: true ends the waiting."""
        self._url = url
        self._say = say
        self._due = due
        self._away_since: float | None = None
        self._pause = _FIRST_PAUSE_S

    def hold(self, opened: optuna.Study) -> None:
        """From here on whoever needs a connection for this study waits until there is one. What
        loses it half-way fails all the same, unless it comes by `call`."""
        backend = getattr(opened._storage, "_backend", None)
        if _is_server(self._url) and isinstance(backend, RDBStorage):
            event.listen(backend.engine, "do_connect", self._connect)

    def call(self, action: Callable[[], _Result]) -> _Result:
        """`action()`, again and again until the storage takes it. It may have taken an action whose
        answer was lost, so an action must bear being repeated."""
        while True:
            try:
                result = action()
            except OSError as error:
                raise StorageError(
                    f"Optuna's journal cannot be written ({error.strerror or error}): what it holds"
                    " is whole; free some space, then the same command continues the study"
                ) from None
            except (SQLAlchemyError, StorageInternalError) as error:
                with failing_in_words(self._url):
                    if not (_is_server(self._url) and _away(error)) or self._due():
                        raise
                self._wait(error)
                continue
            self._there()
            return result

    def _connect(self, dialect: Any, record: Any, places: Any, names: Any) -> Any:
        """SQLAlchemy's way to a new connection."""
        ours = self._away_since is None  # else it is `call` that waits, until its action is done
        while True:
            try:
                connection = dialect.connect(*places, **names)
            except dialect.loaded_dbapi.OperationalError as error:
                if self._due():
                    raise
                self._wait(error)
                continue
            if ours:
                self._there()
            return connection

    def _wait(self, error: Exception) -> None:
        if self._away_since is None:
            self._away_since, self._pause = time.monotonic(), _FIRST_PAUSE_S
            self._say(
                f"Optuna's storage {mask_password(self._url or '')} is away ({_line(error)}):"
                " the study waits for it, nothing is lost"
            )
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_S)

    def _there(self) -> None:
        if self._away_since is not None:
            self._say(f"Optuna's storage is back after {time.monotonic() - self._away_since:.0f} s")
            self._away_since = None


def _is_server(url: str | None) -> bool:
    return url is not None and url.startswith("postgresql")


def _away(error: Exception) -> bool:
    """Whether it is the connection that failed, not what was said over it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DBAPIError):
            return cause.connection_invalidated or type(cause).__name__ in (
                "OperationalError",
                "InterfaceError",
            )
        cause = cause.__cause__ or cause.__context__
    return False


def _lost_a_race(error: Exception) -> bool:
    """Whether what was to be made is there already: a row, a table ("42P07" in PostgreSQL)."""
    original = getattr(error, "orig", None)
    return (
        isinstance(error, IntegrityError)
        or getattr(original, "pgcode", None) == "42P07"
        or (isinstance(original, sqlite3.Error) and "already exists" in str(original))
    )


def _line(error: BaseException) -> str:
    """The first line of the innermost cause, which is the driver's own."""
    original = getattr(error, "orig", None) or error.__cause__ or error
    return first_line(getattr(original, "orig", None) or original)


_OFTEN = frozenset(
    (
        JournalOperation.SET_TRIAL_PARAM,
        JournalOperation.SET_TRIAL_INTERMEDIATE_VALUE,
        JournalOperation.SET_TRIAL_USER_ATTR,
        JournalOperation.SET_TRIAL_SYSTEM_ATTR,
    )
)
"""What is said of a trial under way. It is written at once, so that no killed process loses any;
the disk has it for certain with what begins or ends a trial: a power cut takes epochs of trials
under way, which are told again."""


class _Journal(JournalFileBackend):
    """Syncs where it counts: Optuna's own syncs each of a trial's twenty entries, which takes the
    driver of many short trials most of its time.

    A full disk may take a part of a line; a part in the middle of the journal would make all of it
    unreadable.
    """

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with get_lock_file(self._lock):
            size = Path(self._file_path).stat().st_size
            try:
                with Path(self._file_path).open("ab") as file:
                    file.write(text.encode())
                    file.flush()
                    if any(log["op_code"] not in _OFTEN for log in logs):
                        os.fsync(file.fileno())
            except OSError:
                os.truncate(self._file_path, size)
                raise
