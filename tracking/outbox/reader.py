"""Reads the records of a spool, also while they are being written."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from tracking.outbox.spool import Spool
from tracking.record import Record, parse

log = logging.getLogger(__name__)


class Reader:
    """Reads a spool from a given record on, while it is being written."""

    def __init__(self, spool: Spool, after: int = 0, *, durable_only: bool = True) -> None:
        """Begin with the record numbered `after` + 1.

        Args:
            spool: Spool that this process writes.
            after: Number of the last record that is not wanted.
            durable_only: Whether to stop at what is on the disk for certain.
        """
        self._spool = spool
        self._durable_only = durable_only
        self.rewind(after)

    def rewind(self, after: int) -> None:
        """Continue with the record numbered `after` + 1."""
        self._number = after
        segments = self._spool.segments()
        self._path = [segments[0], *(path for path in segments if int(path.stem) <= after + 1)][-1]
        self._offset = 0

    def take(self, limit: int) -> list[Record]:
        """The next records, at most `limit`; [] while there are none."""
        end = self._spool.durable if self._durable_only else self._spool.last
        records: list[Record] = []
        while self._number < end and len(records) < limit:
            # Listed before reading: a segment with another after it does not grow any more.
            later = [path for path in self._spool.segments() if path > self._path]
            with self._path.open("rb") as lines:
                lines.seek(self._offset)
                for line in lines:
                    # What lies beyond the end is being written: a line of it can be a part of one.
                    if self._number >= end or len(records) == limit:
                        return records
                    record = parse(line)
                    if record is None and not line.endswith(b"\n"):
                        break
                    if record is not None and record.number > end:
                        return records
                    self._offset += len(line)
                    if record is None and self._durable_only:  # the sender, once
                        log.warning(
                            "%s: the line that ends at byte %d is spoilt and was passed over; "
                            "the records around it are whole",
                            self._path,
                            self._offset,
                        )
                    if record is not None and record.number > self._number:
                        records.append(record)
                        self._number = record.number
            if not later:
                break
            self._path, self._offset = later[0], 0
        return records


def read_records(spool: Spool, after: int = 0) -> Iterator[Record]:
    """All records up to the newest, in order.

    Args:
        spool: Spool that this process writes.
        after: Number of the last record that is not wanted.
    """
    reader = Reader(spool, after, durable_only=False)
    while batch := reader.take(1000):
        yield from batch
