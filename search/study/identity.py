"""What makes a study the same study, and the words that refuse another one under its name."""

import contextlib
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Final

from fdan.config import Config
from fdan.data.split import NO_FOLDS, SplitConfig
from fdan.run_config import RUN_CONFIGS
from search.optimizer.space import Value
from search.study.folder import NESTED, Facts, StudyError, moved_text, read_study_file
from tracking.uri import absolute_uri, sqlite_file

IDENTITY = "identity"  # the study's user attribute that holds its Identity

_OTHER = {"space": "another space", "split": "another split", "fixed": "other fixed settings"}

_CONFIGS: Final[tuple[type[Config], ...]] = (SplitConfig, *RUN_CONFIGS)

_DEFAULTS: Final[Facts] = {
    **{setting.name: setting.default for config in _CONFIGS for setting in fields(config)},
    "folds": NO_FOLDS,  # what is decided today is the default no longer
}
"""An earlier version, which did not have a setting yet, did what is its default."""


@dataclass(frozen=True)
class Identity:
    """What all trials of a study share. Trials of two identities are not comparable.

    Plain values throughout: it is stored as JSON and compared on the next start.
    """

    space: Facts
    # The task's fingerprint: contents of the source files and how they were prepared. None where it
    # is not known yet, which differs from nothing.
    data: str | None
    split: Facts
    fixed: Facts  # settings that are not searched
    seed: int


@dataclass(frozen=True)
class RequestedStudy:
    """The study that a driver wants to open."""

    name: str
    folder: Path
    storage_name: str  # in messages and study.json: journal, or a URL without its password
    identity: Identity
    enqueue: tuple[Mapping[str, Value], ...] = ()  # settings that a new study tries first
    outside: Mapping[str, str] = field(default_factory=dict)
    """What it writes outside the runs folder: places, without passwords, by option."""


def check_same_study(requested: RequestedStudy) -> None:
    """A study's folder holds its checkpoints, its best model and its records for MLflow: those of
    one study in one storage.

    Raises StudyError where it is another's, or no folder.
    """
    recorded = read_study_file(requested.folder)
    if recorded is None:
        return
    if NESTED in recorded:
        raise StudyError(
            f"study '{requested.name}' in {requested.folder} is a nested one: choose another"
            f" --study, or give --nested {recorded[NESTED]} to continue it"
        )
    differing = describe_differences(recorded, requested.identity)
    before, now = str(recorded.get("storage")), requested.storage_name
    before = absolute_uri(moved_text(before, recorded, requested.folder))
    database = sqlite_file(now)
    # Another database file may be the same one that was moved, too: then the study is in it.
    moved = sqlite_file(before) and database is not None and _holds_study(database, requested.name)
    if before != now and not moved:
        differing.insert(0, f"storage {before}, now {now}")
    elif database is not None and not database.is_file():
        raise StudyError(
            f"study '{requested.name}' in {requested.folder}: its trials are in {database}, which"
            " is not there: bring it back, or choose another --study"
        )
    if differing:
        raise StudyError(
            f"study '{requested.name}' exists in {requested.folder} with {'; '.join(differing)}:"
            " choose another --study, or the same settings to continue it"
        )


def _holds_study(database: Path, name: str) -> bool:
    """Whether an SQLite file holds a study of that name. Looks only: Optuna makes its tables in
    whatever file it opens."""
    try:
        uri = f"{database.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
            query = "SELECT 1 FROM studies WHERE study_name = ?"
            return connection.execute(query, (name,)).fetchone() is not None
    except sqlite3.Error:  # no database, or none of Optuna's
        return False


def describe_differences(stored: Facts, requested: Identity) -> list[str]:
    """What differs between two identities, in words; empty where they are the same.

    Args:
        stored: An Identity as a dictionary, possibly of an older version.
        requested: Identity of this start.
    """
    differing = []
    for name, now in asdict(requested).items():
        before = stored.get(name)
        if name in ("split", "fixed") and before is not None:
            before = {k: _DEFAULTS[k] for k in now if k in _DEFAULTS} | before
        if before == now or (name == "data" and now is None):
            continue
        if name == "data":
            differing.append(f"other data (fingerprint {str(before)[:12]}, now {str(now)[:12]})")
        elif name == "seed":
            differing.append(f"seed {before}, now {now}")
        else:
            differing.append(f"{_OTHER[name]} ({_changes(before or {}, now)})")
    return differing


def _changes(before: Facts, now: Facts) -> str:
    changes = []
    for name in sorted(before.keys() | now.keys()):
        if name not in now:
            changes.append(f"{name} is gone")
        elif name not in before:
            changes.append(f"{name} is new")
        elif before[name] != now[name]:
            changes.append(f"{name}: {_shorten(before[name])}, now {_shorten(now[name])}")
    return ", ".join(changes)


def _shorten(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
