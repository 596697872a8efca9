"""The driver's way to MLflow. Every call appends to the spool and returns; the sender does the
rest. A study is a parent run, a trial a child run.

Only one process, the driver, has a Tracker for a spool. After a crash a new Tracker on the same
folder goes on exactly where the last one was: it knows which runs are open, what they were
opened with and which epochs they have, and it records none of that twice.

Trials come in stages: those of the search, and runs that confirm what it found. Each stage counts
its own from 0.

Records (record.py gives the envelope; the run is "study", a trial's number in the search,
or "confirm-" and a number):

    begin     study_id
    open      name, identity (the tags by which the run is found again), tags, params
    metrics   step, values (name -> number, or "nan", "inf", "-inf")
    tags      tags
    artifact  kept (name of the copy in the spool), bytes (its size), folder
    close     status (FINISHED, KILLED, FAILED), tags
"""

from __future__ import annotations

import getpass
import math
import os
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tracking.backend import limits
from tracking.backend.server import Server
from tracking.outbox.delivery_state import DeliveryState
from tracking.outbox.sender import Sender
from tracking.outbox.spool import Spool, write_error
from tracking.outbox.target import Target
from tracking.record import Record
from tracking.tags import (
    CHANGED_PREFIX,
    NOTE,
    REASON,
    SEARCH,
    SOURCE_NAME,
    SOURCE_TYPE,
    STAGE,
    STATE,
    STUDY,
    STUDY_ID,
    STUDY_RUN,
    USER,
    VALUE,
    identity,
    run_key,
    run_name,
)
from tracking.uri import check_uri, mask_password

# MLflow has no word for a run that was stopped because others promise more, nor for one that rests
# until its study goes on: KILLED is the one that is neither a success nor a fault.
_STATUS: Final = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "PAUSED": "KILLED", "FAIL": "FAILED"}


class Tracker:
    """Records a study; a thread of its own sends it to `uri`.

    spool: folder of the records, usually <runs>/<study>/spool; uri: an MLflow server
    (http://HOST:PORT) or database (sqlite:////path/mlflow.db, postgresql://...); experiment:
    MLflow's name for what holds the studies' runs.

    Raises FdanError for a URI that can never work, SpoolError if another process writes this
    spool. A server that is away is no error. Every recording call can raise SpoolFull.
    """

    def __init__(self, spool: Path, uri: str, experiment: str) -> None:
        check_uri(uri)
        self._spool = Spool(spool)
        try:
            self._read_back()
            target = Target(uri, experiment)
            try:
                target.save(spool)
            except OSError as error:
                raise write_error(spool, error) from error
            self._ledger = DeliveryState(spool, mask_password(uri), self._spool.last)
            self._tidy()
            self._server = Server(uri, experiment, target.artifacts(spool))
            self._sender = Sender(self._spool, self._ledger, self._server)
        except BaseException:
            self._spool.close()
            raise
        self._sender.start()

    # The study

    def open_study(
        self,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, Any],
        note: str = "",
    ) -> None:
        """Open the parent run, or open it again. note: Markdown, shown as its description."""
        self._name = name
        extra = {NOTE: note} if note else {}
        self._open(STUDY_RUN, name, params, {STAGE: STUDY_RUN, **tags, **extra})

    def log_study_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics of the parent, e.g. the best value after `step` trials."""
        self._metrics(STUDY_RUN, step, metrics)

    def close_study(self, state: str, reason: str) -> None:
        """state: COMPLETE, PAUSED or FAIL; reason: one sentence."""
        self._close(STUDY_RUN, state, reason, {})

    # Its trials

    def open_trial(
        self,
        number: int,
        params: Mapping[str, Any],
        tags: Mapping[str, Any],
        stage: str = SEARCH,
    ) -> None:
        """Open a trial's run; after a crash, or for a trial that goes on, the same run again."""
        name = run_name(number, stage)
        self._open(run_key(number, stage), name, params, {STAGE: stage, **tags})

    def log_epoch(
        self, number: int, epoch: int, metrics: Mapping[str, float], stage: str = SEARCH
    ) -> None:
        """An epoch's metrics. One that was recorded before is passed over: a trial that goes on
        from a checkpoint may come by the last epoch once more, and the first account stands."""
        self._metrics(run_key(number, stage), epoch, metrics)

    def close_trial(
        self,
        number: int,
        state: str,
        reason: str,
        tags: Mapping[str, Any] | None = None,
        stage: str = SEARCH,
    ) -> None:
        """state: COMPLETE, PRUNED, FAIL, or PAUSED for one that will be opened again; reason: one
        sentence. Closing twice is closing once."""
        self._close(run_key(number, stage), state, reason, tags or {})

    def set_tags(self, number: int | None, tags: Mapping[str, Any], stage: str = SEARCH) -> None:
        """Tags of a trial's run, or of the parent's (None), open or closed."""
        self._append("tags", run_key(number, stage), {"tags": _texts(tags, limits.TAG)})

    def log_artifact(
        self, number: int | None, file: Path, folder: str = "", stage: str = SEARCH
    ) -> None:
        """Send a file with a trial's run, or with the parent's (None), into `folder` there. The
        file is copied first and may go at once. Raises SpoolError if it cannot be read."""
        kept = self._spool.keep(file)
        size = self._spool.kept(kept).stat().st_size
        data = {"kept": kept, "bytes": size, "folder": folder}
        self._append("artifact", run_key(number, stage), data)

    # What is known

    @property
    def study_id(self) -> str:
        """Made once for a spool: two studies of one name stay two on a shared server."""
        return self._study_id

    def open_trials(self, stage: str = SEARCH) -> set[int]:
        """Trials that were opened and not closed, by this or an earlier process."""
        start = run_key(0, stage).removesuffix("0")
        numbers = (run.removeprefix(start) for run in self._open_runs if run.startswith(start))
        return {int(number) for number in numbers if number.isdecimal()}

    def files(self, number: int | None, stage: str = SEARCH) -> set[str]:
        """Names of the artifacts that were recorded for a trial's run, or the parent's (None)."""
        return self._files.get(run_key(number, stage), set())

    def tag(self, number: int | None, name: str, stage: str = SEARCH) -> str:
        """A tag as `set_tags` recorded it last; empty where it did not."""
        return self._tags.get(run_key(number, stage), {}).get(name, "")

    def history(self, number: int) -> list[tuple[int, dict[str, float]]]:
        """(epoch, metrics) of all recorded epochs of a trial, in order; read from the disk."""
        found: dict[int, dict[str, float]] = {}
        for record in self._spool.records():
            if record.kind == "metrics" and record.run == str(number):
                values = {key: float(value) for key, value in record.data["values"].items()}
                found.setdefault(record.data["step"], {}).update(values)
        return sorted(found.items())

    @property
    def unsent(self) -> int:
        """Records that wait for the server."""
        return self._spool.last - self._ledger.sent

    @property
    def refused(self) -> int:
        """Things that the server would not take; they are in <spool>/refused.jsonl."""
        return self._ledger.refused

    @property
    def unavailable_since(self) -> float | None:
        """Seconds since 1970 when the server was found away; None while it is there."""
        return self._sender.unavailable_since

    @property
    def unavailable_reason(self) -> str:
        return self._sender.reason

    @property
    def page(self) -> str | None:
        """Path of the experiment's page in the UI; None until the server was first reached."""
        return self._server.page

    def drain(self, timeout: float) -> bool:
        """Wait until everything recorded so far is with the server; False after `timeout` s."""
        return self._sender.drain(timeout)

    def close(self) -> None:
        """Stop sending and let go of the spool. What is not sent waits there for the next
        Tracker or for `python -m tracking flush`."""
        self._sender.stop()
        self._spool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Recording

    def _open(
        self, run: str, name: str, params: Mapping[str, Any], tags: Mapping[str, Any]
    ) -> None:
        assert run == STUDY_RUN or self._name, "open_trial before open_study"
        own = {
            STUDY: self._name,
            STATE: "RUNNING",
            REASON: "",
            USER: _user(),
            SOURCE_NAME: Path(sys.argv[0]).name or "python",
            SOURCE_TYPE: "LOCAL",
        }
        texts = _texts(params, limits.PARAM)
        known = self._params.setdefault(run, {})
        # MLflow never changes a parameter. One that has changed since (more --trials, say) is
        # told in a tag.
        changed = {
            CHANGED_PREFIX + key: value
            for key, value in texts.items()
            if known.get(key, value) != value
        }
        data = {
            "name": name,
            "identity": identity(self._study_id, run),
            "tags": _texts({**own, **tags, **changed}, limits.TAG),
            "params": {key: value for key, value in texts.items() if key not in known},
        }
        self._append("open", run, data, durable=run == STUDY_RUN, soon=True)

    def _metrics(self, run: str, step: int, metrics: Mapping[str, float]) -> None:
        last = self._last_step.get(run, {})
        values = {}
        # MLflow's pages begin with the metric that came first: the one that the study is about.
        for key in sorted(metrics, key=lambda key: key != VALUE):
            value, key = metrics[key], limits.name(key)
            if step > last.get(key, step - 1):
                number = float(value)
                values[key] = number if math.isfinite(number) else repr(number)
        if values:
            self._append("metrics", run, {"step": int(step), "values": values})

    def _close(self, run: str, state: str, reason: str, tags: Mapping[str, Any]) -> None:
        if run not in self._open_runs:
            assert run in self._params, f"close of run {run} before its opening"
            return
        own = {STATE: state, REASON: reason}
        if run != STUDY_RUN:
            own[NOTE] = f"**{state}** {reason}"
        data = {"status": _STATUS[state], "tags": _texts({**own, **tags}, limits.TAG)}
        self._append("close", run, data, durable=run == STUDY_RUN, soon=True)

    def _append(
        self, kind: str, run: str, data: dict[str, Any], durable: bool = False, soon: bool = False
    ) -> None:
        self._learn(self._spool.append(kind, run, data, durable=durable, soon=soon))

    # Going on

    def _read_back(self) -> None:
        self._study_id = ""
        self._name = ""
        self._open_runs: set[str] = set()
        self._params: dict[str, dict[str, str]] = {}
        self._last_step: dict[str, dict[str, int]] = {}
        self._files: dict[str, set[str]] = {}
        self._tags: dict[str, dict[str, str]] = {}
        for record in self._spool.records():
            self._learn(record)
        if not self._study_id:
            self._append("begin", STUDY_RUN, {"study_id": uuid.uuid4().hex[:12]}, durable=True)

    def _learn(self, record: Record) -> None:
        """What a record, new or old, means for the ones to come."""
        run, data = record.run, record.data
        match record.kind:
            case "begin":
                self._study_id = data["study_id"]
            case "open":
                self._study_id = data["identity"][STUDY_ID]
                self._open_runs.add(run)
                self._params.setdefault(run, {}).update(data["params"])
                if run == STUDY_RUN:
                    self._name = data["name"]
            case "close":
                self._open_runs.discard(run)
            case "tags":
                self._tags.setdefault(run, {}).update(data["tags"])
            case "artifact":
                self._files.setdefault(run, set()).add(Path(data["kept"]).name)
            case "metrics":
                last = self._last_step.setdefault(run, {})
                for key in data["values"]:
                    last[key] = max(last.get(key, data["step"]), data["step"])

    def _tidy(self) -> None:
        waiting = self._spool.records(after=self._ledger.sent)
        artifacts = [record for record in waiting if record.kind == "artifact"]
        self._spool.drop_others({record.data["kept"] for record in artifacts})
        for record in artifacts:
            if not self._spool.holds(record):  # to be made and recorded again
                self._files[record.run].discard(Path(record.data["kept"]).name)


def _texts(values: Mapping[str, Any], longest: int) -> dict[str, str]:
    return {limits.name(key): limits.value(value, longest) for key, value in values.items()}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())
