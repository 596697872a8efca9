"""The backlog of a spool, read from outside while its owner writes, or after it died."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tracking.outbox.target import Target
from tracking.record import parse


@dataclass(frozen=True)
class Backlog:
    """Record counts of a spool and its server."""

    uri: str
    """URI of the server, without its password."""
    recorded: int
    sent: int

    @property
    def unsent(self) -> int:
        return self.recorded - self.sent


def read_backlog(spool: Path) -> Backlog:
    """Raises FdanError if the folder is no spool. Takes no lock and writes nothing."""
    uri = Target.load(spool).uri
    recorded = 0
    for segment in sorted(spool.glob("*.jsonl"), reverse=True):
        if segment.stem.isdecimal():
            lines = reversed(segment.read_bytes().splitlines(keepends=True))
            newest = next((record for line in lines if (record := parse(line))), None)
            if newest is not None:
                recorded = newest.number
                break
    try:
        content = json.loads((spool / "sent.json").read_text())
        sent = int(content["sent"]) if content["uri"] == uri else 0
    except (OSError, ValueError, KeyError, TypeError):
        sent = 0
    return Backlog(uri, recorded, min(sent, recorded))
