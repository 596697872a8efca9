"""A file that one process at a time holds. The kernel releases it when that process ends,
however it ends, so a dead process holds nothing."""

import contextlib
import errno
import fcntl
import math
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fdan.errors import FdanError

_NO_LOCKS: Final = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)

_PATIENCE_S = 0.5  # asking for a lock's owner holds it for a moment, too


@dataclass(frozen=True)
class Owner:
    """Owner of a lock, as far as the file says."""

    pid: int
    host: str
    since: float  # seconds since 1970

    @property
    def on_this_host(self) -> bool:
        """Whether it is a process of this machine."""
        return self.host == socket.gethostname()

    def holds(self, path: Path) -> bool:
        """Whether a process of this machine still has the lock's file open: its number may belong
        to another process by now, or to another container's."""
        try:
            opened = list(Path(f"/proc/{self.pid}/fd").iterdir()) if self.on_this_host else []
        except OSError:
            return False
        for link in opened:
            with contextlib.suppress(OSError):
                if link.samefile(path):
                    return True
        return False

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host}, since {since}"


class LockHeld(Exception):  # noqa: N818
    """Somebody else holds the lock. `owner` is None in the moment before its name is written."""

    def __init__(self, path: Path, owner: Owner | None) -> None:
        super().__init__(f"{path} is held by {owner or 'another process'}")
        self.path = path
        self.owner = owner


class NoLocks(FdanError):  # noqa: N818
    """A file system has no locks."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(
            f"{path.parent}: its file system has no file locks ({error.strerror}), which keep two"
            " processes from writing there at once: choose a folder on another one, or have this"
            " one mounted with locks (NFS: lockd has to run; Lustre: option flock)"
        )


class Lock(contextlib.AbstractContextManager["Lock"]):
    """Holds the file at `path` from its making to `close`, or to the end of a with block.

    The file itself stays: removing it would let two processes hold two files of one name. Raises
    LockHeld, NoLocks, and OSError where the file cannot be made, or the owner not written into it
    unless the lock may be `anonymous`.
    """

    def __init__(self, path: Path, *, anonymous: bool = False) -> None:
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                pass
            except OSError as error:
                os.close(self._handle)
                raise NoLocks(path, error) if error.errno in _NO_LOCKS else error from None
            if time.monotonic() > until:
                owner = _read(self._handle)
                os.close(self._handle)
                raise LockHeld(path, owner)
            time.sleep(0.01)
        line = f"{os.getpid()} {time.time():.0f} {socket.gethostname()}\n"
        try:
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, line.encode(), 0)
            os.fsync(self._handle)  # others ask whose it is when this machine is gone
        except OSError:  # a full disk, say
            if not anonymous:
                os.close(self._handle)
                raise

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __exit__(self, *_: object) -> None:
        self.close()


def wait_for_lock(
    path: Path, timeout_s: float = math.inf, waiting: Callable[[], None] = lambda: None
) -> Lock:
    """The lock at `path`, once it is free.

    Args:
        path: The lock's file, which stays.
        timeout_s: Seconds to wait.
        waiting: Called about every half second while another process has it.

    Raises:
        LockHeld: Another process still has it after that time.
        NoLocks: The file system has no locks.
        OSError: The file cannot be made.
    """
    until = time.monotonic() + timeout_s
    while True:
        try:
            return Lock(path, anonymous=True)
        except LockHeld:
            if time.monotonic() > until:
                raise
        waiting()


def lock_owner(path: Path) -> Owner | None:
    """Owner of the lock at `path`; None if it is free. Touches nothing. Where the file system has
    no locks, the owner is the process of this machine that has the file open."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(handle) or Owner(0, "an unknown host", time.time())
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        owner = _read(handle)
        return owner if owner is not None and owner.holds(path) else None
    else:
        return None
    finally:
        os.close(handle)


def _read(handle: int) -> Owner | None:
    try:
        pid, since, host = os.pread(handle, 300, 0).decode().split()
        return Owner(int(pid), host, float(since))
    except ValueError:
        return None
