"""Optuna's storage and MLflow's database, read from outside: nothing here writes to them, and
nothing asks the processes that are under test."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial
from sqlalchemy.pool import NullPool

from benchmarks.chaos.stores import Row, Trial

_ENDS = 6
"""Optuna's code of a journal line that sets a trial's state."""


class Unreadable(Exception):  # noqa: N818
    """Not now: nothing is there yet, or whoever keeps it is away."""


class _JournalReader(BaseJournalBackend):
    """A journal's whole lines. Optuna's own backend would make the file."""

    def __init__(self, lines: list[dict[str, Any]]) -> None:
        self._lines = lines

    def read_logs(self, log_number_from: int) -> Any:
        yield from self._lines[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        raise AssertionError("read only")


def read_journal(path: Path, study: str) -> tuple[Trial, ...]:
    """All trials of a study in a journal file. A torn last line is passed over, as its writer
    would; Unreadable where there is no such study."""
    try:
        whole = path.read_bytes().rpartition(b"\n")[0]
        lines = [json.loads(line) for line in whole.split(b"\n")] if whole else []
        trials = _trials(JournalStorage(_JournalReader(lines)), study)
    except (OSError, KeyError, ValueError) as error:
        raise Unreadable(f"{path}: {error}") from None
    endings = Counter(
        line["trial_id"]
        for line in lines
        if line["op_code"] == _ENDS and optuna.trial.TrialState(line["state"]).is_finished()
    )
    return tuple(_trial(trial, endings[trial._trial_id]) for trial in trials)


def read_database(url: str, study: str) -> tuple[Trial, ...]:
    """All trials of a study in a database; Unreadable where there is none, or no server."""
    try:
        # With SQLAlchemy 2.1, the bare name means another package.
        url = url.replace("postgresql://", "postgresql+psycopg2://")
        storage = RDBStorage(url, engine_kwargs={"poolclass": NullPool}, skip_table_creation=True)
        try:
            trials = _trials(storage, study)
        finally:
            storage.engine.dispose()
    except Exception as error:  # SQLAlchemy's and each database's own hierarchies
        raise Unreadable(f"{type(error).__name__} {error}") from None
    return tuple(_trial(trial, int(trial.state.is_finished())) for trial in trials)


def _trials(storage: BaseStorage, study: str) -> list[FrozenTrial]:
    return storage.get_all_trials(storage.get_study_id_from_name(study), deepcopy=False)


def _trial(trial: FrozenTrial, endings: int) -> Trial:
    return Trial(
        trial.number,
        trial.state.name,
        trial.value if trial.values is not None else None,
        dict(trial.intermediate_values),
        dict(trial.params),
        endings,
        str(trial.user_attrs.get("reason", "")),
    )


@dataclass(frozen=True)
class Logged:
    """A run as MLflow's tables have it."""

    id: str
    status: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    rows: Sequence[Row] = field(default_factory=list)


def read_mlflow(
    database: Path, *, experiment: str, tags: Mapping[str, str] | None = None
) -> list[Logged]:
    """The runs of an experiment that have these tags, deleted ones included, the oldest first;
    Unreadable where the database is away."""
    tags = tags or {}
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=20)
        ) as tables:
            tables.execute("begin")  # one view of all tables
            runs = tables.execute(
                "select r.run_uuid, r.status from runs r join experiments e using (experiment_id)"
                " where e.name = ? order by r.start_time, r.run_uuid",
                (experiment,),
            ).fetchall()
            found = []
            for run, status in runs:
                own = dict(tables.execute("select key, value from tags where run_uuid = ?", (run,)))
                if any(own.get(key) != value for key, value in tags.items()):
                    continue
                params = tables.execute("select key, value from params where run_uuid = ?", (run,))
                rows = tables.execute(
                    "select key, step, value, is_nan from metrics where run_uuid = ?"
                    " order by key, step, timestamp",
                    (run,),
                )
                found.append(
                    Logged(
                        run,
                        status,
                        own,
                        dict(params),
                        [Row(k, s, float("nan") if nan else v) for k, s, v, nan in rows],
                    )
                )
            return found
    except sqlite3.Error as error:
        raise Unreadable(f"{database}: {error}") from None


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of JSON lines, none where there is no file."""
    try:
        lines = file.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    found: list[dict[str, Any]] = []
    for line in lines:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def by_params(trials: Sequence[Trial]) -> dict[tuple[tuple[str, str], ...], int]:
    """Settings as MLflow writes them -> the number of the trial that has them: how trials and runs
    that do not name each other are brought together. Drawn from continuous ranges, no two trials
    have the same."""
    found: dict[tuple[tuple[str, str], ...], int] = {}
    for trial in trials:
        found.setdefault(key_of(trial.params), trial.number)
    return found


def key_of(params: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Settings in a form that can be looked up."""
    return tuple(sorted((name, str(value)) for name, value in params.items()))


def grouped(points: Sequence[tuple[int, int]]) -> dict[int, Counter[int]]:
    """(trial, epoch) pairs -> for each trial, how often each epoch came."""
    found: dict[int, Counter[int]] = defaultdict(Counter)
    for number, epoch in points:
        found[number][epoch] += 1
    return found
