"""Records a study for MLflow. Every call appends to the spool and returns; the sender's thread does
the rest. A study is a parent run, a trial a child run: tracking/tags.py.

Only one process, the driver, has a Tracker for a spool. After a crash a new Tracker on the same
folder continues exactly where the last one was: it knows which runs are open, what they were
opened with and which epochs they have, and it records none of that twice.

Records (tracking/record.py writes them as lines):

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
from typing import Final, Self

from tracking.backend import limits
from tracking.backend.server import Server
from tracking.outbox.delivery_state import DeliveryState
from tracking.outbox.reader import read_records
from tracking.outbox.sender import Sender
from tracking.outbox.spool import Spool, write_error
from tracking.outbox.target import Target
from tracking.record import Record, RecordData
from tracking.tags import (
    CHANGED_PREFIX,
    COMPLETE,
    FAIL,
    NOTE,
    PAUSED,
    PRUNED,
    REASON,
    RUNNING,
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

# MLflow has no status for a pruned run, nor for one that is paused until its study continues:
# KILLED is the one that is neither a success nor a failure.
_STATUS: Final = {COMPLETE: "FINISHED", PRUNED: "KILLED", PAUSED: "KILLED", FAIL: "FAILED"}


class Tracker:
    """Records a study; a thread of its own sends the records. Every recording method can raise
    SpoolFull. In methods, `stage` is a trial's purpose (SEARCH or CONFIRM)."""

    def __init__(self, spool: Path, uri: str, experiment: str) -> None:
        """Open the spool and start the sender. An unavailable server is no error.

        Args:
            spool: Folder of the records, usually <runs>/<study>/spool.
            uri: An MLflow server (http://HOST:PORT) or database (sqlite:////path/mlflow.db,
                postgresql://...).
            experiment: MLflow's name for what holds the studies' runs.

        Raises:
            FdanError: The URI can never work.
            SpoolError: Another process writes this spool.
        """
        check_uri(uri)
        self._spool = Spool(spool)
        try:
            self._read_back()
            target = Target(uri, experiment)
            try:
                target.save(spool)
            except OSError as error:
                raise write_error(spool, error) from error
            self._state = DeliveryState(spool, mask_password(uri), self._spool.last)
            self._tidy()
            self._server = Server(uri, experiment, target.artifacts(spool))
            self._sender = Sender(self._spool, self._state, self._server)
        except BaseException:
            self._spool.close()
            raise
        self._sender.start()

    def open_study(
        self,
        name: str,
        params: Mapping[str, object],
        tags: Mapping[str, object],
        note: str = "",
    ) -> None:
        """Open the parent run, or open it again.

        Args:
            name: Name of the study.
            params: Settings that its trials share.
            tags: Tags of the parent run.
            note: Markdown, shown as its description.
        """
        self._name = name
        extra = {NOTE: note} if note else {}
        self._open(STUDY_RUN, name, params, {STAGE: STUDY_RUN, **tags, **extra})

    def log_study_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log metrics of the parent run.

        Args:
            step: Step, such as the number of ended trials.
            metrics: Values by name.
        """
        self._metrics(STUDY_RUN, step, metrics)

    def close_study(self, state: str, reason: str) -> None:
        """Close the parent run.

        Args:
            state: COMPLETE, PAUSED or FAIL.
            reason: One sentence.
        """
        self._close(STUDY_RUN, state, reason, {})

    def open_trial(
        self,
        number: int,
        params: Mapping[str, object],
        tags: Mapping[str, object],
        stage: str = SEARCH,
    ) -> None:
        """Open a trial's run; after a crash, or for a trial that is resumed, the same run again.

        Args:
            number: Number of the trial within its stage.
            params: Settings of the trial.
            tags: Tags of its run.
            stage: Stage of the trial.
        """
        name = run_name(number, stage)
        self._open(run_key(number, stage), name, params, {STAGE: stage, **tags})

    def log_epoch(
        self, number: int, epoch: int, metrics: Mapping[str, float], stage: str = SEARCH
    ) -> None:
        """Log an epoch's metrics. What was recorded before is passed over: a trial that resumes
        from a checkpoint may repeat its last epoch, and the first record stands.

        Args:
            number: Number of the trial within its stage.
            epoch: Epoch, from 1.
            metrics: Values by name.
            stage: Stage of the trial.
        """
        self._metrics(run_key(number, stage), epoch, metrics)

    def close_trial(
        self,
        number: int,
        state: str,
        reason: str,
        tags: Mapping[str, object] | None = None,
        stage: str = SEARCH,
    ) -> None:
        """Close a trial's run. Closing twice is closing once.

        Args:
            number: Number of the trial within its stage.
            state: COMPLETE, PRUNED, FAIL, or PAUSED if it will be opened again.
            reason: One sentence.
            tags: Further tags of its run.
            stage: Stage of the trial.
        """
        self._close(run_key(number, stage), state, reason, tags or {})

    def set_tags(self, number: int | None, tags: Mapping[str, object], stage: str = SEARCH) -> None:
        """Set tags of a run, open or closed.

        Args:
            number: Number of the trial; None for the parent run.
            tags: Values by name.
            stage: Stage of the trial.
        """
        self._append("tags", run_key(number, stage), {"tags": _texts(tags, limits.TAG)})

    def log_artifact(
        self, number: int | None, file: Path, folder: str = "", stage: str = SEARCH
    ) -> None:
        """Send a file with a run. It is copied first and may be deleted at once. Raises SpoolError
        if it cannot be read.

        Args:
            number: Number of the trial; None for the parent run.
            file: File to send.
            folder: Folder among the run's artifacts; "" for the top.
            stage: Stage of the trial.
        """
        copy = self._spool.keep(file)
        size = self._spool.kept(copy).stat().st_size
        data = {"kept": copy, "bytes": size, "folder": folder}
        self._append("artifact", run_key(number, stage), data)

    @property
    def study_id(self) -> str:
        """Value of the tag `fdan.study_id`."""
        return self._study_id

    def open_trials(self, stage: str = SEARCH) -> set[int]:
        """Numbers of the trials that this or an earlier process opened and none closed."""
        prefix = run_key(0, stage).removesuffix("0")
        numbers = (run.removeprefix(prefix) for run in self._open_runs if run.startswith(prefix))
        return {int(number) for number in numbers if number.isdecimal()}

    def files(self, number: int | None, stage: str = SEARCH) -> set[str]:
        """Names of the artifacts that were recorded for a run.

        Args:
            number: Number of the trial; None for the parent run.
            stage: Stage of the trial.
        """
        return self._files.get(run_key(number, stage), set())

    def tag(self, number: int | None, name: str, stage: str = SEARCH) -> str:
        """A tag as `set_tags` recorded it last; empty if it did not.

        Args:
            number: Number of the trial; None for the parent run.
            name: Name of the tag.
            stage: Stage of the trial.
        """
        return self._tags.get(run_key(number, stage), {}).get(name, "")

    @property
    def unsent(self) -> int:
        """Records that wait for the server."""
        return self._spool.last - self._state.sent

    @property
    def refused(self) -> int:
        """Number of things that the server rejected; <spool>/refused.jsonl lists them."""
        return self._state.refused

    @property
    def unavailable_since(self) -> float | None:
        """Seconds since 1970 when the server was found unavailable; None while it works."""
        return self._sender.unavailable_since

    @property
    def unavailable_reason(self) -> str:
        return self._sender.reason

    @property
    def page(self) -> str | None:
        """Path of the experiment's page in the UI; None until the server was first reached."""
        return self._server.page

    def drain(self, timeout: float) -> bool:
        """Wait until the server has everything recorded so far; False after `timeout` s."""
        return self._sender.drain(timeout)

    def close(self) -> None:
        """Stop sending and release the spool. What is not sent waits there for the next Tracker or
        for `python -m tracking flush`."""
        self._sender.stop()
        self._spool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # Recording

    def _open(
        self, run: str, name: str, params: Mapping[str, object], tags: Mapping[str, object]
    ) -> None:
        assert run == STUDY_RUN or self._name, "open_trial before open_study"
        own = {
            STUDY: self._name,
            STATE: RUNNING,
            REASON: "",
            USER: _user(),
            SOURCE_NAME: Path(sys.argv[0]).name or "python",
            SOURCE_TYPE: "LOCAL",
        }
        texts = _texts(params, limits.PARAM)
        known = self._params.setdefault(run, {})
        # MLflow never changes a parameter. The new value (of --trials, say) becomes a tag.
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

    def _close(self, run: str, state: str, reason: str, tags: Mapping[str, object]) -> None:
        if run not in self._open_runs:
            assert run in self._params, f"close of run {run} before its opening"
            return
        own = {STATE: state, REASON: reason}
        if run != STUDY_RUN:
            own[NOTE] = f"**{state}** {reason}"
        data = {"status": _STATUS[state], "tags": _texts({**own, **tags}, limits.TAG)}
        self._append("close", run, data, durable=run == STUDY_RUN, soon=True)

    def _append(
        self, kind: str, run: str, data: RecordData, durable: bool = False, soon: bool = False
    ) -> None:
        self._apply(self._spool.append(kind, run, data, durable=durable, soon=soon))

    # Continuing

    def _read_back(self) -> None:
        self._study_id = ""
        self._name = ""
        self._open_runs: set[str] = set()
        self._params: dict[str, dict[str, str]] = {}
        self._last_step: dict[str, dict[str, int]] = {}
        self._files: dict[str, set[str]] = {}
        self._tags: dict[str, dict[str, str]] = {}
        for record in read_records(self._spool):
            self._apply(record)
        if not self._study_id:
            self._append("begin", STUDY_RUN, {"study_id": uuid.uuid4().hex[:12]}, durable=True)

    def _apply(self, record: Record) -> None:
        """Note what a record, new or old, means for later ones."""
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
        waiting = read_records(self._spool, after=self._state.sent)
        artifacts = [record for record in waiting if record.kind == "artifact"]
        self._spool.drop_others({record.data["kept"] for record in artifacts})
        for record in artifacts:
            if not self._spool.holds(record):  # it has to be made and recorded again
                self._files[record.run].discard(Path(record.data["kept"]).name)


def _texts(values: Mapping[str, object], longest: int) -> dict[str, str]:
    return {limits.name(key): limits.value(value, longest) for key, value in values.items()}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())
