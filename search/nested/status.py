"""How far a nested study is, read from its folder and those of its outer folds."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from fdan.errors import FdanError
from fdan.lock import lock_owner
from search.study.folder import (
    LOCK_FILE,
    NESTED,
    OUTER_FOLDS,
    STUDY_FILE,
    StudyError,
    command_line,
    read_arguments,
    read_study_file,
)
from search.study.status import StudyStatus, read_status
from tracking.nested_result import NestedResult
from tracking.outbox.delivery_state import Backlog, read_backlog
from tracking.result import NESTED_RESULT
from tracking.tags import COMPLETE


@dataclass(frozen=True)
class NestedStatus:
    """Progress of a nested study. Its fields are the keys of `status --json`."""

    name: str
    folder: str
    state: str  # one of running, stopped, finished
    driver: str  # process that runs it; empty where none does
    command: str  # command that continues it
    outer: int  # number of outer folds
    done: int  # of them
    studies: tuple[StudyStatus, ...]  # of the outer folds that were begun
    uar: float | None  # of the outer folds that are done, with its 95 % interval
    low: float | None
    high: float | None
    recorded: int
    unsent: int
    tracking_uri: str


def is_nested(folder: Path) -> bool:
    """Whether a study's folder is a nested study's."""
    with contextlib.suppress(StudyError):
        recorded = read_study_file(folder)
        return recorded is not None and NESTED in recorded
    return False


def read_nested_status(runs: Path, name: str, url: str | None) -> NestedStatus:
    """How far a nested study is. FdanError where it cannot be read.

    Args:
        runs: The folder of studies.
        name: Name of the nested study.
        url: Storage of its studies, where their folders do not record enough.
    """
    folder = runs / name
    recorded = read_study_file(folder)
    assert recorded is not None
    try:
        count = int(recorded[OUTER_FOLDS])
    except (KeyError, TypeError, ValueError):
        raise FdanError(f"{folder / STUDY_FILE} cannot be read: it is not a study's") from None
    driver = str(lock_owner(folder / LOCK_FILE) or "")
    names = (f"{name}-outer-{number}" for number in range(1, count + 1))
    studies = tuple(
        read_status(runs, study, url) for study in names if (runs / study / STUDY_FILE).exists()
    )
    result = NestedResult.load(folder) if (folder / NESTED_RESULT).exists() else None
    pooled = None if result is None else result.pooled
    backlog = Backlog("", 0, 0)
    with contextlib.suppress(FdanError):  # a driver that died before it recorded anything
        backlog = read_backlog(folder / "spool")
    finished = result is not None and result.state == COMPLETE
    return NestedStatus(
        name=name,
        folder=str(folder),
        state="running" if driver else "finished" if finished else "stopped",
        driver=driver,
        command=command_line(read_arguments(folder) or (), runs),
        outer=count,
        done=0 if result is None else len(result.folds),
        studies=studies,
        uar=None if pooled is None else pooled.uar,
        low=None if pooled is None else pooled.interval.low,
        high=None if pooled is None else pooled.interval.high,
        recorded=backlog.recorded,
        unsent=backlog.unsent,
        tracking_uri=backlog.uri,
    )
