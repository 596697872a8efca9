"""The spool: an append-only log of records on local disk, written by one process.

    spool/000000000001.jsonl   segments, named by the number of their first record
    spool/files/12-curve.png   copies of artifacts that were not sent yet
    spool/lock                 held by the one process that writes here; a dead one holds none

What a crash can take:
- The process is killed, by whatever signal: nothing. `append` returns when the kernel has the
  line, and the kernel outlives us.
- The machine loses power: a record appended with `durable=True` (a study opened and closed) is on
  the disk when `append` returns. A trial's opening and closing is written there at once, an epoch
  within SYNC_EVERY seconds, and nobody waits for it: the last half second can be missing.
  Kept files are written before their records. The sender reads only what is on the disk, so the
  server never has a record that the spool does not have.
- A line that was torn by a crash is dropped at the next opening; it never counted.
- A full disk: the part of a line that was written is cut off again and SpoolFull is raised. All
  earlier records stay readable, and appending works again once there is room.

fdan.files.JsonLines does not fit: here a line is whole only if its checksum is right (a power cut
can leave zeros or parts of several lines), a log has many segments, and it is synced by a thread
that appending does not wait for.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import socket
import threading
import time
from pathlib import Path
from typing import Final

from fdan.errors import FdanError
from fdan.files import sync_path
from tracking.record import Record, RecordData, parse

log = logging.getLogger(__name__)

SYNC_EVERY: Final = 0.5
"""Seconds between two fsyncs at most, while there is something to sync. An fsync holds up the
writes beside it, so the driver pays for each one."""

SEGMENT_BYTES: Final = 4 << 20

FULL: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
"""A full disk's errors, a quota's included."""


class SpoolError(FdanError):
    """A spool that cannot be opened or written."""


class SpoolFull(SpoolError):  # noqa: N818
    """The disk (or quota) that holds the spool is full. What was written stays readable."""


class Spool:
    """A spool that this process writes. All methods may be called from any thread; records are
    numbered in the order of the calls."""

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Open the spool in a folder, or make it. SpoolError if another process has it open.

        Args:
            folder: Folder of the spool.
            segment_bytes: Size from which on a new segment is begun.
        """
        self.folder = folder
        self._segment_bytes = segment_bytes
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._sync_error: OSError | None = None
        self._last = self._durable = self._size = 0
        self._handle = -1
        self._torn = False
        self._closed = False
        self._unsynced: dict[Path, None] = {}
        try:
            (folder / "files").mkdir(parents=True, exist_ok=True)
            self._lock_file = _lock(folder / "lock")
            try:
                self._recover()
            except BaseException:
                os.close(self._lock_file)
                raise
        except OSError as error:
            raise write_error(folder, error) from error
        self._syncer = threading.Thread(target=self._keep_syncing, name="spool-sync", daemon=True)
        self._syncer.start()

    @property
    def last(self) -> int:
        """Number of the newest record, 0 for none."""
        return self._last

    @property
    def durable(self) -> int:
        """Number of the newest record that is on the disk, not only with the kernel."""
        return self._durable

    def append(
        self,
        kind: str,
        run: str,
        data: RecordData,
        *,
        durable: bool = False,
        soon: bool = False,
    ) -> Record:
        """Append a record with the current time.

        Args:
            kind: Kind of record.
            run: Key of the run that it happened to.
            data: Data of this kind.
            durable: Whether to wait for the disk (some ms), for what must outlive a power cut.
            soon: Whether to write it to the disk at once, without waiting for that.

        Raises:
            SpoolFull: The record is not in the spool.
        """
        with self._lock:
            assert not self._closed, "append after close"
            sync_error, self._sync_error = self._sync_error, None
            if sync_error is not None:
                raise write_error(self.folder, sync_error) from sync_error
            record = Record(self._last + 1, time.time_ns() // 1_000_000, kind, run, data)
            line = record.line()
            try:
                if self._size and self._size + len(line) > self._segment_bytes:
                    self._rotate()
                self._write(line)
            except OSError as error:
                raise write_error(self.folder, error) from error
            self._size += len(line)
            self._last = record.number
        if durable:
            try:
                # Without the kept files, which take several times as long: the syncer does those.
                self._sync(files=False)
            except OSError as error:
                raise write_error(self.folder, error) from error
        elif soon:
            self._wake.set()
        return record

    def sync(self) -> None:
        """Have everything kept and appended so far on the disk. Raises OSError."""
        self._sync(files=True)

    def _sync(self, *, files: bool) -> None:
        with self._lock:
            number, handle, unsynced = self._last, os.dup(self._handle), tuple(self._unsynced)
        try:
            # Outside the lock: appending goes on meanwhile.
            if unsynced and files:
                for copy in unsynced:
                    for path in (copy, copy.parent):
                        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                            sync_path(path)
                sync_path(self.folder / "files")
            os.fsync(handle)
        finally:
            os.close(handle)
        with self._lock:
            if files or not unsynced:
                self._durable = max(self._durable, number)
                for copy in unsynced:
                    self._unsynced.pop(copy, None)

    def segments(self) -> list[Path]:
        """Paths of the segments in order; the folder has other files of that ending, too."""
        return sorted(path for path in self.folder.glob("*.jsonl") if path.stem.isdecimal())

    def keep(self, file: Path) -> str:
        """Copy a file into the spool, to be sent whatever becomes of the original.

        Returns the copy's name for `kept` and `drop`. A record appended after it counts as durable
        only when the copy is on the disk, too. Raises SpoolFull, and SpoolError if the file cannot
        be read.
        """
        name = f"{self._last + 1}-{time.time_ns() % 1_000_000_000:09d}"
        folder = self.folder / "files" / name
        try:
            folder.mkdir()
            copy = folder / file.name
            shutil.copyfile(file, copy)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            if error.errno not in FULL and str(error.filename) == str(file):
                raise SpoolError(f"artifact {file}: {error.strerror}; nothing was kept") from error
            raise write_error(self.folder, error) from error
        with self._lock:
            self._unsynced[copy] = None
        return f"{name}/{file.name}"

    def kept(self, name: str) -> Path:
        """Path of a copy."""
        return self.folder / "files" / name

    def holds(self, artifact: Record) -> bool:
        """Whether the record's copy exists and is whole: a power cut may have left the record, but
        nothing or a part of the copy."""
        try:
            size = self.kept(artifact.data["kept"]).stat().st_size
        except FileNotFoundError:
            return False
        return bool(size == artifact.data.get("bytes", size))

    def drop(self, name: str) -> None:
        """Remove a kept copy that is no longer needed."""
        shutil.rmtree(self.kept(name).parent, ignore_errors=True)

    def drop_others(self, needed: set[str]) -> None:
        """Remove the copies that no unsent record needs: a crash between copying and recording, or
        between sending and dropping, left them."""
        for folder in (self.folder / "files").iterdir():
            if not any(name.startswith(folder.name + "/") for name in needed):
                shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Sync and release the folder. May be called twice."""
        if self._closed:
            return
        with contextlib.suppress(OSError):
            self.sync()
        with self._lock:
            self._closed = True
            os.close(self._handle)
        self._wake.set()
        self._syncer.join()
        os.close(self._lock_file)

    def _recover(self) -> None:
        segments = self.segments()
        if not segments:
            self._start_segment(1)
            return
        path = segments[-1]
        self._last, self._size = int(path.stem) - 1, 0
        size = 0
        with path.open("rb") as lines:
            for line in lines:
                size += len(line)
                record = parse(line)
                if record is not None:
                    self._last, self._size = record.number, size
        self._handle = os.open(path, os.O_WRONLY | os.O_APPEND)
        if size > self._size:
            # Only the end can be torn: what follows the last whole record never counted.
            log.warning(
                "%s: dropped %d bytes of a record that a crash left unfinished; all %d before it "
                "are whole",
                path,
                size - self._size,
                self._last,
            )
            os.ftruncate(self._handle, self._size)
        os.fsync(self._handle)
        self._durable = self._last

    def _start_segment(self, first: int) -> None:
        path = self.folder / f"{first:012d}.jsonl"
        self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._size = os.fstat(self._handle).st_size
        sync_path(self.folder)

    def _rotate(self) -> None:
        os.fsync(self._handle)
        full = self._handle
        self._start_segment(self._last + 1)
        os.close(full)

    def _write(self, line: bytes) -> None:
        try:
            if self._torn:
                os.ftruncate(self._handle, self._size)
                self._torn = False
            written = 0
            while written < len(line):  # a nearly full disk takes a part first, then refuses
                written += os.write(self._handle, line[written:])
        except OSError:
            self._torn = True  # in case cutting fails as well
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, self._size)
            raise

    def _keep_syncing(self) -> None:
        # Looking twice a second costs `append` less than waking this thread each time.
        while not self._closed:
            self._wake.wait(SYNC_EVERY)
            self._wake.clear()
            try:
                if self._durable < self._last and not self._closed:
                    self.sync()
            except OSError as error:  # raised by the next append
                if not self._closed:
                    self._sync_error = error


def _lock(path: Path) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(handle, 200).decode("utf-8", "replace").strip() or "(unknown)"
        os.close(handle)
        raise SpoolError(
            f"{path.parent} is being written by process {owner}, which sends its records itself: "
            "wait for it, or end it first"
        ) from None
    with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return handle


def write_error(folder: Path, error: OSError) -> SpoolError:
    """The error that a spool's user gets for one of the disk.

    Args:
        folder: Folder of the spool.
        error: Error of the disk.
    """
    if error.errno in FULL:
        return SpoolFull(
            f"no room left for tracking records in {folder} ({error.strerror}): everything "
            "recorded so far is whole; free some space and run the same command again"
        )
    return SpoolError(f"cannot write tracking records in {folder}: {error.strerror or error}")
