"""A study's folder: its identity, its driver's lock, its command line and its checkpoints.

    study.json   the study's identity and how it was started last: `--study NAME` alone continues it
    lock         held by the driver
    journal.log  Optuna's storage, where no --storage is given
    trials/      the trials' checkpoints and logs

On a cluster the study's folder is the driver's own, and `trials` is a link into a folder that all
nodes see (`--shared`).
"""

import contextlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from fdan.errors import FdanError
from fdan.files import PROJECT_ROOT, write_atomic
from fdan.lock import Lock, LockHeld, NoLocks
from fdan.machine.rights import explain
from search.worker.trial_folder import TRIALS
from tracking.command_line import with_runs
from tracking.uri import sqlite_file, sqlite_uri

Facts = Mapping[str, Any]  # JSON values by name

STUDY_FILE: Final = "study.json"
LOCK_FILE: Final = "lock"
JOURNAL_FILE: Final = "journal.log"

ARGUMENTS: Final = "arguments"  # key of study.json: those of the newest start, without passwords
RUNS: Final = "runs"  # key of study.json: the runs folder at that start; the folder may be moved
NESTED: Final = "nested"  # key of study.json: --nested of a nested study, whose folder that is
OUTER_FOLDS: Final = "outer_folds"  # beside it: their number
BEGUN: Final = "begun.json"  # has both keys while data are prepared, before study.json exists


class StudyError(FdanError):
    """A study that cannot be opened as requested."""


@contextlib.contextmanager
def driver_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a study's folder as its only driver. Creates the folder, and removes it
    again where the study fails to start. StudyError where another driver is alive; a dead one holds
    no lock."""
    read_study_file(folder)
    fresh, name = not folder.exists(), folder.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = Lock(folder / LOCK_FILE)
    except LockHeld as error:
        owner = error.owner
        kill = f" (kill {owner.pid})" if owner is not None and owner.on_this_host else ""
        raise StudyError(
            f"study '{name}' is being run by {owner or 'another process'}: wait for it, stop"
            f" it{kill}, or choose another --study; how far it is: python -m search status"
            f" {shlex.join(with_runs([name], folder.parent))}"
        ) from None
    except NoLocks as error:
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
        raise StudyError(f"study '{name}': {error}") from None
    except OSError as error:
        raise StudyError(f"study '{name}': {explain(error, folder)}") from None
    with lock:
        try:
            yield
        except FdanError:
            if fresh and not (folder / STUDY_FILE).exists():
                shutil.rmtree(folder, ignore_errors=True)
            raise


def read_study_file(folder: Path) -> Facts | None:
    """Read study.json in a study's folder; None where it does not exist yet. StudyError where it
    cannot be read, or `folder` is a file."""
    file = folder / STUDY_FILE
    try:
        if folder.exists() and not folder.is_dir():
            raise StudyError(f"study '{folder.name}': {folder} is a file: choose another --study")
        if not file.exists():
            return None
        recorded: Facts = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(recorded, dict) or "id" not in recorded:
            raise ValueError("not a study's")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StudyError(
            f"study '{folder.name}': {file} cannot be read ({reason}): choose another --study"
        ) from None
    return recorded


def write_study_file(folder: Path, facts: Facts) -> None:
    """Write study.json.

    Args:
        folder: Folder of the study.
        facts: JSON values; they replace what was recorded.
    """
    file = folder / STUDY_FILE
    try:
        write_atomic(file, json.dumps(facts, indent=1) + "\n", sync=True)
    except OSError as error:
        raise StudyError(f"it cannot be written: {explain(error, file)}") from None


def share_checkpoints(folder: Path, name: str, shared: Path) -> None:
    """Make `trials` in a folder a link into the folder that all nodes see.

    Args:
        folder: Folder of the study, or of its confirming runs.
        name: Name of the link's target, unlike any other study's.
        shared: Folder that all nodes see (--shared).

    Raises:
        StudyError: The checkpoints are in another place already, or cannot be shared.
    """
    link, target = folder / TRIALS, shared / "studies" / name / TRIALS
    if link.is_symlink():
        if not link.exists():
            raise StudyError(
                f"{folder}: its checkpoints are in {link.readlink()}, which is not there: mount it"
            )
        return
    if link.exists():
        raise StudyError(
            f"{folder}: its checkpoints are in it, where the cluster's other nodes do not see them:"
            " choose another --study here, or continue this one without the cluster"
        )
    try:
        target.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
    except OSError as error:
        raise StudyError(f"--shared {shared}: {explain(error, target)}") from None


def folder_for_workers(folder: Path) -> Path:
    """The folder in which workers find `trials`: on a cluster, that in --shared."""
    return (folder / TRIALS).resolve().parent


def write_begun(folder: Path, arguments: Sequence[str]) -> None:
    """Record how a study is started, before its data are prepared.

    Args:
        folder: Folder of the study.
        arguments: Arguments of `search/run.py`, without passwords.
    """
    if (folder / STUDY_FILE).exists():
        return
    write_atomic(folder / BEGUN, json.dumps(_started(folder, arguments)) + "\n")


def record_start(
    folder: Path,
    trials: int,
    arguments: Sequence[str],
    spec: Facts | None = None,
    storage: str | None = None,
) -> None:
    """Record how the study was started last.

    Args:
        folder: Folder of the study.
        trials: Number of trials in all.
        arguments: The command line, without passwords.
        spec: The same options by section, as in a TOML file.
        storage: Where its trials are now, without a password; None leaves what is recorded.
    """
    recorded = read_study_file(folder) or {}
    started = {"trials": trials, **_started(folder, arguments), "spec": spec}
    if storage is not None:
        started["storage"] = storage
    write_study_file(folder, {**recorded, **started})
    (folder / BEGUN).unlink(missing_ok=True)


def _started(folder: Path, arguments: Sequence[str]) -> Facts:
    return {ARGUMENTS: list(arguments), RUNS: str(folder.parent)}


def read_arguments(folder: Path) -> list[str] | None:
    """Command line of the study's newest start, passwords masked, with the places that its files
    have now; None where there is no study, empty where it cannot be read: that is refused later,
    with a reason."""
    files = [file for name in (STUDY_FILE, BEGUN) if (file := folder / name).exists()]
    for file in files:
        try:
            recorded = json.loads(file.read_text(encoding="utf-8"))
            return [moved_text(str(word), recorded, folder) for word in recorded[ARGUMENTS]]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return [] if files else None


def moved_text(text: str, recorded: Facts, folder: Path) -> str:
    """An option's text after the runs folder was moved or copied. A place in that folder goes
    along; so does one outside, a corpus beside it say, if it is there.

    Args:
        text: An absolute path, CORPUS:PATH, the URI of an SQLite file, or anything else.
        recorded: The content of the study's study.json.
        folder: Folder of the study now.
    """
    before, runs = recorded.get(RUNS), folder.absolute().parent
    if before is None or Path(before) == runs:
        return text
    database = sqlite_file(text)
    corpus = re.match(r"[a-z]+:(?=/)|", text)
    head = "" if corpus is None else corpus[0]
    old = database or Path(text.removeprefix(head))
    if not old.is_absolute():
        return text
    new = Path(os.path.normpath(runs / os.path.relpath(old, before)))
    if not (old.is_relative_to(before) or new.exists()):
        return text
    return f"{head}{new}" if database is None else sqlite_uri(new, text.partition("?")[2])


def command_line(arguments: Sequence[str], runs: Path) -> str:
    """A search's command line, as it can be typed in the current folder.

    Args:
        arguments: Arguments of the newest start.
        runs: The folder of studies.
    """
    program, own = Path("search/run.py"), PROJECT_ROOT / "search/run.py"
    if not (program.is_file() and program.samefile(own)):  # another clone may have one, too
        program = own
    return shlex.join(["python", str(program), *with_runs(arguments, runs)])
