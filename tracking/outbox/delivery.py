"""A window of records as calls to the server: runs opened and closed, batches, artifacts.

Delivering a window twice changes nothing on the server: a metric's row is (run, key, step,
timestamp, value), a parameter's or tag's is (run, key), and a run is looked up by its tags before
it is created. So after any failure the whole window is delivered again.
"""

import logging
from collections.abc import Callable, Mapping, Sequence

from tracking.backend.batching import Item, Kind, batches
from tracking.backend.server import Rejected, RunNotFound, Server
from tracking.outbox.delivery_state import DeliveryState
from tracking.outbox.spool import Spool
from tracking.record import Record
from tracking.tags import PARENT_RUN, STUDY_RUN

log = logging.getLogger(__name__)


class RunLost(Exception):  # noqa: N818
    """(run, reason): the server does not have this run any more: a new database, or a purge."""


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
            data = record.data
            match record.kind:
                case "open":
                    self._open(record)
                case "metrics":
                    self._add(record, "metric", data["values"], data["step"])
                case "tags":
                    self._add(record, "tag", data["tags"])
                case "close":
                    self._add(record, "tag", data["tags"])
                    self._flush(record.run)
                    status = data["status"]
                    set_status = self._server.set_status
                    self._call(record, f"status {status}", set_status, status, record.time)
                case "artifact":
                    self._send_file(record)
        for run in list(self._waiting):
            self._flush(run)

    def single_out(self, reason: str) -> bool:
        """Put aside the item at which a working server fails each time without rejecting its batch.
        False if the server itself is in trouble, or the fault is not in a batch."""
        if self._in_flight is None or not self._server.accepts(self._in_flight[0]):
            return False
        run_id, batch = self._in_flight
        while len(batch) > 1:
            half = batch[: len(batch) // 2]
            batch = batch[len(half) :] if self._server.accepts(run_id, half) else half
        if self._server.accepts(run_id, batch) or not self._server.accepts(run_id):
            return False
        self._put_all_aside(batch, reason)
        return True

    def _open(self, record: Record) -> None:
        run, data = record.run, record.data
        self._flush(run)
        run_id = self._state.runs.get(run)
        # The server may have a run whose id is not known: an earlier process may have created it
        # from an older record, or this one, and the answer was lost.
        if run_id is None and (record.number <= self._recorded_before or run in self._requested):
            run_id = self._server.find_run(data["identity"])
        if run_id is not None:
            self._state.runs[run] = run_id
            self._call(record, "status RUNNING", self._server.set_status, "RUNNING", None)
            self._add(record, "tag", data["tags"])
        else:
            tags = {**data["tags"], **data["identity"]}
            if run != STUDY_RUN and STUDY_RUN in self._state.runs:
                tags[PARENT_RUN] = self._state.runs[STUDY_RUN]
            self._requested.add(run)
            try:
                self._state.runs[run] = self._server.create_run(data["name"], record.time, tags)
            except Rejected as error:
                self.given_up.add(run)
                self._state.refuse(record, "the run", str(error))
                return
        self._add(record, "param", data["params"])

    def _add(
        self, record: Record, kind: Kind, values: Mapping[str, float | str], step: int = 0
    ) -> None:
        waiting = self._waiting.setdefault(record.run, [])
        refused = self._state.refused
        for key, value in values.items():
            item = Item(record, kind, key, value, step)
            if not (refused and (record.number, str(item)) in refused):
                waiting.append(item)

    def _send_file(self, record: Record) -> None:
        file = self._spool.kept(record.data["kept"])
        if self._spool.holds(record):
            what, folder = f"artifact {file.name}", record.data["folder"]
            self._call(record, what, self._server.send_file, file, folder)
        else:
            # Sent before; a server that needs it again after starting over cannot have it.
            log.info(f"artifact {file.name} of run {record.run} is not in the spool any more")

    def _call(
        self, record: Record, what: str, method: Callable[..., None], *arguments: object
    ) -> None:
        """One call that is about one record."""
        try:
            method(self._run_id(record.run), *arguments)
        except Rejected as error:
            self._state.refuse(record, what, str(error))
        except RunNotFound as error:
            self._check_given_up(record.run, error)
            self._state.refuse(record, what, str(error))

    def _flush(self, run: str) -> None:
        """Send the items that wait for a run."""
        items = self._waiting.pop(run, [])
        try:
            for batch in batches(items):
                self._send(self._run_id(run), batch)
        except RunNotFound as error:
            self._check_given_up(run, error)
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
        if run not in self._state.runs:
            raise RunNotFound(f"run '{run}' was never opened there")
        return self._state.runs[run]

    def _check_given_up(self, run: str, error: RunNotFound) -> None:
        if run not in self.given_up:
            raise RunLost(run, str(error)) from error

    def _put_all_aside(self, items: Sequence[Item], reason: str) -> None:
        for item in items:
            self._state.refuse(item.record, str(item), reason)
