"""Opening a study: new, or the same one again. Another study under its name is refused, and so is
a second driver."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from fdan.errors import FdanError
from fdan.files import write_atomic
from fdan.lock import Lock, LockHeld
from search.optimizer.space import Space
from search.study.start_record import ARGUMENTS, BEGUN

DIRECTION: Final = "maximize"

IDENTITY = "identity"
"""The study's user attribute that holds what makes it this study."""

HOME = "home"
"""The study's user attribute that says in which folder its checkpoints and records are."""

OWNER: Final = "study.json"
"""In a study's folder: whose it is, and how it was started last."""

LOCK: Final = "lock"
"""In a study's folder: held by its driver."""

_HOME_S: Final = 3.0

REASON = "reason"
"""The trial's user attribute that says in words why it ended as it did."""


class StudyError(FdanError):
    """A study that cannot be opened as asked."""


@dataclass(frozen=True)
class Identity:
    """What all trials of a study share. Trials of two identities are not comparable.

    Plain values throughout: it is stored as JSON and compared on the next start.
    """

    space: Mapping[str, Any]
    data: str | None
    """The task's fingerprint: contents of the source files and how they were prepared. None where
    it is not known yet, which differs from nothing."""
    split: Mapping[str, Any]
    fixed: Mapping[str, Any]
    """Settings that are not searched."""
    seed: int

    def as_dict(self) -> dict[str, Any]:
        return {
            "space": dict(self.space),
            "data": self.data,
            "split": dict(self.split),
            "fixed": dict(self.fixed),
            "seed": self.seed,
        }


def check_folder(folder: Path, name: str, storage: str, identity: Identity) -> None:
    """A study's folder holds its checkpoints, its best model and its records for MLflow: those of
    one study in one storage.

    Raises StudyError where it is another's, or no folder.
    """
    held = _held(folder, name)
    if held is None:
        return
    found = differences(held, identity.as_dict())
    if held.get("storage") != storage:
        found.insert(0, f"storage {held.get('storage')}, now {storage}")
    if found:
        raise StudyError(
            f"study '{name}' exists in {folder} with {'; '.join(found)}: choose another --study, or"
            " the same settings to continue it"
        )


@contextlib.contextmanager
def driving(folder: Path, name: str) -> Iterator[None]:
    """Inside, this process is the study's only driver. Makes the study's folder, and takes it away
    again where the study in it did not come about.

    Raises StudyError while another driver lives; a dead one holds nothing.
    """
    _held(folder, name)
    fresh = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = Lock(folder / LOCK)
    except LockHeld as held:
        end = (
            f" (kill {held.owner.pid})"
            if held.owner is not None and held.owner.on_this_host
            else ""
        )
        raise StudyError(
            f"study '{name}' is being run by {held.owner or 'another process'}: wait for it, stop"
            f" it{end}, or choose another --study; how far it is: python -m search status {name}"
        ) from None
    except OSError as error:
        raise StudyError(f"study '{name}': {folder}: {error.strerror}") from None
    with lock:
        try:
            yield
        except FdanError:
            if fresh and not (folder / OWNER).exists():
                shutil.rmtree(folder, ignore_errors=True)
            raise


def open_study(
    name: str,
    storage: BaseStorage,
    shown: str,
    folder: Path,
    identity: Identity,
    sampler: BaseSampler,
    pruner: BasePruner,
    space: Space,
) -> optuna.Study:
    """The study `name`: made with its known good settings enqueued, or continued. Called by its
    driver; shown: how the storage is called in a message.

    Raises StudyError where a study of that name exists with another identity or another folder, or
    where the storage has lost it.
    """
    exists = name in optuna.get_all_study_names(storage)
    held = _held(folder, name)
    if held is not None and not exists:
        raise StudyError(
            f"study '{name}': {folder} holds its checkpoints and records, but its trials are gone"
            f" from {shown}: bring that back, move the folder away, or choose another --study"
        )
    open_or_make = partial(
        optuna.create_study,
        storage=storage,
        sampler=sampler,
        pruner=pruner,
        study_name=name,
        direction=DIRECTION,
    )
    try:
        study = open_or_make(load_if_exists=exists)
    except DuplicatedStudyError:  # another driver was the first by a moment
        study, exists = open_or_make(load_if_exists=True), True
    if exists:
        _await_home(study)
    here = {
        "id": held["id"] if held is not None else uuid.uuid4().hex,
        "path": str(folder),
        "host": socket.gethostname(),
    }
    stored = study.user_attrs.get(IDENTITY)
    if stored is not None:
        if found := differences(stored, identity.as_dict()):
            raise StudyError(
                f"study '{name}' exists with {'; '.join(found)}: "
                "choose another --study, or the same settings to continue it"
            )
        here = _same_home(study, here)
    elif HOME not in study.user_attrs and study.get_trials(deepcopy=False):
        raise StudyError(
            f"study '{name}' exists in this storage and was not made by this program: "
            "choose another --study"
        )
    else:
        # The identity comes last: a driver that dies on the way leaves a study with a home that
        # can be made whole, and skip_if_exists keeps each setting single.
        if HOME not in study.user_attrs:
            study.set_user_attr(HOME, here)
            if exists:  # others may have waited in vain, too: the last one has it
                time.sleep(random.uniform(0.5, 1.5))
        here = _same_home(study, here)
        for point in space.enqueue:
            study.enqueue_trial(dict(point), user_attrs={"origin": "enqueued"}, skip_if_exists=True)
        study.set_user_attr(IDENTITY, identity.as_dict())
    if held is None:
        _own(folder, {"id": here["id"], "storage": shown, **identity.as_dict()})
    return study


def _await_home(study: optuna.Study) -> None:
    """Who makes a study gives it a home at once. Drivers that start at the same moment, in folders
    of their own on one database, wait for that; one that died on the way leaves none."""
    until = time.monotonic() + _HOME_S
    while time.monotonic() < until:
        if HOME in study.user_attrs or study.get_trials(deepcopy=False):
            return
        time.sleep(0.1)


def _same_home(study: optuna.Study, here: dict[str, str]) -> dict[str, str]:
    """The study's home, which is `here`. StudyError where it is another folder: a driver there may
    be alive, and the checkpoints and records are there in any case."""
    home: dict[str, str] = study.user_attrs[HOME]
    same_place = (home["path"], home["host"]) == (here["path"], here["host"])
    # Its driver may have died before it could write the folder's id down.
    if home["id"] != here["id"] and not (same_place and not Path(home["path"], OWNER).exists()):
        raise StudyError(
            f"study '{study.study_name}' in this storage belongs to the folder {home['path']} on"
            f" {home['host']}: continue it there (--runs), or choose another --study"
        )
    return home


def _held(folder: Path, name: str) -> dict[str, Any] | None:
    """What the folder says of whose it is; None where it says nothing yet."""
    file = folder / OWNER
    try:
        if folder.exists() and not folder.is_dir():
            raise StudyError(f"study '{name}': {folder} is a file: choose another --study")
        if not file.exists():
            return None
        held: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(held, dict) or "id" not in held:
            raise ValueError("not a study's")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StudyError(
            f"study '{name}': {file} cannot be read ({reason}): choose another --study"
        ) from None
    return held


def remember(
    folder: Path, trials: int, arguments: Sequence[str], spec: Mapping[str, Any] | None = None
) -> None:
    """Record how the study was started last.

    Args:
        folder: the study's.
        trials: in all.
        arguments: the command line, without passwords.
        spec: the same options by section, as a TOML file has them.
    """
    facts = json.loads((folder / OWNER).read_text(encoding="utf-8"))
    _own(folder, {**facts, "trials": trials, ARGUMENTS: list(arguments), "spec": spec})
    (folder / BEGUN).unlink(missing_ok=True)


def _own(folder: Path, facts: dict[str, Any]) -> None:
    """Write down whose the folder is."""
    file = folder / OWNER
    try:
        write_atomic(file, json.dumps(facts, indent=1) + "\n", sync=True)
    except OSError as error:
        raise StudyError(f"{file} cannot be written: {error.strerror}") from None


def stored_trials(name: str, storage: BaseStorage) -> int:
    """How many trials the study has been asked for so far; 0 where there is none yet."""
    if name not in optuna.get_all_study_names(storage):
        return 0
    study_id = storage.get_study_id_from_name(name)
    return sum(
        trial.state != TrialState.WAITING
        for trial in storage.get_all_trials(study_id, deepcopy=False)
    )


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """In words, what differs between two identities; nothing where they are the same."""
    found = []
    for field in fields(Identity):
        there, here = stored.get(field.name), wanted[field.name]
        if there == here or (field.name == "data" and here is None):
            continue
        if field.name == "data":
            found.append(f"other data (fingerprint {str(there)[:12]}, now {str(here)[:12]})")
        elif field.name == "seed":
            found.append(f"seed {there}, now {here}")
        elif field.name == "space":
            found.append(f"another space ({_changes(there or {}, here)})")
        else:
            what = {"split": "another split", "fixed": "other fixed settings"}[field.name]
            found.append(f"{what} ({_changes(there or {}, here)})")
    return found


def _changes(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    changes = []
    for name in sorted(there.keys() | here.keys()):
        if name not in here:
            changes.append(f"{name} is gone")
        elif name not in there:
            changes.append(f"{name} is new")
        elif there[name] != here[name]:
            changes.append(f"{name}: {_short(there[name])}, now {_short(here[name])}")
    return ", ".join(changes)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def best(study: optuna.Study) -> FrozenTrial | None:
    """The complete trial of highest value, the earliest of equals; None where none is complete."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max(trials, key=lambda trial: (trial.value, -trial.number), default=None)


def counts(study: optuna.Study) -> dict[str, int]:
    """Finished trials by Optuna's state."""
    found = {state.name: 0 for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)}
    for trial in study.get_trials(deepcopy=False):
        if trial.state.is_finished():
            found[trial.state.name] += 1
    return found


def under_way(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that were started and have not ended, in the order of their numbers. Where no driver
    lives, they are those that the next one goes on with."""
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
