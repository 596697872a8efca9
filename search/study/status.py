"""How far a study is: which of its trials are complete, running or the best, and what its folder
says, read without touching either."""

import contextlib
import json
import shlex
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from fdan.errors import FdanError
from fdan.files import first_line
from fdan.lock import lock_owner
from search.study import folder as study_folder
from search.study.events import TrialOutcome
from search.study.storage import open_storage_read_only
from search.study.storage_retry import translate_storage_errors
from search.worker.trial_folder import EPOCH_LOG, trial_folder
from tracking.outbox.delivery_state import Backlog, read_backlog
from tracking.uri import is_masked, mask_password


@dataclass(frozen=True)
class RunningTrial:
    """A trial that has not ended."""

    trial: int
    epoch: int
    value: float | None
    heard_s: float | None  # seconds since its last epoch; None where that is unknown


@dataclass(frozen=True)
class StudyStatus:
    """Progress of a study. Its fields are the keys of `status --json`."""

    name: str
    folder: str
    state: str  # one of preparing, begun (data not prepared), running, stopped, finished
    driver: str  # process that runs it; empty where none does
    command: str  # command that continues it
    wanted: int = 0  # number of trials in all; 0 where it is not known yet
    epochs: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    under_way: tuple[RunningTrial, ...] = ()
    best: int | None = None
    value: float | None = None  # validation UAR of the best trial
    recorded: int = 0
    unsent: int = 0
    tracking_uri: str = ""

    @property
    def done(self) -> int:
        return sum(self.counts.values())


def read_status(runs: Path, name: str, url: str | None) -> StudyStatus:
    """How far a study is.

    Args:
        runs: The folder of studies.
        name: Name of the study.
        url: Storage of the study, where its folder does not record enough.

    Raises:
        FdanError: There is no such study, or it cannot be read.
    """
    folder = runs / name
    file = folder / study_folder.STUDY_FILE
    driver = command = ""
    try:
        driver = str(lock_owner(folder / study_folder.LOCK_FILE) or "")
        command = study_folder.command_line(study_folder.read_arguments(folder) or (), runs)
        recorded = json.loads(file.read_text(encoding="utf-8"))
        place = study_folder.moved_text(recorded["storage"], recorded, folder)
        epochs = int(recorded["fixed"]["epochs"])
    except FileNotFoundError:
        if (folder / study_folder.BEGUN).exists():
            # Its data are not prepared yet, or were being when its driver died.
            state = "preparing" if driver else "begun"
            return StudyStatus(name, str(folder), state, driver, command)
        raise FdanError(
            f"there is no study '{name}' in {runs}: python -m search list --runs"
            f" {shlex.quote(str(runs))} shows those that there are"
        ) from None
    except (OSError, ValueError) as error:
        raise FdanError(f"{file} cannot be read: {error}") from None
    except (TypeError, KeyError):
        raise FdanError(f"{file} cannot be read: it is not a study's") from None
    if url is None and place != "journal":
        url = place
    if url is not None and is_masked(url):
        raise FdanError(
            f"study '{name}' is in {place}, whose password is not stored: give --storage"
        )
    backlog = Backlog("", 0, 0)
    with contextlib.suppress(FdanError):  # a driver that died before it recorded anything
        backlog = read_backlog(folder / "spool")
    with translate_storage_errors(url):
        study = _load_study(name, url, folder)
        counts, best = count_finished(study), best_trial(study)
        trials = int(recorded.get("trials", 0))  # 0: its driver died before it wrote that
        finished = 0 < trials <= sum(counts.values())
        return StudyStatus(
            name=name,
            folder=str(folder),
            state="running" if driver else "finished" if finished else "stopped",
            driver=driver,
            command=command,
            wanted=trials,
            epochs=epochs,
            counts=counts,
            under_way=tuple(_running_trial(trial, folder) for trial in running_trials(study)),
            best=None if best is None else best.number,
            value=None if best is None else best.value,
            recorded=backlog.recorded,
            unsent=backlog.unsent,
            tracking_uri=backlog.uri,
        )


def _load_study(name: str, url: str | None, folder: Path) -> optuna.Study:
    place = folder / study_folder.JOURNAL_FILE if url is None else mask_password(url)
    try:
        storage = open_storage_read_only(url, folder)
        if name in optuna.get_all_study_names(storage):
            return optuna.load_study(study_name=name, storage=storage)
    except (FdanError, SQLAlchemyError, StorageInternalError):
        raise
    except Exception as error:  # of any kind, where Optuna replays a journal that is damaged
        kind, line = type(error).__name__, first_line(error)
        reason = line if line == kind else f"{kind}: {line}"
        raise FdanError(f"study '{name}': {place} cannot be read: {reason}") from None
    raise FdanError(f"study '{name}': its trials are gone from {place}: bring that back")


def _running_trial(trial: FrozenTrial, folder: Path) -> RunningTrial:
    values = trial.intermediate_values
    heard: float | None = None
    with contextlib.suppress(OSError):
        heard = time.time() - (trial_folder(folder, trial.number) / EPOCH_LOG).stat().st_mtime
    epoch = max(values, default=0)
    return RunningTrial(trial.number, epoch, values.get(epoch), heard)


def ranking_key(trial: FrozenTrial | TrialOutcome) -> tuple[float, int]:
    """Sorts trials, the best first: by value, the earlier one of equals first."""
    return -(trial.value or 0.0), trial.number


def complete_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The complete trials, the best first."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(trials, key=ranking_key)


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """The complete trial of highest value, the earliest of equals; None where none is complete."""
    return next(iter(complete_trials(study)), None)


def running_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that were started and have not ended, in the order of their numbers. Where no driver
    lives, they are those that the next one resumes."""
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def count_finished(study: optuna.Study) -> dict[str, int]:
    """Finished trials by Optuna's state."""
    states = Counter(trial.state for trial in study.get_trials(deepcopy=False))
    finished = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    return {state.name: states[state] for state in finished}


def count_started(name: str, storage: BaseStorage) -> int:
    """How many trials a study has started so far; 0 where there is no such study yet.

    Args:
        name: Name of the study in the storage.
        storage: Storage of the study.
    """
    if name not in optuna.get_all_study_names(storage):
        return 0
    study_id = storage.get_study_id_from_name(name)
    trials = storage.get_all_trials(study_id, deepcopy=False)
    return sum(trial.state != TrialState.WAITING for trial in trials)
