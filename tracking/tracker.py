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

import contextlib
import getpass
import math
import os
import sys
import uuid
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from tracking import tags as names
from tracking.backend import limits
from tracking.outbox.delivery_state import Target
from tracking.outbox.sender import Sender
from tracking.outbox.spool import Spool, disk_errors
from tracking.record import Record, RecordData
from tracking.uri import check_uri

# MLflow has no status for a pruned run, nor for one that is paused until its study continues:
# KILLED is the one that is neither a success nor a failure.
_STATUS: Final = {names.COMPLETE: "FINISHED", names.FAIL: "FAILED"}


class Tracker:
    """Records a study; a thread of its own sends the records. Every recording method can raise
    SpoolFull. Runs have the keys that tracking.tags.run_key makes."""

    def __init__(self, spool: Path, uri: str, experiment: str) -> None:
        """Open the spool and start the sender. An unavailable server is no error; raises FdanError
        if the URI can never work, SpoolError if another process writes this spool.

        Args:
            spool: Folder of the records, usually <runs>/<study>/spool.
            uri: An MLflow server (http://HOST:PORT) or database (sqlite:////path/mlflow.db,
                postgresql://...).
            experiment: MLflow's name for what holds the studies' runs.
        """
        check_uri(uri)
        self.study_id = ""  # value of the tag `fdan.study_id`
        self._name = ""
        self._open_runs: set[str] = set()
        self._params: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self._last_step: defaultdict[str, dict[str, int]] = defaultdict(dict)
        # Of each run: names of its artifacts, and tags as `set_tags` recorded them last.
        self.files: defaultdict[str, set[str]] = defaultdict(set)
        self.tags: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self._spool = Spool(spool)
        with contextlib.ExitStack() as undo:
            undo.callback(self._spool.close)
            for record in self._spool.records():
                self._apply(record)
            if not self.study_id:
                self._append("begin", names.STUDY_RUN, {"study_id": uuid.uuid4().hex[:12]})
            target = Target(uri, experiment)
            with disk_errors(spool):
                target.save(spool)
            self.sender = Sender(self._spool, target)
            waiting = self._spool.records(self.sender.state.sent)
            artifacts = [record for record in waiting if record.kind == "artifact"]
            self._spool.drop_others({record.data["kept"] for record in artifacts})
            for record in artifacts:
                if not self._spool.holds(record):  # damaged: it has to be recorded again
                    self.files[record.run].discard(Path(record.data["kept"]).name)
            undo.pop_all()
        self.sender.start()

    def open_study(
        self, name: str, params: Mapping[str, object], tags: Mapping[str, object]
    ) -> None:
        """Open the parent run, or open it again.

        Args:
            name: Name of the study.
            params: Settings that its trials share.
            tags: Tags of the parent run.
        """
        self._name = name
        self.open_run(names.STUDY_RUN, params, tags)

    def open_run(self, run: str, params: Mapping[str, object], tags: Mapping[str, object]) -> None:
        """Open a run; after a crash, or for a trial that is resumed, the same run again.

        Args:
            run: Key of the run.
            params: Settings of the trial.
            tags: Tags of its run.
        """
        assert self._name, "open_run before open_study"
        own = {
            names.STAGE: names.run_stage(run),
            names.STUDY: self._name,
            names.STATE: names.RUNNING,
            names.REASON: "",
            names.USER: user_name(),
            names.SOURCE_NAME: Path(sys.argv[0]).name or "python",
            names.SOURCE_TYPE: "LOCAL",
        }
        texts = _texts(params, limits.PARAM)
        known = self._params[run]
        # MLflow never changes a parameter. The new value (of --trials, say) becomes a tag.
        changed = {
            names.CHANGED_PREFIX + key: value
            for key, value in texts.items()
            if known.get(key, value) != value
        }
        data = {
            "name": self._name if run == names.STUDY_RUN else names.run_name(run),
            "identity": names.identity(self.study_id, run),
            "tags": _texts({**own, **tags, **changed}, limits.TAG),
            "params": {key: value for key, value in texts.items() if key not in known},
        }
        self._append("open", run, data)

    def log_metrics(self, run: str, step: int, metrics: Mapping[str, float]) -> None:
        """Log metrics of a run. What was recorded before is passed over: a trial that resumes from
        a checkpoint may repeat its last epoch, and the first record stands.

        Args:
            run: Key of the run.
            step: Epoch, from 1; of the parent run a step such as the number of ended trials.
            metrics: Values by name.
        """
        last = self._last_step[run]
        values: dict[str, float | str] = {}
        # MLflow's pages begin with the metric that came first: the one that the study is about.
        for key in sorted(metrics, key=lambda key: key != names.VALUE):
            value, key = float(metrics[key]), limits.name(key)
            if step > last.get(key, step - 1):
                values[key] = value if math.isfinite(value) else repr(value)
        if values:
            self._append("metrics", run, {"step": int(step), "values": values})

    def close_run(
        self, run: str, state: str, reason: str, tags: Mapping[str, object] | None = None
    ) -> None:
        """Close a run. Closing twice is closing once.

        Args:
            run: Key of the run.
            state: COMPLETE, PRUNED, FAIL, or PAUSED if it will be opened again.
            reason: One sentence.
            tags: Further tags of the run.
        """
        if run not in self._open_runs:
            assert run in self._params, f"close of run {run} before its opening"
            return
        own = {names.STATE: state, names.REASON: reason}
        if run != names.STUDY_RUN:
            own[names.NOTE] = f"**{state}** {reason}"
        texts = _texts({**own, **(tags or {})}, limits.TAG)
        self._append("close", run, {"status": _STATUS.get(state, "KILLED"), "tags": texts})

    def set_tags(self, run: str, tags: Mapping[str, object]) -> None:
        """Set tags of a run, open or closed.

        Args:
            run: Key of the run.
            tags: Values by name.
        """
        self._append("tags", run, {"tags": _texts(tags, limits.TAG)})

    def log_artifact(self, run: str, file: Path, folder: str = "") -> None:
        """Send a file with a run. It is copied first and may be deleted at once. Raises SpoolError
        if it cannot be read.

        Args:
            run: Key of the run.
            file: File to send.
            folder: Folder among the run's artifacts; "" for the top.
        """
        copy = self._spool.keep(file)
        size = self._spool.kept(copy).stat().st_size
        self._append("artifact", run, {"kept": copy, "bytes": size, "folder": folder})

    def open_trials(self, stage: str = names.SEARCH) -> set[int]:
        """Numbers of the trials that this or an earlier process opened and none closed."""
        runs = [run for run in self._open_runs if names.run_stage(run) == stage]
        return {int(run.rpartition("-")[2]) for run in runs}

    @property
    def unsent(self) -> int:
        """Records that wait for the server."""
        return self._spool.last - self.sender.state.sent

    @property
    def run_ids(self) -> dict[str, str]:
        """Ids of the runs that the server has, by their keys (tags.run_key)."""
        return dict(self.sender.state.runs)

    def drain(self, timeout: float) -> bool:
        """Wait until the server has everything recorded so far; False after `timeout` s."""
        return self.sender.drain(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop sending and release the spool. What is not sent waits there for the next Tracker or
        for `python -m tracking flush`."""
        self.sender.stop()
        self._spool.close()

    def _append(self, kind: str, run: str, data: RecordData) -> None:
        soon = kind in ("begin", "open", "close")
        durable = soon and run == names.STUDY_RUN
        self._apply(self._spool.append(kind, run, data, durable=durable, soon=soon))

    def _apply(self, record: Record) -> None:
        """Note what a record, new or old, means for later ones."""
        run, data = record.run, record.data
        match record.kind:
            case "begin":
                self.study_id = data["study_id"]
            case "open":
                self.study_id = data["identity"][names.STUDY_ID]
                self._open_runs.add(run)
                self._params[run].update(data["params"])
                if run == names.STUDY_RUN:
                    self._name = data["name"]
            case "close":
                self._open_runs.discard(run)
            case "tags":
                self.tags[run].update(data["tags"])
            case "artifact":
                self.files[run].add(Path(data["kept"]).name)
            case "metrics":
                last = self._last_step[run]
                for key in data["values"]:
                    last[key] = max(last.get(key, data["step"]), data["step"])


def _texts(values: Mapping[str, object], longest: int) -> dict[str, str]:
    return {limits.name(key): limits.value(value, longest) for key, value in values.items()}


def user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())
