"""A trial's run as MLflow holds it: enough to train it again, and what came of it."""

from __future__ import annotations

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
from tracking.backend.client import connect
from tracking.tags import (
    REASON,
    RUNNING,
    SEARCH,
    STAGE,
    STATE,
    STUDY,
    STUDY_ID,
    STUDY_RUN,
    TIME_PREFIX,
    TRIAL,
    VALUE,
    tag_filter,
)
from tracking.uri import TRACKING_URI_VARIABLE, check_uri, mask_password, sqlite_file

CONFIGURATION: Final = "config.json"
"""The artifact that holds a trial's settings, and under these two names what they were used on."""
ORIGIN: Final = "origin"
MACHINE: Final = "machine"

_NAMED: Final = 3
"""Trials that are named to somebody who gave the study's own run."""


class RecordError(FdanError):
    """A run that cannot be read, or not be trained again from what it holds."""


@dataclass(frozen=True)
class Recorded:
    """settings: a RunConfig's flat values; origin: as fdan.data.provenance makes it; machine: as
    search.results.provenance makes it; tags: of the run; epochs: epoch -> metrics, times left out,
    which no two trainings share."""

    run_id: str
    settings: dict[str, Any]
    origin: dict[str, Any]
    machine: dict[str, Any]
    tags: dict[str, str]
    epochs: dict[int, dict[str, float]]

    @property
    def study(self) -> str:
        return self.tags[STUDY]

    @property
    def name(self) -> str:
        """What it is called in a sentence."""
        return _name(self.tags)

    @property
    def state(self) -> str:
        """COMPLETE, PRUNED, FAIL or PAUSED."""
        return self.tags[STATE]


def read(uri: str, run_id: str) -> Recorded:
    """Read a trial's run from MLflow.

    Args:
        uri: The server or database.
        run_id: MLflow's.

    Raises:
        RecordError: The run cannot be read, or is not a trial's with what a repetition needs.
    """
    check_uri(uri)
    _database(uri)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        client = connect(uri)
        run = client.get_run(run_id)
        tags = dict(run.data.tags)
        _is_trial(client, run, tags, uri)
        epochs = _epochs(client, run)
    except FdanError:
        raise
    except Exception as error:  # MLflow's, SQLAlchemy's, the connection's
        raise _unreadable(uri, run_id, error) from None
    held = _configuration(client, run_id, tags)
    origin, machine = held.pop(ORIGIN, None), held.pop(MACHINE, None)
    if not isinstance(origin, dict) or not isinstance(machine, dict):
        raise RecordError(
            f"run {run_id} ({_name(tags)}): its {CONFIGURATION} does not say on which data it was"
            " trained: it was made by an older release of fdan-search"
        )
    if not epochs:
        raise RecordError(f"run {run_id} ({_name(tags)}) has no epoch: {tags[REASON]}")
    return Recorded(run_id, held, origin, machine, tags, epochs)


def _database(uri: str) -> None:
    """MLflow would make a database that is not there, and fill one that is another program's."""
    file = sqlite_file(uri)
    if file is None:
        return
    if not file.is_file():
        raise RecordError(f"--tracking-uri {uri}: there is no such file")
    try:
        database = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
        try:
            found = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone()
        finally:
            database.close()
    except sqlite3.Error as error:
        raise RecordError(f"--tracking-uri {uri}: cannot be read ({error})") from None
    if found is None:
        raise RecordError(f"--tracking-uri {uri}: is not a database of MLflow's")


def _is_trial(client: Any, run: Any, tags: Mapping[str, str], uri: str) -> None:
    run_id = run.info.run_id
    if run.info.lifecycle_stage == "deleted":
        raise RecordError(
            f"run {run_id} is deleted; mlflow runs restore --run-id {run_id} brings it back"
            f" (with {TRACKING_URI_VARIABLE}={mask_password(uri)})"
        )
    if TRIAL not in tags:
        raise RecordError(f"run {run_id} is not a trial's: no search of fdan-search made it")
    if tags[TRIAL] == STUDY_RUN:
        raise RecordError(
            f"run {run_id} is that of study {tags[STUDY]} itself: name one of its trials"
            f"{_trials(client, run, tags)}"
        )
    if tags[STATE] == RUNNING:
        raise RecordError(f"run {run_id} ({_name(tags)}) has not ended yet")


def _trials(client: Any, run: Any, tags: Mapping[str, str]) -> str:
    """The study's best ones, for the end of a message."""
    of_study = tag_filter({STUDY_ID: tags[STUDY_ID]})
    found = client.search_runs(
        [run.info.experiment_id],
        f"{of_study} and tags.`{TRIAL}` != '{STUDY_RUN}'",
        order_by=[f"metrics.{VALUE} DESC"],
        max_results=_NAMED,
    )
    named = []
    for one in found:
        value = one.data.metrics.get(VALUE)
        words = _which(one.data.tags) + ("" if value is None else f", {value:.3f}")
        named.append(f"{one.info.run_id} ({words})")
    return f", such as {', '.join(named)}" if named else ""


def _epochs(client: Any, run: Any) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for name in sorted(run.data.metrics):
        if name.startswith(TIME_PREFIX):
            continue
        for metric in client.get_metric_history(run.info.run_id, name):
            found.setdefault(int(metric.step), {})[name] = float(metric.value)
    return dict(sorted(found.items()))


def _configuration(client: Any, run_id: str, tags: Mapping[str, str]) -> dict[str, Any]:
    what = f"run {run_id} ({_name(tags)}): its {CONFIGURATION}"
    with tempfile.TemporaryDirectory(prefix="fdan-run-") as folder:
        try:
            file = Path(client.download_artifacts(run_id, CONFIGURATION, folder))
            held = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(held, dict):
                raise ValueError("not a table of settings")
        except Exception as error:  # MLflow's, the artifact store's, the file's
            raise RecordError(f"{what} cannot be read: {first_line(error, 200)}") from None
    return held


def _name(tags: Mapping[str, str]) -> str:
    return f"{_which(tags)} of study {tags[STUDY]}"


def _which(tags: Mapping[str, str]) -> str:
    stage, trial = tags.get(STAGE, SEARCH), tags[TRIAL]
    return f"trial {trial}" if stage == SEARCH else trial.replace("-", " ")


def _unreadable(uri: str, run_id: str, error: Exception) -> RecordError:
    code = getattr(error, "error_code", "")
    if code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
        return RecordError(f"run '{run_id}': there is none of that id in {mask_password(uri)}")
    return RecordError(f"MLflow at {mask_password(uri)} cannot be read: {first_line(error, 200)}")
