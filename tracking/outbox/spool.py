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

import contextlib
import errno
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fdan.errors import FdanError
from fdan.files import sync_path
from fdan.lock import Lock, LockHeld
from fdan.machine.rights import explain
from tracking.record import Record, RecordData, parse

log = logging.getLogger(__name__)

SYNC_EVERY: Final = 0.5
"""Seconds between two fsyncs at most, while there is something to sync. An fsync holds up the
writes beside it, so the driver pays for each one."""

SEGMENT_BYTES: Final = 4 << 20  # size from which on a new segment is begun

FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of a full disk or quota


class SpoolError(FdanError):
    """A spool that cannot be opened or written."""


class SpoolFull(SpoolError):  # noqa: N818
    """The disk (or quota) that holds the spool is full. What was written stays readable."""


class Spool:
    """A spool that this process writes. All methods may be called from any thread; records are
    numbered in the order of the calls."""

    def __init__(self, folder: Path) -> None:
        """Open the spool in a folder, or make it. SpoolError if another process has it open."""
        self.folder = folder
        self.last = 0  # number of the newest record, 0 for none
        self.durable = 0  # number of the newest one that is on the disk, not only with the kernel
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._sync_error: OSError | None = None
        self._size = 0
        self._handle = -1
        self._torn = False
        self._closed = False
        self._unsynced: set[Path] = set()
        with disk_errors(folder), contextlib.ExitStack() as undo:
            (folder / "files").mkdir(parents=True, exist_ok=True)
            try:
                self._lock_file = undo.enter_context(Lock(folder / "lock", anonymous=True))
            except LockHeld as held:
                raise SpoolError(
                    f"{folder} is being written by {held.owner or 'another process'}, which sends "
                    "its records itself: wait for it, or end it first"
                ) from None
            self._recover()
            undo.pop_all()
        self._syncer = threading.Thread(target=self._keep_syncing, name="spool-sync", daemon=True)
        self._syncer.start()

    def append(
        self, kind: str, run: str, data: RecordData, *, durable: bool = False, soon: bool = False
    ) -> Record:
        """Append a record with the current time. SpoolFull: the record is not in the spool.

        Args:
            kind: Kind of record.
            run: Key of the run that it happened to.
            data: Data of this kind.
            durable: Whether to wait for the disk (some ms), for what must outlive a power cut.
            soon: Whether to write it to the disk at once, without waiting for that.
        """
        with self._lock, disk_errors(self.folder):
            assert not self._closed, "append after close"
            sync_error, self._sync_error = self._sync_error, None
            if sync_error is not None:
                raise sync_error
            record = Record(self.last + 1, time.time_ns() // 1_000_000, kind, run, data)
            line = record.line()
            if self._size and self._size + len(line) > SEGMENT_BYTES:
                os.fsync(self._handle)
                full = self._handle
                self._start_segment(record.number)
                os.close(full)
            self._write(line)
            self._size += len(line)
            self.last = record.number
        if durable:
            # Without the kept files, which take several times as long: the syncer does those.
            with disk_errors(self.folder):
                self.sync(files=False)
        elif soon:
            self._wake.set()
        return record

    def records(self, after: int = 0) -> Iterator[Record]:
        """All records from number `after` + 1 up to the newest, in order."""
        reader = Reader(self, after, durable_only=False)
        while batch := reader.take(1000):
            yield from batch

    def sync(self, *, files: bool = True) -> None:
        """Have everything appended so far on the disk, and the kept `files`. Raises OSError."""
        with self._lock:
            number, handle, unsynced = self.last, os.dup(self._handle), tuple(self._unsynced)
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
                self.durable = max(self.durable, number)
                self._unsynced.difference_update(unsynced)

    def keep(self, file: Path) -> str:
        """Copy a file into the spool, to be sent whatever becomes of the original.

        Returns the copy's name for `kept` and `drop`. A record appended after it counts as durable
        only when the copy is on the disk, too. Raises SpoolFull, and SpoolError if the file cannot
        be read.
        """
        name = f"{self.last + 1}-{time.time_ns() % 1_000_000_000:09d}"
        copy = self.folder / "files" / name / file.name
        with disk_errors(self.folder):
            try:
                copy.parent.mkdir()
                shutil.copyfile(file, copy)
            except OSError as error:
                shutil.rmtree(copy.parent, ignore_errors=True)
                if error.errno in FULL or str(error.filename) != str(file):
                    raise
                reason = f"{error.strerror}; nothing was kept"
                raise SpoolError(f"artifact {file}: {reason}") from error
        with self._lock:
            self._unsynced.add(copy)
        return f"{name}/{file.name}"

    def kept(self, name: str) -> Path:
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
        """Sync and release the folder."""
        with contextlib.suppress(OSError):
            self.sync()
        with self._lock:
            self._closed = True
            os.close(self._handle)
        self._wake.set()
        self._syncer.join()
        self._lock_file.close()

    def _recover(self) -> None:
        paths = segments(self.folder)
        if not paths:
            self._start_segment(1)
            return
        path = paths[-1]
        self.last, self._size = int(path.stem) - 1, 0
        size = 0
        with path.open("rb") as lines:
            for line in lines:
                size += len(line)
                record = parse(line)
                if record is not None:
                    self.last, self._size = record.number, size
        self._handle = os.open(path, os.O_WRONLY | os.O_APPEND)
        if size > self._size:
            # Only the end can be torn: what follows the last whole record never counted.
            log.warning(
                f"{path}: dropped {size - self._size} bytes of a record that a crash left"
                f" unfinished; all {self.last} before it are whole"
            )
            os.ftruncate(self._handle, self._size)
        os.fsync(self._handle)
        self.durable = self.last

    def _start_segment(self, first: int) -> None:
        path = self.folder / f"{first:012d}.jsonl"
        self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self._size = os.fstat(self._handle).st_size
        sync_path(self.folder)

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
                if self.durable < self.last and not self._closed:
                    self.sync()
            except OSError as error:  # raised by the next append
                self._sync_error = error


class Reader:
    """Reads a spool from the record numbered `after` + 1 on, while this process writes it;
    durable_only: up to what is on the disk for certain."""

    def __init__(self, spool: Spool, after: int = 0, *, durable_only: bool = True) -> None:
        self._spool = spool
        self._durable_only = durable_only
        self._number = after
        first, *others = segments(spool.folder)
        self._path = [first, *(path for path in others if int(path.stem) <= after + 1)][-1]
        self._offset = 0

    def take(self, limit: int) -> list[Record]:
        """The next records, at most `limit`; [] while there are none."""
        end = self._spool.durable if self._durable_only else self._spool.last
        records: list[Record] = []
        while self._number < end and len(records) < limit:
            # Listed before reading: a segment with another after it does not grow any more.
            later = [path for path in segments(self._spool.folder) if path > self._path]
            with self._path.open("rb") as lines:
                lines.seek(self._offset)
                for line in lines:
                    # What lies beyond the end is being written: a line of it can be a part of one.
                    if self._number >= end or len(records) == limit:
                        return records
                    record = parse(line)
                    if record is None:
                        if not line.endswith(b"\n"):
                            break
                        if self._durable_only:  # the sender, once
                            end_of_line = self._offset + len(line)
                            log.warning(
                                f"{self._path}: the line that ends at byte {end_of_line} is spoilt"
                                " and was passed over; the records around it are whole"
                            )
                    elif record.number > end:
                        return records
                    elif record.number > self._number:
                        records.append(record)
                        self._number = record.number
                    self._offset += len(line)
            if not later:
                break
            self._path, self._offset = later[0], 0
        return records


def segments(folder: Path) -> list[Path]:
    """Paths of a spool's segments in order; the folder has other files of that ending, too."""
    return sorted(path for path in folder.glob("*.jsonl") if path.stem.isdecimal())


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError into the error that the user of the spool in a folder gets."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise SpoolFull(
                f"no room left for tracking records in {folder} ({error.strerror}): everything "
                "recorded so far is whole; free some space and run the same command again"
            ) from error
        raise SpoolError(f"cannot write tracking records in {explain(error, folder)}") from error
