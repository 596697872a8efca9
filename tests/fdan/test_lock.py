"""A lock is refused to a second process, and not by one that only looks whose it is."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from pathlib import Path

import pytest

from fdan.lock import Lock, LockHeld, lock_owner, wait_for_lock


def test_a_look_at_a_lock_does_not_keep_it_from_anybody(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text("99999999 0 dead\n")
    looking = os.open(path, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    threading.Timer(0.15, os.close, (looking,)).start()
    with Lock(path):
        found = lock_owner(path)
        assert found is not None and found.pid == os.getpid()
    assert lock_owner(path) is None


def test_a_second_one_is_refused_soon_and_told_by_whom(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with Lock(path):
        began = time.monotonic()
        with pytest.raises(LockHeld) as refused:
            Lock(path)
        assert time.monotonic() - began < 3
        assert refused.value.owner is not None and refused.value.owner.pid == os.getpid()
    Lock(path).close()


def test_one_is_waited_for(tmp_path: Path) -> None:
    path, waits = tmp_path / "lock", []
    held = Lock(path)

    def waiting() -> None:
        waits.append(1)
        held.close()

    with wait_for_lock(path, 60, waiting):
        assert waits == [1]
        with pytest.raises(LockHeld):
            wait_for_lock(path, 0)
