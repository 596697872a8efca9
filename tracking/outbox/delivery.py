"""A window of records as calls to the server: runs opened and closed, batches, artifacts.

Delivering a window twice changes nothing on the server: a metric's row is (run, key, step,
timestamp, value), a parameter's or tag's is (run, key), and a run is looked up by its tags before
it is created. So after any failure the whole window is delivered again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from tracking.backend.batching import Item, batches
from tracking.backend.server import Rejected, RunNotFound, Server, ServerUnavailable
from tracking.outbox.delivery_state import DeliveryState
from tracking.outbox.spool import Spool
from tracking.record import Record
from tracking.tags import PARENT_RUN, STUDY_RUN

log = logging.getLogger(__name__)


class RunLost(Exception):  # noqa: N818
    """The server had this run and does not have it any more: a new database, or a purge."""

    def __init__(self, run: str, reason: str) -> None:
        super().__init__(reason)
        self.run = run


class Delivery:
    """Delivers windows of the spool's records to one server."""

    def __init__(self, spool: Spool, state: DeliveryState, server: Server) -> None:
        self._spool = spool
        self._state = state
        self._server = server
        self._waiting: dict[str, list[Item]] = {}
        self._in_flight: tuple[str, list[Item]] | None = None
        self._recorded_before = spool.last
        self._requested: set[str] = set()
        self.given_up: set[str] = set()
        """Runs whose loss is no reason to start over any more: their records are put aside."""

    def deliver(self, window: Sequence[Record]) -> None:
        """Raises ServerUnavailable, and RunLost for a run that is not in `given_up`."""
        self._waiting, self._in_flight = {}, None
        for record in window:
            match record.kind:
                case "open":
                    self._open(record)
                case "metrics":
                    self._add_metrics(record)
                case "tags":
                    self._add_tags(record)
                case "close":
                    self._add_tags(record)
                    self._flush(record.run)
                    self._close(record)
                case "artifact":
                    self._send_file(record)
        for run in list(self._waiting):
            self._flush(run)

    def single_out(self, reason: str) -> bool:
        """Put aside the item at which a working server fails each time without rejecting its batch.
        False if the server itself is in trouble, or the fault is not in a batch."""
        if self._in_flight is None or not self._server.writable(self._in_flight[0]):
            return False
        run_id, batch = self._in_flight
        while len(batch) > 1:
            half = batch[: len(batch) // 2]
            batch = batch[len(half) :] if self._accepts(run_id, half) else half
        if self._accepts(run_id, batch) or not self._server.writable(run_id):
            return False
        self._put_aside(batch[0].record, str(batch[0]), reason)
        return True

    def _accepts(self, run_id: str, batch: Sequence[Item]) -> bool:
        try:
            self._server.log(run_id, batch)
        except (ServerUnavailable, Rejected, RunNotFound):
            return False
        return True

    def _open(self, record: Record) -> None:
        self._flush(record.run)
        data = record.data
        known = self._state.run_id(record.run)
        run_id = known or (
            self._server.find_run(data["identity"]) if self._may_exist(record) else None
        )
        if run_id is not None:
            if known is None:
                self._state.add_run(record.run, run_id)
            self._call(record, "status RUNNING", self._server.reopen)
            self._add_tags(record)
        else:
            tags = {**data["tags"], **data["identity"]}
            parent = self._state.run_id(STUDY_RUN)
            if record.run != STUDY_RUN and parent is not None:
                tags[PARENT_RUN] = parent
            self._requested.add(record.run)
            try:
                run_id = self._server.create_run(data["name"], record.time, tags)
            except Rejected as error:
                self.given_up.add(record.run)
                self._put_aside(record, "the run", str(error))
                return
            self._state.add_run(record.run, run_id)
        for key, value in data["params"].items():
            self._add(Item(record, "param", key, value))

    def _may_exist(self, record: Record) -> bool:
        """Whether the server may have the run although its id is not known: an earlier process may
        have created it from an older record, or this one, and the answer was lost."""
        return record.number <= self._recorded_before or record.run in self._requested

    def _add_metrics(self, record: Record) -> None:
        step = record.data["step"]
        for key, value in record.data["values"].items():
            # Non-finite values are recorded as text, which float() reads.
            self._add(Item(record, "metric", key, float(value), step))

    def _add_tags(self, record: Record) -> None:
        tags: Mapping[str, str] = record.data["tags"]
        for key, value in tags.items():
            self._add(Item(record, "tag", key, value))

    def _add(self, item: Item) -> None:
        if not (self._state.refused and self._state.was_refused(item.record.number, str(item))):
            self._waiting.setdefault(item.record.run, []).append(item)

    def _close(self, record: Record) -> None:
        status = record.data["status"]
        self._call(
            record,
            f"status {status}",
            lambda run_id: self._server.finish(run_id, status, record.time),
        )

    def _send_file(self, record: Record) -> None:
        file, folder = self._spool.kept(record.data["kept"]), record.data["folder"]
        if not self._spool.holds(record):
            # Sent before; a server that needs it again after starting over cannot have it.
            log.info("artifact %s of run %s is not in the spool any more", file.name, record.run)
            return
        self._call(
            record,
            f"artifact {file.name}",
            lambda run_id: self._server.send_file(run_id, file, folder),
        )

    def _call(self, record: Record, what: str, call: Callable[[str], None]) -> None:
        """One call that is about one record."""
        try:
            call(self._run_id(record.run))
        except Rejected as error:
            self._put_aside(record, what, str(error))
        except RunNotFound as error:
            if record.run not in self.given_up:
                raise RunLost(record.run, str(error)) from error
            self._put_aside(record, what, str(error))

    def _flush(self, run: str) -> None:
        """Send the items that wait for a run."""
        items = self._waiting.pop(run, [])
        try:
            for batch in batches(items):
                self._send(self._run_id(run), batch)
        except RunNotFound as error:
            if run not in self.given_up:
                raise RunLost(run, str(error)) from error
            self._put_all_aside(items, str(error))

    def _send(self, run_id: str, batch: list[Item]) -> None:
        self._in_flight = (run_id, batch)
        try:
            self._server.log(run_id, batch)
        except Rejected as error:
            # One bad item must not cost the others: halve the batch until it stands alone.
            if self._server.deleted(run_id):
                self._put_all_aside(batch, "the run was deleted on the server")
            elif len(batch) == 1:
                self._put_all_aside(batch, str(error))
            else:
                half = len(batch) // 2
                self._send(run_id, batch[:half])
                self._send(run_id, batch[half:])
        self._in_flight = None

    def _run_id(self, run: str) -> str:
        run_id = self._state.run_id(run)
        if run_id is None:
            raise RunNotFound(f"run '{run}' was never opened there")
        return run_id

    def _put_all_aside(self, items: Sequence[Item], reason: str) -> None:
        for item in items:
            self._put_aside(item.record, str(item), reason)

    def _put_aside(self, record: Record, what: str, reason: str) -> None:
        if self._state.refuse(record.number, record.run, what, reason):
            log.warning(
                "the tracking server refused %s of run '%s' and never will take it (%s); "
                "it is noted in %s",
                what,
                record.run,
                reason,
                self._spool.folder / "refused.jsonl",
            )
