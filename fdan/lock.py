"""A file that one process at a time holds. The kernel releases it when that process ends,
however it ends, so a dead process holds nothing."""

import contextlib
import fcntl
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

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
        self.owner = owner


class Lock(contextlib.AbstractContextManager["Lock"]):
    """Holds the file at `path` from its making to `close`, or to the end of a with block.

    The file itself stays: removing it would let two processes hold two files of one name. Raises
    LockHeld, and OSError where the file cannot be made, or the owner not written into it unless the
    lock may be `anonymous`.
    """

    def __init__(self, path: Path, *, anonymous: bool = False) -> None:
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        until = time.monotonic() + _PATIENCE_S
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
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


def lock_owner(path: Path) -> Owner | None:
    """Owner of the lock at `path`; None if it is free. Touches nothing."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(handle) or Owner(0, "an unknown host", time.time())
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
