"""The ledger: what one server has of a spool. The number of the last record it holds and the id
of each run on it.

    spool/sent.json      {"uri": ..., "sent": 1234}
    spool/runs.json      {"uri": ..., "runs": {"study": "3f...", "7": "a1..."}}
    spool/refused.jsonl  what the server would not take, one line each, with its reason

Both JSON files are replaced whole, once for all the records that were sent together. A ledger that
is lost, behind, or another server's costs time and nothing else: everything is sent again from the
first record, runs are found by their tags, and a metric that the server has already stays one. So a
full disk, which the ledger shares with the spool, does not keep records from being sent: what
cannot be noted is known until the process ends.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from tracking.outbox.spool import FULL

log = logging.getLogger(__name__)


class DeliveryState:
    """The ledger of the server at `uri` (without its password), beside the spool in `folder`."""

    def __init__(self, folder: Path, uri: str, last: int) -> None:
        """last: the spool's newest record; a ledger that knows of later ones is another spool's."""
        self._folder = folder
        self._uri = uri
        position = self._load("sent.json").get("sent", 0)
        runs = self._load("runs.json").get("runs", {})
        self._sent: int = position if isinstance(position, int) and 0 <= position <= last else 0
        self._runs: dict[str, str] = runs if isinstance(runs, dict) else {}
        if not self._runs:
            self._sent = 0  # records without their runs: begin with the runs
        self._runs_noted = True
        self._refused: set[tuple[int, str]] = set()
        with contextlib.suppress(OSError):
            for line in (folder / "refused.jsonl").read_text().splitlines():
                with contextlib.suppress(ValueError, KeyError):
                    entry = json.loads(line)
                    if entry["uri"] == uri:
                        self._refused.add((entry["record"], entry["what"]))
        self._no_room = False

    @property
    def sent(self) -> int:
        """Every record up to this number is with the server, or was refused by it."""
        return self._sent

    @property
    def refused(self) -> int:
        """How many things this server refused."""
        return len(self._refused)

    def was_refused(self, record: int, what: str) -> bool:
        return (record, what) in self._refused

    def run_id(self, run: str) -> str | None:
        return self._runs.get(run)

    def add_run(self, run: str, run_id: str) -> None:
        """Noted by the next `advance`: until then a run that is not known is looked up by its
        tags."""
        self._runs[run] = run_id
        self._runs_noted = False

    def advance(self, number: int) -> None:
        self._sent = number
        if not self._runs_noted:
            self._runs_noted = self._note("runs.json", {"uri": self._uri, "runs": self._runs})
        self._note("sent.json", {"uri": self._uri, "sent": number})

    def forget(self) -> None:
        """The server has none of it any more: everything is to be sent again."""
        self._runs, self._sent = {}, 0

    def refuse(self, record: int, run: str, what: str, reason: str) -> bool:
        """Put something aside for good. False when it was there already."""
        if (record, what) in self._refused:
            return False
        entry = {"record": record, "run": run, "what": what, "reason": reason, "uri": self._uri}
        with (self._folder / "refused.jsonl").open("ab") as file:
            end = file.tell()
            try:
                file.write(json.dumps(entry).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), end)  # no half a line on a full disk
                raise
        self._refused.add((record, what))
        return True

    def _load(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads((self._folder / name).read_text())
        except (OSError, ValueError):
            return {}
        mine = isinstance(content, dict) and content.get("uri") == self._uri
        return content if mine else {}

    def _note(self, name: str, content: dict[str, Any]) -> bool:
        """Whether there was room for it."""
        try:
            _replace(self._folder / name, content)
        except OSError as error:
            if error.errno not in FULL:
                raise
            if not self._no_room:
                log.warning(
                    "no room in %s to note what the tracking server has (%s): records are sent all "
                    "the same, and once more after a restart",
                    self._folder,
                    error.strerror,
                )
            self._no_room = True
            return False
        self._no_room = False
        return True


def _replace(path: Path, content: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    try:
        with part.open("w") as file:
            file.write(json.dumps(content))  # at once; json.dump encodes in Python
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        part.unlink(missing_ok=True)
        raise
    part.replace(path)
