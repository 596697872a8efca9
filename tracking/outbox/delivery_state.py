"""Delivery state of one server: the number of the last record it holds, and each run's id there.

    spool/sent.json      {"uri": ..., "sent": 1234}
    spool/runs.json      {"uri": ..., "runs": {"study": "3f...", "7": "a1..."}}
    spool/refused.jsonl  what the server rejected, one line each, with its reason

The JSON files are replaced whole, once for all the records that were sent together. State that is
lost, behind, or another server's costs time and nothing else: everything is sent again from the
first record, runs are found by their tags, and a metric that the server has already stays one. So a
full disk, which the state shares with the spool, does not keep records from being sent: what cannot
be written is remembered until the process ends.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path

from fdan.files import JsonLines, read_json_lines, write_atomic
from tracking.outbox.spool import FULL

log = logging.getLogger(__name__)


class DeliveryState:
    """State of the server at `uri` for the spool in a folder."""

    def __init__(self, folder: Path, uri: str, last: int) -> None:
        """Read what earlier processes have written.

        Args:
            folder: Folder of the spool.
            uri: URI of the server, without its password.
            last: Number of the spool's newest record; state that knows of later ones is another
                spool's.
        """
        self._folder = folder
        self._uri = uri
        sent, runs = self._load("sent"), self._load("runs")
        self._sent = sent if isinstance(sent, int) and 0 <= sent <= last else 0
        self._runs: dict[str, str] = runs if isinstance(runs, dict) else {}
        if not self._runs:
            self._sent = 0  # records without their runs: begin with the runs
        self._runs_saved = True
        self._refused: set[tuple[int, str]] = set()
        with contextlib.suppress(OSError):
            for entry in read_json_lines(folder / "refused.jsonl"):
                with contextlib.suppress(KeyError, TypeError):
                    if entry["uri"] == uri:
                        self._refused.add((entry["record"], entry["what"]))
        self._disk_full = False

    @property
    def sent(self) -> int:
        """The server has, or rejected, every record up to this number."""
        return self._sent

    @property
    def refused(self) -> int:
        """Number of things that this server rejected."""
        return len(self._refused)

    def was_refused(self, record: int, what: str) -> bool:
        """Whether this server rejected something before.

        Args:
            record: Number of its record.
            what: Part of the record.
        """
        return (record, what) in self._refused

    def run_id(self, run: str) -> str | None:
        return self._runs.get(run)

    def add_run(self, run: str, run_id: str) -> None:
        """Remember a run, written down by the next `advance`; until then a process that does not
        know the run looks it up by its tags.

        Args:
            run: Key of the run.
            run_id: Id of the run on the server.
        """
        self._runs[run] = run_id
        self._runs_saved = False

    def advance(self, number: int) -> None:
        """The server has every record up to this number."""
        self._sent = number
        self._runs_saved = self._runs_saved or self._save("runs", self._runs)
        self._save("sent", number)

    def forget(self) -> None:
        """The server has nothing any more: everything is to be sent again."""
        self._runs, self._sent = {}, 0

    def refuse(self, record: int, run: str, what: str, reason: str) -> bool:
        """Note that something is not sent again. False if it was noted before.

        Args:
            record: Number of its record.
            run: Key of its run.
            what: Part of the record.
            reason: The server's words.
        """
        if (record, what) in self._refused:
            return False
        with JsonLines(self._folder / "refused.jsonl") as file:
            file.append(
                {"record": record, "run": run, "what": what, "reason": reason, "uri": self._uri}
            )
            file.sync()
        self._refused.add((record, what))
        return True

    def _load(self, key: str) -> object:
        try:
            content = json.loads((self._folder / f"{key}.json").read_text())
        except (OSError, ValueError):
            return None
        own = isinstance(content, dict) and content.get("uri") == self._uri
        return content.get(key) if own else None

    def _save(self, key: str, value: int | Mapping[str, str]) -> bool:
        """Whether there was room for it."""
        content = json.dumps({"uri": self._uri, key: value})
        try:
            write_atomic(self._folder / f"{key}.json", content, sync=True)
        except OSError as error:
            if error.errno not in FULL:
                raise
            if not self._disk_full:
                log.warning(
                    "no room in %s to note what the tracking server has (%s): records are sent all "
                    "the same, and once more after a restart",
                    self._folder,
                    error.strerror,
                )
            self._disk_full = True
            return False
        self._disk_full = False
        return True
