"""Where Optuna keeps a study: a journal file in the study's folder, SQLite or PostgreSQL."""

from __future__ import annotations

from pathlib import Path

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from fdan.errors import ConfigError

JOURNAL = "journal.log"


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """The storage at `url`, or the journal in `folder` (which is made) where there is none.

    One process writes a study, so the journal's lock is never waited for; the lock of a driver
    that was killed is taken over after its grace period of seconds.
    """
    if url is None:
        folder.mkdir(parents=True, exist_ok=True)
        path = str(folder / JOURNAL)
        return JournalStorage(
            JournalFileBackend(path, lock_obj=JournalFileSymlinkLock(path, grace_period=30))
        )
    check(url)
    try:
        return RDBStorage(
            url,
            engine_kwargs={"pool_pre_ping": True} if url.startswith("postgresql") else None,
            skip_compatibility_check=False,
            heartbeat_interval=None,  # the driver knows its trials, nobody else may end them
            grace_period=None,
            heartbeat_stale_trial_callback=None,
            skip_table_creation=False,
        )
    except ImportError as error:
        raise ConfigError(
            f"--storage {shown(url)}: {error}; for PostgreSQL: pip install 'fdan-search[postgres]'"
        ) from None
    except Exception as error:  # SQLAlchemy's and each driver's own hierarchies
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"--storage {shown(url)}: cannot be opened: {line}") from None


def check(url: str) -> None:
    """Refuse what Optuna's RDBStorage would take for something else."""
    if not url.startswith(("sqlite:///", "postgresql://", "postgresql+")):
        raise ConfigError(
            f"--storage {shown(url)}: expected sqlite:///FILE or "
            "postgresql://USER@HOST/DATABASE; without it, a journal in the study's folder"
        )


def shown(url: str) -> str:
    """The URL without its password."""
    head, at, tail = url.rpartition("@")
    scheme, slashes, user = head.partition("://")
    if not at or ":" not in user:
        return url
    return f"{scheme}{slashes}{user.split(':')[0]}:***@{tail}"
