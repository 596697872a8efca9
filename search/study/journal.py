"""Optuna's journal file in a study's folder, where no --storage is given."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.storages.journal._file import LOCK_FILE_SUFFIX, get_lock_file
from optuna.storages.journal._storage import JournalOperation

from fdan.files import cut_torn_line

JOURNAL_FILE = "journal.log"

_LOCK_GRACE_S = 30

_UNSYNCED = frozenset(
    (
        JournalOperation.SET_TRIAL_PARAM,
        JournalOperation.SET_TRIAL_INTERMEDIATE_VALUE,
        JournalOperation.SET_TRIAL_USER_ATTR,
        JournalOperation.SET_TRIAL_SYSTEM_ATTR,
    )
)
"""What is recorded of a running trial. It is written at once, so that no killed process loses any;
the disk has it for certain with what begins or ends a trial: a power cut takes epochs of running
trials, which are reported again."""


def open_journal(folder: Path) -> JournalStorage:
    """The journal in a study's folder. Called by the study's driver, the only one to write it."""
    path = folder / JOURNAL_FILE
    if path.exists():
        with path.open("rb+") as file:
            cut_torn_line(file.fileno())
    # There is one driver at a time, so the process that held the journal's own lock is dead.
    path.with_name(path.name + LOCK_FILE_SUFFIX).unlink(missing_ok=True)
    lock = JournalFileSymlinkLock(str(path), grace_period=_LOCK_GRACE_S)
    return JournalStorage(_Journal(str(path), lock_obj=lock))


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
                    if any(log["op_code"] not in _UNSYNCED for log in logs):
                        os.fsync(file.fileno())
            except OSError:
                os.truncate(self._file_path, size)
                raise
