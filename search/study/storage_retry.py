"""Retrying what Optuna's storage did not take: a database server that is away is waited for."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy import event
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from fdan.errors import FdanError
from fdan.files import first_line
from fdan.machine.rights import denied, explain
from search.study.folder import JOURNAL_FILE
from tracking.uri import mask_password

_Result = TypeVar("_Result")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0


class StorageError(FdanError):
    """The storage cannot be read or written (any more)."""


@contextlib.contextmanager
def translate_storage_errors(url: str | None) -> Iterator[None]:
    """Inside, a storage that cannot be read or written is a StorageError, one line."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        raise StorageError(
            f"Optuna's storage {mask_password(url or JOURNAL_FILE)} failed:"
            f" {innermost_line(error)}: what it holds is whole; once it works, the same command"
            " continues the study"
        ) from None


@dataclass(eq=False)
class StorageRetry:
    """Waits for a database server that is away, as long as it takes. A file that cannot be written
    (a full disk, say) is a StorageError at once: that needs a person."""

    url: str | None  # URL of the storage; None for a journal
    notify: Callable[[str], None]  # shows the user when the server goes and comes
    stop_due: Callable[[], bool]  # its True ends the waiting. Each stage of a study has its own.
    _away_since: float | None = field(default=None, init=False)
    _pause: float = field(default=_FIRST_PAUSE_S, init=False)

    def wait_for_connections(self, study: optuna.Study) -> None:
        """Make calls that need a connection for this study wait until there is one. A call that
        loses its connection half-way still fails, unless made by `call` or `retry_call`."""
        _RETRIES[study._storage] = self
        backend = getattr(study._storage, "_backend", None)
        if is_server(self.url) and isinstance(backend, RDBStorage):
            event.listen(backend.engine, "do_connect", self._connect)

    def call(self, action: Callable[[], _Result]) -> _Result:
        """`action()`, again and again until the storage takes it. It may have taken an action whose
        answer was lost, so an action must bear being repeated."""
        while True:
            try:
                result = action()
            except OSError as error:
                reason, remedy = error.strerror or error, "free some space"
                if denied(error):
                    reason, remedy = explain(error, Path(JOURNAL_FILE)), "mend that"
                raise StorageError(
                    f"Optuna's journal cannot be written ({reason}): what it holds is whole;"
                    f" {remedy}, then the same command continues the study"
                ) from None
            except (SQLAlchemyError, StorageInternalError) as error:
                with translate_storage_errors(self.url):
                    if not (is_server(self.url) and _connection_lost(error)) or self.stop_due():
                        raise
                self._wait(error)
                continue
            self._available()
            return result

    def _connect(self, dialect: Dialect, record: object, places: Any, names: Any) -> object:
        """SQLAlchemy's way to a new connection."""
        waiting = self._away_since is not None  # in `call`, until its action is done
        while True:
            try:
                connection = dialect.connect(*places, **names)
            except dialect.loaded_dbapi.OperationalError as error:
                if self.stop_due():
                    raise
                self._wait(error)
                continue
            if not waiting:
                self._available()
            return connection

    def _wait(self, error: Exception) -> None:
        if self._away_since is None:
            self._away_since, self._pause = time.monotonic(), _FIRST_PAUSE_S
            self.notify(
                f"Optuna's storage {mask_password(self.url or '')} is away"
                f" ({innermost_line(error)}): the study waits for it, nothing is lost"
            )
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_S)

    def _available(self) -> None:
        if self._away_since is not None:
            took = time.monotonic() - self._away_since
            self.notify(f"Optuna's storage is back after {took:.0f} s")
            self._away_since = None


_RETRIES: WeakKeyDictionary[BaseStorage, StorageRetry] = WeakKeyDictionary()  # of open studies


def retry_call(storage: BaseStorage, action: Callable[[], _Result]) -> _Result:
    """Call an action on a storage, repeated by the storage's StorageRetry. Without one, while a
    study is opened, an error is raised at once.

    Args:
        storage: Storage of an open study.
        action: Call that may be repeated, see StorageRetry.call.
    """
    retry = _RETRIES.get(storage)
    return action() if retry is None else retry.call(action)


def is_server(url: str | None) -> bool:
    """Whether the storage is a database server, which may be away for a while."""
    return url is not None and url.startswith("postgresql")


def innermost_line(error: BaseException) -> str:
    """First line of the innermost cause, the error of the database driver."""
    original = getattr(error, "orig", None) or error.__cause__ or error
    return first_line(getattr(original, "orig", None) or original)


def _connection_lost(error: Exception) -> bool:
    """Whether the connection failed, not the statement."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DBAPIError):
            return cause.connection_invalidated or type(cause).__name__ in (
                "OperationalError",
                "InterfaceError",
            )
        cause = cause.__cause__ or cause.__context__
    return False
