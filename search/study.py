"""Opening a study: new, or the same one again. Another study under its name is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from fdan.errors import FdanError
from search.space import Space

DIRECTION: Final = "maximize"

IDENTITY = "identity"
"""The study's user attribute that holds what makes it this study."""

OWNER: Final = "study.json"
"""In a study's folder: whose it is."""

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
    data: str
    """The task's fingerprint: contents of the source files and how they were prepared."""
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
    file = folder / OWNER
    try:
        if folder.exists() and not folder.is_dir():
            raise StudyError(f"study '{name}': {folder} is a file: choose another --study")
        if not file.exists():
            return
        held = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StudyError(
            f"study '{name}': {file} cannot be read ({reason}): choose another --study"
        ) from None
    found = differences(held, identity.as_dict())
    if held.get("storage") != storage:
        found.insert(0, f"storage {held.get('storage')}, now {storage}")
    if found:
        raise StudyError(
            f"study '{name}' exists in {folder} with {'; '.join(found)}: choose another --study, or"
            " the same settings to continue it"
        )


def own_folder(folder: Path, storage: str, identity: Identity) -> None:
    """Write down whose the folder is, once the study is open."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / OWNER
    if not file.exists():
        partial = file.with_name(f".{file.name}.{os.getpid()}")
        text = json.dumps({"storage": storage, **identity.as_dict()}, indent=1)
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(file)


def open_study(
    name: str,
    storage: BaseStorage,
    identity: Identity,
    sampler: BaseSampler,
    pruner: BasePruner,
    space: Space,
) -> optuna.Study:
    """The study `name`: made with its known good settings enqueued, or continued.

    Raises StudyError where a study of that name exists with another identity.
    """
    exists = name in optuna.get_all_study_names(storage)
    study = optuna.create_study(
        storage=storage,
        sampler=sampler,
        pruner=pruner,
        study_name=name,
        direction=DIRECTION,
        load_if_exists=True,
    )
    if exists and (stored := study.user_attrs.get(IDENTITY)) is not None:
        if found := differences(stored, identity.as_dict()):
            raise StudyError(
                f"study '{name}' exists with {'; '.join(found)}: "
                "choose another --study, or the same settings to continue it"
            )
        return study
    if exists and study.get_trials(deepcopy=False):
        raise StudyError(
            f"study '{name}' exists in this storage and was not made by this program: "
            "choose another --study"
        )
    # Enqueued before the identity is set: a driver that dies between the two finds a study that
    # it may still make whole, and skip_if_exists keeps each setting single.
    for point in space.enqueue:
        study.enqueue_trial(dict(point), user_attrs={"origin": "enqueued"}, skip_if_exists=True)
    study.set_user_attr(IDENTITY, identity.as_dict())
    return study


def stored_trials(name: str, storage: BaseStorage) -> int:
    """How many trials the study has been asked for so far; 0 where there is none yet."""
    if name not in optuna.get_all_study_names(storage):
        return 0
    study_id = storage.get_study_id_from_name(name)
    return sum(
        trial.state != TrialState.WAITING
        for trial in storage.get_all_trials(study_id, deepcopy=False)
    )


def end_abandoned(study: optuna.Study) -> None:
    """Trials that are RUNNING although no driver is: a driver that was killed left them.

    Called by the one driver of the study, before it starts trials of its own.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        optuna.trial.Trial(study, trial._trial_id).set_user_attr(
            REASON, "left by a driver that died"
        )
        study.tell(trial.number, state=TrialState.FAIL)


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """In words, what differs between two identities; nothing where they are the same."""
    found = []
    for field in fields(Identity):
        there, here = stored.get(field.name), wanted[field.name]
        if there == here:
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
    """Trials by Optuna's state, those not started yet left out."""
    found = {state.name: 0 for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)}
    for trial in study.get_trials(deepcopy=False):
        if trial.state not in (TrialState.WAITING,):
            found[trial.state.name] = found.get(trial.state.name, 0) + 1
    return found
