"""Where a spool's records go, and what has arrived: the number of the last record that the server
holds, and each run's id there.

    spool/target.json    {"uri": ..., "experiment": ...}; `python -m tracking flush` needs no more
    spool/sent.json      {"uri": ..., "sent": 1234}
    spool/runs.json      {"uri": ..., "runs": {"study": "3f...", "7": "a1..."}}
    spool/refused.jsonl  what the server rejected, one line each, with its reason

The URI of a database in the runs folder is relative to that folder, which may be moved. Sent and
runs are replaced whole, once for all the records that were sent together. State that is
lost, behind, or another server's costs time and nothing else: everything is sent again from the
first record, runs are found by their tags, and a metric that the server has already stays one. So a
full disk, which the state shares with the spool, does not keep records from being sent: what cannot
be written is remembered until the process ends.
"""

from __future__ import annotations

import contextlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fdan.errors import FdanError
from fdan.files import JsonLines, read_json_lines, write_atomic
from tracking.backend.moved import ARTIFACTS
from tracking.outbox.spool import FULL, Spool, segments
from tracking.record import Record, parse
from tracking.uri import located_uri, mask_password, portable_uri, sqlite_file

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """An MLflow server or database, and an experiment there."""

    uri: str
    experiment: str

    def save(self, spool: Path) -> None:
        """Note it in the spool's folder, without the password. Raises OSError."""
        path = spool / "target.json"
        text = json.dumps({**asdict(self), "uri": _portable(self.uri, spool)}) + "\n"
        if not (path.exists() and path.read_text() == text):
            write_atomic(path, text)

    @classmethod
    def load(cls, spool: Path) -> Target:
        """Raises FdanError if the folder is no spool."""
        path = spool / "target.json"
        try:
            content = json.loads(path.read_text())
            return cls(_located(str(content["uri"]), spool), str(content["experiment"]))
        except FileNotFoundError:
            raise FdanError(
                f"{spool} holds no tracking records (no {path.name} in it); give a study's folder, "
                "such as runs/demo, or its spool"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FdanError(f"{path} cannot be read ({error}); give --tracking-uri") from None

    def artifacts(self, spool: Path) -> Path:
        """Folder for artifacts if the target is a database: mlartifacts beside an SQLite file,
        else in the runs folder above <study>/spool. A server has its own."""
        file = sqlite_file(self.uri)
        runs = spool.resolve().parent.parent if file is None else file.parent
        return runs / ARTIFACTS


class DeliveryState:
    """State of the server at `uri`, which has no password in it, for a spool."""

    def __init__(self, spool: Spool, uri: str) -> None:
        self._folder = spool.folder
        self._uri = uri
        sent, runs = _load(spool.folder, "sent", uri), _load(spool.folder, "runs", uri)
        self.runs: dict[str, str] = runs if isinstance(runs, dict) else {}
        """Ids of the runs by their keys. `advance` writes down new ones; until then a process that
        does not know a run looks it up by its tags."""
        self._saved_runs = dict(self.runs)
        # State that knows of later records is another spool's. Records without their runs: begin
        # with the runs.
        credible = isinstance(sent, int) and 0 <= sent <= spool.last and self.runs
        self.sent: int = sent if credible else 0  # it has, or rejected, every record up to this
        self.refused: set[tuple[int, str]] = set()
        """(number of a record, part of it) of everything that this server rejected."""
        with contextlib.suppress(OSError):  # what it does not know of is sent again, and refused
            for entry in read_json_lines(self._folder / "refused.jsonl"):
                with contextlib.suppress(KeyError, TypeError):  # of another version
                    if _located(entry["uri"], self._folder) == uri:
                        self.refused.add((entry["record"], entry["what"]))
        self._disk_full = False

    def advance(self, number: int) -> None:
        """The server has every record up to this number."""
        self.sent = number
        if self.runs != self._saved_runs and self._save("runs", self.runs):
            self._saved_runs = dict(self.runs)
        self._save("sent", number)

    def refuse(self, record: Record, what: str, reason: str) -> None:
        """Note that something is not sent again, and log that once.

        Args:
            record: Its record.
            what: Part of the record.
            reason: The server's words.
        """
        if (record.number, what) in self.refused:
            return
        path = self._folder / "refused.jsonl"
        with JsonLines(path) as file:
            entry = {"record": record.number, "run": record.run, "what": what, "reason": reason}
            file.append({**entry, "uri": _portable(self._uri, self._folder)})
            file.sync()
        self.refused.add((record.number, what))
        log.warning(
            f"the tracking server refused {what} of run '{record.run}' and never will take it"
            f" ({reason}); it is noted in {path}"
        )

    def _save(self, key: str, value: int | dict[str, str]) -> bool:
        """Whether there was room for it."""
        content = json.dumps({"uri": _portable(self._uri, self._folder), key: value})
        try:
            write_atomic(self._folder / f"{key}.json", content, sync=True)
        except OSError as error:
            if error.errno not in FULL:
                raise
            if not self._disk_full:
                log.warning(
                    f"no room in {self._folder} to note what the tracking server has"
                    f" ({error.strerror}): records are sent all the same, and once more after a"
                    " restart"
                )
            self._disk_full = True
            return False
        self._disk_full = False
        return True


def _load(spool: Path, key: str, uri: str) -> Any:
    """A value of a state file; None if there is none, or it is another server's."""
    try:
        content = json.loads((spool / f"{key}.json").read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or _located(str(content.get("uri")), spool) != uri:
        return None
    return content.get(key)


def _portable(uri: str, spool: Path) -> str:
    """The URI as a spool's files hold it."""
    return mask_password(portable_uri(uri, spool.absolute().parent.parent))


def _located(portable: str, spool: Path) -> str:
    """The URI that a spool's file means."""
    return located_uri(portable, spool.absolute().parent.parent)


@dataclass(frozen=True)
class Backlog:
    """Record counts of a spool and its server, which has no password in its URI."""

    uri: str
    recorded: int
    unsent: int


def read_backlog(spool: Path) -> Backlog:
    """The backlog of a spool, read from outside while its owner writes, or after it died. Takes no
    lock and writes nothing. Raises FdanError if the folder is no spool."""
    uri = Target.load(spool).uri
    lines = (
        line
        for segment in reversed(segments(spool))
        for line in reversed(segment.read_bytes().splitlines(keepends=True))
    )
    recorded = next((record.number for line in lines if (record := parse(line))), 0)
    sent = _load(spool, "sent", uri)
    return Backlog(uri, recorded, max(0, recorded - (sent if isinstance(sent, int) else 0)))
