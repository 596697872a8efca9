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
from optuna.trial import FrozenTrial
from rich.console import Console
from rich.table import Table

from fdan import lock
from fdan.errors import FdanError
from search import epoch_log, storage, study
from search.progress import duration, shown
from search.remembered import ARGUMENTS
from search.trial import folder_of
from tracking.waiting import Waiting, waiting


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
    """A study. state: running, stopped or finished; value: the best trial's, validation UAR."""

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
    except FileNotFoundError:
        raise FdanError(
            f"there is no study '{name}' in {runs}: python -m search list --runs {runs} shows those"
            " that there are"
        ) from None
    except (OSError, ValueError) as error:
        raise FdanError(f"{file} cannot be read: {error}") from None
    place: str = owner["storage"]
    if url is None and place != "journal":
        url = place
    if url is not None and ":***@" in url:
        raise FdanError(
            f"study '{name}' is kept in {place}, whose password is not kept: give --storage"
        )
    with storage.failing_in_words(url):
        opened = optuna.load_study(study_name=name, storage=storage.look_into(url, folder))
        return _status(opened, owner, folder)


def _status(opened: optuna.Study, owner: dict[str, Any], folder: Path) -> Status:
    counts, best = study.counts(opened), study.best(opened)
    wanted = int(owner.get("trials", sum(counts.values())))
    running = lock.owner(folder / study.LOCK)
    whole = sum(counts.values()) >= wanted
    sent = Waiting("", 0, 0)
    with contextlib.suppress(FdanError):  # a driver that died before it recorded anything
        sent = waiting(folder / "spool")
    return Status(
        name=opened.study_name,
        folder=str(folder),
        state="running" if running is not None else "finished" if whole else "stopped",
        driver="" if running is None else str(running),
        wanted=wanted,
        epochs=int(owner["fixed"]["epochs"]),
        counts=counts,
        under_way=tuple(_under_way(trial, folder) for trial in study.under_way(opened)),
        best=None if best is None else best.number,
        value=None if best is None else best.value,
        recorded=sent.recorded,
        unsent=sent.unsent,
        tracking_uri=sent.uri,
        command=shlex.join(["python", "search/run.py", *owner.get(ARGUMENTS, ())]),
    )


def _under_way(trial: FrozenTrial, folder: Path) -> UnderWay:
    values = trial.intermediate_values
    heard: float | None = None
    with contextlib.suppress(OSError):
        heard = time.time() - (folder_of(folder, trial.number) / epoch_log.NAME).stat().st_mtime
    epoch = max(values, default=0)
    return UnderWay(trial.number, epoch, values.get(epoch), heard)


def show(found: Status, console: Console) -> None:
    """A study in a few lines."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("study", f"[bold]{found.name}[/], {found.folder}")
    if found.state == "running":
        table.add_row("state", f"running: {found.driver}")
    elif found.state == "stopped":
        table.add_row("state", "stopped; its command continues it")
    else:
        table.add_row("state", "finished; a higher --trials extends it")
    table.add_row("trials", f"{found.done} of {found.wanted}" + _counts(found))
    if found.best is not None and found.value is not None:
        table.add_row("best", f"trial {found.best}: validation UAR {found.value:.4f}")
    for one in found.under_way:
        value = "" if one.value is None else f", value {shown(one.value)}"
        heard = "" if one.heard_s is None else f", heard of {duration(one.heard_s)} ago"
        what = "under way" if found.state == "running" else "resting"
        table.add_row(what, f"trial {one.trial}: epoch {one.epoch} of {found.epochs}{value}{heard}")
    if found.tracking_uri:
        sent = (
            f"{found.tracking_uri} has all {found.recorded} records"
            if not found.unsent
            else f"{found.unsent} of {found.recorded} records wait for {found.tracking_uri}"
            + ("" if found.state == "running" else f": python -m tracking flush {found.folder}")
        )
        table.add_row("MLflow", sent)
    table.add_row("command", found.command)
    console.print(table, highlight=False, soft_wrap=not console.is_terminal)


def _counts(found: Status) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in found.counts.items() if count)
    return f": {counts}" if counts else ""


def show_all(runs: Path, console: Console) -> int:
    """Every study in `runs`, a row each; returns how many there are."""
    table = Table(box=None, pad_edge=False)
    for title in ("study", "state", "trials", "best", "last change"):
        table.add_column(title, justify="right" if title == "trials" else "left", no_wrap=True)
    names = sorted(file.parent.name for file in runs.glob(f"*/{study.OWNER}"))
    for name in names:
        try:
            found = read(runs, name, None)
        except FdanError as error:
            table.add_row(name, "?", "", str(error), "")
            continue
        best = "" if found.value is None else f"{found.value:.4f} (trial {found.best})"
        changed = datetime.fromtimestamp(_changed(runs / name), UTC).astimezone()
        done = f"{found.done}/{found.wanted}"
        table.add_row(name, found.state, done, best, f"{changed:%Y-%m-%d %H:%M}")
    if names:
        console.print(table, highlight=False)
    return len(names)


def _changed(folder: Path) -> float:
    """When anything was last recorded [s since 1970]."""
    files = [*folder.glob("spool/*.jsonl"), folder / study.OWNER]
    return max(file.stat().st_mtime for file in files)


def as_json(found: Status) -> str:
    return json.dumps(asdict(found), indent=1)
