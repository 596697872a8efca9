"""One record, one line: JSON with a sequence number, its own time and a checksum.

    {"n":12,"t":1790000000000,"k":"metrics","r":"7","d":{...},"crc":"89abcdef"}

The checksum covers every byte before it, so that a line that a crash tore or that a disk spoilt is
distinguished from a whole one. Any JSON reader reads the file.
"""

import json
import re
import zlib
from dataclasses import dataclass
from typing import Any

RecordData = dict[str, Any]
"""Data of a kind of record: tracking/tracker.py lists the kinds and their keys."""

_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_LINE = re.compile(rb'(.*),"crc":"([0-9a-f]{8})"}\n')


@dataclass(frozen=True)
class Record:
    """One event of a study."""

    number: int  # 1, 2, ... over the whole life of the spool
    time: int  # of recording, not sending: ms since 1970
    kind: str
    run: str  # the run's key: tracking/tags.py
    data: RecordData

    def line(self) -> bytes:
        """The record's line, newline included. Non-finite numbers have to be text: a bare NaN is
        not JSON."""
        body = _JSON.encode(
            {"n": self.number, "t": self.time, "k": self.kind, "r": self.run, "d": self.data}
        )
        head = body[:-1].encode("ascii")
        return b'%s,"crc":"%08x"}\n' % (head, zlib.crc32(head))


def parse(line: bytes) -> Record | None:
    """The record of one line (newline included); None if the line is torn or spoilt."""
    match = _LINE.fullmatch(line)
    if match is None or b"%08x" % zlib.crc32(match[1]) != match[2]:
        return None
    try:
        body = json.loads(match[1] + b"}")
    except ValueError:
        return None
    return Record(body["n"], body["t"], body["k"], body["r"], body["d"])
