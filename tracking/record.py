"""One record, one line: JSON with a sequence number, its own time and a checksum.

    {"n":12,"t":1790000000000,"k":"metrics","r":"7","d":{...},"crc":"89abcdef"}

The checksum covers every byte before it, so that a line that a crash tore or that a disk spoilt is
distinguished from a whole one. Any JSON reader reads the file.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import Any

RecordData = dict[str, Any]
"""Data of a kind of record: tracking/tracker.py lists the kinds and their keys."""

_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_MARK = b',"crc":"'
_TAIL = len(_MARK) + 8 + len(b'"}')


@dataclass(frozen=True)
class Record:
    """One event of a study."""

    number: int
    """1, 2, ... over the whole life of the spool."""
    time: int
    """Time of recording, not sending: ms since 1970."""
    kind: str
    run: str
    """The run's key: tracking/tags.py."""
    data: RecordData

    def line(self) -> bytes:
        """The record's line, newline included. Non-finite numbers have to be text: a bare NaN is
        not JSON."""
        body = _JSON.encode(
            {"n": self.number, "t": self.time, "k": self.kind, "r": self.run, "d": self.data}
        )
        head = body[:-1].encode("ascii")
        return b'%s%s%08x"}\n' % (head, _MARK, zlib.crc32(head))


def parse(line: bytes) -> Record | None:
    """The record of one line (newline included); None if the line is torn or spoilt.

    >>> parse(Record(1, 5, "close", "7", {}).line())
    Record(number=1, time=5, kind='close', run='7', data={})
    >>> parse(Record(1, 5, "close", "7", {}).line()[:-9]) is None
    True
    """
    if not line.endswith(b'"}\n') or line[-_TAIL - 1 : -11] != _MARK:
        return None
    head = line[: -_TAIL - 1]
    if b"%08x" % zlib.crc32(head) != line[-11:-3]:
        return None
    try:
        body = json.loads(head + b"}")
        return Record(body["n"], body["t"], body["k"], body["r"], body["d"])
    except (ValueError, KeyError):
        return None
