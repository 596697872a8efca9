"""How a study is, read from its storage and its folder without touching either."""

from __future__ import annotations

import contextlib
import json
import shlex
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from fdan.errors import FdanError
from fdan.lock import lock_owner
from search.formatting import format_duration, format_value
from search.study import open as study
from search.study import storage
from search.study.start_record import BEGUN, command_line, read_arguments
from search.worker.epoch_log import EPOCH_LOG
from search.worker.trial_folder import trial_folder
from tracking.outbox.backlog import Backlog, read_backlog
from tracking.uri import is_masked, mask_password


@dataclass(frozen=True)
class UnderWay:
    """A trial that has not ended."""

    trial: int
    epoch: int
    value: float | None
    heard_s: float | None
    """Seconds since its last epoch."""


@dataclass(frozen=True)
class Status:
    """A study. state: preparing its data or begun (not even prepared), running, stopped or
    finished; value: the best trial's, validation UAR."""

    name: str
    folder: str
    state: str
    driver: str
    """Who runs it, nothing where nobody does."""
    wanted: int
    epochs: int
    counts: Mapping[str, int]
    under_way: tuple[UnderWay, ...]
    best: int | None
    value: float | None
    recorded: int
    unsent: int
    tracking_uri: str
    command: str
    """That continues it."""

    @property
    def done(self) -> int:
        return sum(self.counts.values())


def read(runs: Path, name: str, url: str | None) -> Status:
    """The study `name` in `runs`; url: its storage, where its folder does not say enough. Raises
    FdanError where there is no such study or it cannot be read."""
    folder = runs / name
    file = folder / study.OWNER
    try:
        owner: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        place: str = owner["storage"]
        epochs = int(owner["fixed"]["epochs"])
    except FileNotFoundError:
        if (folder / BEGUN).exists():
            return _begun(folder)
        raise FdanError(
            f"there is no study '{name}' in {runs}: python -m search list --runs {runs} shows those"
            " that there are"
        ) from None
    except (OSError, ValueError) as error:
        raise FdanError(f"{file} cannot be read: {error}") from None
    except (TypeError, KeyError):
        raise FdanError(f"{file} cannot be read: it is not a study's") from None
    if url is None and place != "journal":
        url = place
    if url is not None and is_masked(url):
        raise FdanError(
            f"study '{name}' is kept in {place}, whose password is not kept: give --storage"
        )
    with storage.failing_in_words(url):
        return _status(_opened(name, url, folder), owner, folder, epochs)


def _opened(name: str, url: str | None, folder: Path) -> optuna.Study:
    place = folder / storage.JOURNAL if url is None else mask_password(url)
    try:
        kept = storage.look_into(url, folder)
        if name in optuna.get_all_study_names(kept):
            return optuna.load_study(study_name=name, storage=kept)
    except (FdanError, SQLAlchemyError, StorageInternalError):
        raise
    except Exception as error:  # of any kind, where Optuna replays a journal that is damaged
        raise FdanError(f"study '{name}': {place} cannot be read: {_line(error)}") from None
    raise FdanError(f"study '{name}': its trials are gone from {place}: bring that back")


def _begun(folder: Path) -> Status:
    """A study whose data are not prepared yet, or were being when its driver died."""
    running = lock_owner(folder / study.LOCK)
    return Status(
        name=folder.name,
        folder=str(folder),
        state="begun" if running is None else "preparing",
        driver="" if running is None else str(running),
        wanted=0,
        epochs=0,
        counts={},
        under_way=(),
        best=None,
        value=None,
        recorded=0,
        unsent=0,
        tracking_uri="",
        command=_command(folder),
    )


def _status(opened: optuna.Study, owner: dict[str, Any], folder: Path, epochs: int) -> Status:
    counts, best = study.counts(opened), study.best(opened)
    wanted = int(owner.get("trials", 0))  # 0: its driver died in the moment before it wrote that
    running = lock_owner(folder / study.LOCK)
    whole = 0 < wanted <= sum(counts.values())
    sent = Backlog("", 0, 0)
    with contextlib.suppress(FdanError):  # a driver that died before it recorded anything
        sent = read_backlog(folder / "spool")
    return Status(
        name=opened.study_name,
        folder=str(folder),
        state="running" if running is not None else "finished" if whole else "stopped",
        driver="" if running is None else str(running),
        wanted=wanted,
        epochs=epochs,
        counts=counts,
        under_way=tuple(_under_way(trial, folder) for trial in study.under_way(opened)),
        best=None if best is None else best.number,
        value=None if best is None else best.value,
        recorded=sent.recorded,
        unsent=sent.unsent,
        tracking_uri=sent.uri,
        command=_command(folder),
    )


def _command(folder: Path) -> str:
    return command_line(read_arguments(folder) or ())


def _under_way(trial: FrozenTrial, folder: Path) -> UnderWay:
    values = trial.intermediate_values
    heard: float | None = None
    with contextlib.suppress(OSError):
        heard = time.time() - (trial_folder(folder, trial.number) / EPOCH_LOG).stat().st_mtime
    epoch = max(values, default=0)
    return UnderWay(trial.number, epoch, values.get(epoch), heard)


_STATES = {
    "preparing": "preparing its data: {driver}",
    "begun": "stopped while its data were prepared",
    "running": "running: {driver}",
    "stopped": "stopped",
    "finished": "finished",
}

_ON = {
    "begun": "this begins it",
    "stopped": "this continues it",
    "finished": "this with a higher --trials extends it",
}


def show(found: Status, console: Console) -> None:
    """A study in a few lines. What is to be typed has a line of its own, however long."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("study", f"[bold]{found.name}[/], {escape(found.folder)}")
    table.add_row("state", _STATES[found.state].format(driver=found.driver))
    if found.wanted:
        table.add_row("trials", f"{found.done} of {found.wanted}" + _counts(found))
    if found.best is not None and found.value is not None:
        table.add_row("best", f"trial {found.best}: validation UAR {found.value:.4f}")
    for one in found.under_way:
        value = "" if one.value is None else f", value {format_value(one.value)}"
        heard = "" if one.heard_s is None else f", heard of {format_duration(one.heard_s)} ago"
        what = "under way" if found.state == "running" else "resting"
        table.add_row(what, f"trial {one.trial}: epoch {one.epoch} of {found.epochs}{value}{heard}")
    if found.tracking_uri:
        sent = (
            f"{found.tracking_uri} has all {found.recorded} records"
            if not found.unsent
            else f"{found.unsent} of {found.recorded} records wait for {found.tracking_uri}"
        )
        table.add_row("MLflow", escape(sent))
    console.print(table, highlight=False, soft_wrap=not console.is_terminal)
    if found.unsent and found.state != "running":
        _command_line(
            "this sends what waits",
            shlex.join(["python", "-m", "tracking", "flush", found.folder]),
            console,
        )
    _command_line(_ON.get(found.state, "it was started with"), found.command, console)


def _command_line(what: str, command: str, console: Console) -> None:
    console.print(f"{what}:", style="dim", highlight=False)
    console.print(command, highlight=False, markup=False, soft_wrap=True)


def _counts(found: Status) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in found.counts.items() if count)
    return f": {counts}" if counts else ""


def show_all(runs: Path, console: Console) -> int:
    """Every study in `runs`, a row each; returns how many there are."""
    table = Table(box=None, pad_edge=False)
    for title in ("study", "state", "trials", "best", "last change"):
        table.add_column(title, justify="right" if title == "trials" else "left", no_wrap=True)
    files = [*runs.glob(f"*/{study.OWNER}"), *runs.glob(f"*/{BEGUN}")]
    names = sorted({file.parent.name for file in files})
    unread: list[str] = []
    for name in names:
        try:
            found = read(runs, name, None)
        except FdanError as error:
            table.add_row(name, "?", "", "", "")
            unread.append(f"{name}: {' '.join(str(error).split())}")
            continue
        best = "" if found.value is None else f"{found.value:.4f} (trial {found.best})"
        changed = datetime.fromtimestamp(_changed(runs / name), UTC).astimezone()
        done = f"{found.done}/{found.wanted}" if found.wanted else ""
        table.add_row(name, found.state, done, best, f"{changed:%Y-%m-%d %H:%M}")
    if names:
        console.print(table, highlight=False)
    for line in unread:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return len(names)


def _changed(folder: Path) -> float:
    """When anything was last recorded [s since 1970]."""
    names = ("spool/*.jsonl", study.OWNER, BEGUN)
    return max(file.stat().st_mtime for name in names for file in folder.glob(name))


def _line(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def as_json(found: Status) -> str:
    return json.dumps(asdict(found), indent=1)
