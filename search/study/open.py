"""Opening a study: new, or the same one again. Another study under its name is refused."""

import contextlib
import random
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Final

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage

from fdan.errors import FdanError
from search.study.folder import STUDY_FILE, StudyError, read_study_file, write_study_file
from search.study.identity import IDENTITY, RequestedStudy, describe_differences
from search.study.writer import create_study, enqueue, set_attributes
from search.worker.trial_folder import TRIALS
from tracking.outbox.delivery_state import Target
from tracking.uri import mask_password

HOME: Final = "home"  # the study's user attribute: the folder of its checkpoints and records

_HOME_TIMEOUT_S: Final = 3.0


def open_study(
    requested: RequestedStudy,
    storage: BaseStorage,
    sampler: BaseSampler,
    pruner: BasePruner,
    notify: Callable[[str], None] = print,
) -> optuna.Study:
    """The study: made with its known good settings enqueued, or continued. Called by its driver.

    Args:
        requested: Study that is requested.
        storage: Storage of the study.
        sampler: Sampler of this process.
        pruner: Pruner of this process.
        notify: Function that shows the user a line, if the study's folder was moved.

    Raises:
        StudyError: A study of that name exists with another identity or another folder, or the
            storage has lost it.
    """
    name = requested.name
    exists = name in optuna.get_all_study_names(storage)
    recorded = read_study_file(requested.folder)
    if recorded is not None and not exists:
        raise StudyError(
            f"study '{name}': {requested.folder} holds its checkpoints and records, but its trials"
            f" are gone from {requested.storage_name}: bring that back, move the folder away, or"
            " choose another --study"
        )
    open_or_make = partial(create_study, storage, study_name=name, sampler=sampler, pruner=pruner)
    try:
        study = open_or_make(load_if_exists=exists)
    except DuplicatedStudyError:  # another driver was the first by a moment
        study, exists = open_or_make(load_if_exists=True), True
    if exists:
        _await_home(study)
    home = {
        "id": recorded["id"] if recorded is not None else uuid.uuid4().hex,
        "path": str(requested.folder),
        "host": socket.gethostname(),
    }
    identity = requested.identity
    stored = study.user_attrs.get(IDENTITY)
    if stored is not None:
        if differing := describe_differences(stored, identity):
            raise StudyError(
                f"study '{name}' exists with {'; '.join(differing)}: "
                "choose another --study, or the same settings to continue it"
            )
        home = _check_home(study, home, requested)
        if home["path"] != str(requested.folder):
            home = _move_home(study, home, requested, notify)
    elif HOME not in study.user_attrs and study.get_trials(deepcopy=False):
        raise StudyError(
            f"study '{name}' exists in this storage and was not made by this program: "
            "choose another --study"
        )
    else:
        # The identity comes last: a driver that dies on the way leaves a study with a home that
        # can be made whole, and skip_if_exists keeps each setting single.
        if HOME not in study.user_attrs:
            set_attributes(study, {HOME: home})
            if exists:  # others may have waited in vain, too: the last one has it
                time.sleep(random.uniform(0.5, 1.5))
        home = _check_home(study, home, requested)
        for point in requested.enqueue:
            enqueue(study, point)
        set_attributes(study, {IDENTITY: asdict(identity)})
    if recorded is None:
        facts = {"id": home["id"], "storage": requested.storage_name, **asdict(identity)}
        write_study_file(requested.folder, facts)
    return study


def _await_home(study: optuna.Study) -> None:
    """The driver that makes a study gives it a home at once. Drivers that start at the same moment,
    in folders of their own on one database, wait for that; one that died on the way leaves none."""
    until = time.monotonic() + _HOME_TIMEOUT_S
    while time.monotonic() < until:
        if HOME in study.user_attrs or study.get_trials(deepcopy=False):
            return
        time.sleep(0.1)


def _check_home(
    study: optuna.Study, home_now: dict[str, str], requested: RequestedStudy
) -> dict[str, str]:
    """The study's home, which is the requested one, possibly moved. StudyError where it is another
    folder: a driver there may be alive, and the checkpoints and records are there in any case."""
    home: dict[str, str] = study.user_attrs[HOME]
    same_place = (home["path"], home["host"]) == (home_now["path"], home_now["host"])
    # Its driver may have died before it could write the folder's id down.
    unrecorded = (same_place or requested.storage_name == "journal") and not (
        requested.folder / STUDY_FILE
    ).exists()
    if home["id"] != home_now["id"] and not unrecorded:
        raise StudyError(
            f"study '{study.study_name}' in this storage belongs to the folder {home['path']} on"
            f" {home['host']}: continue it there (--runs), or choose another --study"
        )
    return home


def _shared_places(original: Path, outside: Mapping[str, str]) -> list[str]:
    """Those of a copy's places outside its runs folder that the original writes, too."""
    written = {str((read_study_file(original) or {}).get("storage"))}
    with contextlib.suppress(FdanError):
        written.add(mask_password(Target.load(original / "spool").uri))
    checkpoints = original / TRIALS
    if checkpoints.is_symlink():
        written.add(str(checkpoints.readlink()))
    return [f"{option} {place}" for option, place in outside.items() if place in written]


def _move_home(
    study: optuna.Study,
    home: dict[str, str],
    requested: RequestedStudy,
    notify: Callable[[str], None],
) -> dict[str, str]:
    """Give a study whose folder was moved or copied its new home. A copy is a study of its own:
    StudyError where it would write what belongs to the original, too."""
    original, folder = Path(home["path"]), requested.folder
    with contextlib.suppress(OSError):
        if original.samefile(folder):  # another name of one folder
            return home
    recorded = None
    with contextlib.suppress(StudyError, OSError):
        recorded = read_study_file(original)
    copied = recorded is not None and recorded.get("id") == home["id"]
    shared = _shared_places(original, requested.outside) if copied else []
    if shared:
        raise StudyError(
            f"study '{requested.name}' in {folder} is a copy of {original}, and both write"
            f" {' and '.join(shared)}: continue it there, or give the copy its own, or choose"
            " another --study"
        )
    home = {**home, "path": str(folder), "host": socket.gethostname()}
    set_attributes(study, {HOME: home})
    notify(f"study {requested.name} was {'copied' if copied else 'moved'} from {original}")
    return home
