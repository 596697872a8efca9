"""Reads a trial's run from MLflow: its settings, its data, and its metrics by epoch."""

import contextlib
import json
import os
import sqlite3
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fdan.errors import FdanError
from fdan.files import first_line
from tracking import tags as tag
from tracking.backend.client import connect, error_line, schema_line, shorten
from tracking.uri import TRACKING_URI_VARIABLE, check_uri, mask_password, sqlite_file

CONFIGURATION: Final = "config.json"
"""The artifact with a trial's settings, and its keys for the data and the machine."""
ORIGIN: Final = "origin"
MACHINE: Final = "machine"

_NO_SUCH_RUN: Final = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""MLflow's error codes for an id that it does not have, or that cannot be one."""

_MAX_EXAMPLES: Final = 3  # trials that an error message suggests instead of the study's own run


class RecordError(FdanError):
    """A run cannot be read, or lacks what its repetition needs."""


@dataclass(frozen=True)
class RecordedRun:
    """A trial's run. epochs: metrics by epoch, without times, which no two trainings share."""

    run_id: str
    uri: str  # of MLflow
    settings: dict[str, Any]  # flat values of a RunConfig
    origin: dict[str, Any]  # see fdan.data.provenance
    machine: dict[str, Any]  # see search.results.provenance
    tags: dict[str, str]
    epochs: dict[int, dict[str, float]]

    @property
    def name(self) -> str:
        """The trial's name in messages."""
        return _name(self.tags)


def read(uri: str, run_id: str) -> RecordedRun:
    """Read a trial's run from MLflow. RecordError where it cannot be read, or is not one of a trial
    that can be repeated.

    Args:
        uri: Server or database.
        run_id: MLflow's id of the run.
    """
    check_uri(uri)
    _check_database(uri)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        client = connect(uri)
        run = client.get_run(run_id)
        tags = dict(run.data.tags)
        _check_trial(client, run, tags, uri)
        epochs = _epochs(client, run)
    except FdanError:
        raise
    except Exception as error:  # of MLflow, SQLAlchemy or the connection
        place = mask_password(uri)
        if getattr(error, "error_code", "") in _NO_SUCH_RUN:
            raise RecordError(f"run '{run_id}': no run of that id in {place}") from None
        text = error_line(error, uri)
        line = schema_line(text, uri) or f"MLflow at {place} cannot be read: {shorten(text)}"
        raise RecordError(line) from None
    settings = _configuration(client, run_id, tags)
    origin, machine = settings.pop(ORIGIN, None), settings.pop(MACHINE, None)
    if not isinstance(origin, dict) or not isinstance(machine, dict):
        raise RecordError(
            f"run {run_id} ({_name(tags)}): its {CONFIGURATION} does not name the data that it was"
            " trained on: an older release of fdan-search made it"
        )
    if not epochs:
        raise RecordError(f"run {run_id} ({_name(tags)}) has no epoch: {tags[tag.REASON]}")
    return RecordedRun(run_id, uri, settings, origin, machine, tags, epochs)


def _check_database(uri: str) -> None:
    """Refuse a missing database, or another program's: MLflow would create it, or fill it."""
    file = sqlite_file(uri)
    if file is None:
        return
    if not file.is_file():
        raise RecordError(f"--tracking-uri {uri}: no such file")
    try:
        read_only = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
        with contextlib.closing(read_only) as database:
            table = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone()
    except sqlite3.Error as error:
        raise RecordError(f"--tracking-uri {uri}: cannot be read ({error})") from None
    if table is None:
        raise RecordError(f"--tracking-uri {uri}: is not an MLflow database")


def _check_trial(client: Any, run: Any, tags: Mapping[str, str], uri: str) -> None:
    run_id = run.info.run_id
    if run.info.lifecycle_stage == "deleted":
        raise RecordError(
            f"run {run_id} is deleted; mlflow runs restore --run-id {run_id} brings it back"
            f" (with {TRACKING_URI_VARIABLE}={mask_password(uri)})"
        )
    if tag.TRIAL not in tags:
        raise RecordError(f"run {run_id} is not a trial of fdan-search")
    if tags[tag.TRIAL] == tag.STUDY_RUN:
        raise RecordError(
            f"run {run_id} is the run of study {tags[tag.STUDY]} itself: name one of its trials"
            f"{_examples(client, run, tags)}"
        )
    if tags[tag.STATE] == tag.RUNNING:
        raise RecordError(f"run {run_id} ({_name(tags)}) has not ended yet")


def _examples(client: Any, run: Any, tags: Mapping[str, str]) -> str:
    """The best trials of the study, for the end of a message."""
    of_study = tag.tag_filter({tag.STUDY_ID: tags[tag.STUDY_ID]})
    runs = client.search_runs(
        [run.info.experiment_id],
        f"{of_study} and tags.`{tag.TRIAL}` != '{tag.STUDY_RUN}'",
        order_by=[f"metrics.{tag.VALUE} DESC"],
        max_results=_MAX_EXAMPLES,
    )
    examples = []
    for trial in runs:
        value = trial.data.metrics.get(tag.VALUE)
        text = _trial_name(trial.data.tags) + ("" if value is None else f", {value:.3f}")
        examples.append(f"{trial.info.run_id} ({text})")
    return f", such as {', '.join(examples)}" if examples else ""


def _epochs(client: Any, run: Any) -> dict[int, dict[str, float]]:
    epochs: dict[int, dict[str, float]] = {}
    for name in sorted(run.data.metrics):
        if not name.startswith(tag.TIME_PREFIX):
            for metric in client.get_metric_history(run.info.run_id, name):
                epochs.setdefault(int(metric.step), {})[name] = float(metric.value)
    return dict(sorted(epochs.items()))


def _configuration(client: Any, run_id: str, tags: Mapping[str, str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="fdan-run-") as folder:
        try:
            file = Path(client.download_artifacts(run_id, CONFIGURATION, folder))
            settings = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(settings, dict):
                raise ValueError("not a table of settings")
        except Exception as error:  # of MLflow, the artifact store or the file
            reason = f"its {CONFIGURATION} cannot be read: {first_line(error, 200)}"
            raise RecordError(f"run {run_id} ({_name(tags)}): {reason}") from None
    return settings


def _name(tags: Mapping[str, str]) -> str:
    return f"{_trial_name(tags)} of study {tags[tag.STUDY]}"


def _trial_name(tags: Mapping[str, str]) -> str:
    stage, trial = tags.get(tag.STAGE, tag.SEARCH), tags[tag.TRIAL]
    return f"trial {trial}" if stage == tag.SEARCH else trial.replace("-", " ")
