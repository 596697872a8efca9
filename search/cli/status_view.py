"""`python -m search list` and `status`: studies as the terminal shows them."""

import shlex
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fdan.data.partial_store import stores_being_made
from fdan.errors import FdanError
from search.formatting import format_duration, format_value
from search.nested.status import NestedStatus, is_nested, read_nested_status
from search.study.folder import BEGUN, STUDY_FILE
from search.study.status import StudyStatus, read_status

_STATES = {
    "preparing": "preparing its data: {driver}",
    "begun": "stopped while its data were prepared",
    "running": "running: {driver}",
    "stopped": "stopped",
    "finished": "finished",
}

_COMMANDS = {
    "begun": "this begins it",
    "stopped": "this continues it",
    "finished": "this with a higher --trials extends it",
}
"""What the study's command does, by the study's state."""

_RECORDS = ("spool/*.jsonl", STUDY_FILE, BEGUN)  # files that change when anything is recorded


def show_status(status: StudyStatus) -> None:
    """Print a study in a few lines. A command has a line of its own, however long, and no line is
    broken here: a folder or URI can be copied in one piece."""
    console = Console()
    rows: list[tuple[str, str]] = []
    rows.append(("study", f"[bold]{status.name}[/], {escape(status.folder)}"))
    rows.append(("state", _STATES[status.state].format(driver=status.driver)))
    if status.wanted:
        counts = ", ".join(f"{count} {state}" for state, count in status.counts.items() if count)
        rows.append(
            ("trials", f"{status.done} of {status.wanted}" + (f": {counts}" if counts else ""))
        )
    if status.best is not None and status.value is not None:
        rows.append(("best", f"trial {status.best}: validation UAR {status.value:.4f}"))
    for trial in status.under_way:
        label = "under way" if status.state == "running" else "resting"
        text = f"trial {trial.trial}: epoch {trial.epoch} of {status.epochs}"
        if trial.value is not None:
            text += f", value {format_value(trial.value)}"
        if trial.heard_s is not None:
            text += f", last epoch {format_duration(trial.heard_s)} ago"
        rows.append((label, text))
    _show_end(status, rows, _COMMANDS.get(status.state, "it was started with"), console)


def show_nested_status(status: NestedStatus) -> None:
    """Print a nested study in a few lines, one for each outer fold that was begun."""
    console = Console()
    rows: list[tuple[str, str]] = []
    rows.append(("nested study", f"[bold]{status.name}[/], {escape(status.folder)}"))
    rows.append(("state", _STATES[status.state].format(driver=status.driver)))
    rows.append(("outer folds", f"{status.done} of {status.outer} done"))
    for study in status.studies:
        best = "" if study.value is None else f", best validation UAR {study.value:.4f}"
        text = f"{study.state}, {study.done} of {study.wanted} trials{best}"
        rows.append((study.name, escape(text)))
    if status.uar is not None:
        rows.append(("outer test UAR", _with_interval(status)))
    command = "this continues it" if status.state == "stopped" else "it was started with"
    _show_end(status, rows, command, console)


def _with_interval(status: NestedStatus) -> str:
    interval = f" ({format_value(status.low)} .. {format_value(status.high)})"
    return f"{status.uar:.4f}{interval}, over {status.done} of {status.outer} outer folds"


def _show_end(
    status: StudyStatus | NestedStatus, rows: list[tuple[str, str]], what: str, console: Console
) -> None:
    """Print what was gathered, then where its records are, and its command. what: it does."""
    if status.tracking_uri:
        sent = f"{status.tracking_uri} has all {status.recorded} records"
        if status.unsent:
            sent = f"{status.unsent} of {status.recorded} records wait for {status.tracking_uri}"
        rows.append(("MLflow", escape(sent)))
    width = max(len(label) for label, _ in rows)
    for label, text in rows:
        console.print(f"[dim]{escape(label):<{width}}[/]  {text}", highlight=False, soft_wrap=True)
    if status.unsent and status.state != "running":
        flush = shlex.join(["python", "-m", "tracking", "flush", status.folder])
        _show_command("this sends what waits", flush, console)
    _show_command(what, status.command, console)


def show_studies(runs: Path) -> None:
    """Print every study in a folder, a row each, and the data that are being prepared there: a
    study whose name is made of its data is none before they are."""
    console = Console()
    _show_rows(runs, console)
    for store in stores_being_made(runs / "stores"):
        line = f"data being prepared: {store.name}, {store.files} files so far ({store.owner})"
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _show_rows(runs: Path, console: Console) -> None:
    names = sorted({file.parent.name for n in (STUDY_FILE, BEGUN) for file in runs.glob(f"*/{n}")})
    if not names:
        console.print(f"no studies in {runs}", highlight=False, soft_wrap=True)
        return
    table = Table(box=None, pad_edge=False)
    for title in ("study", "state", "trials", "best", "last change"):
        table.add_column(title, justify="right" if title == "trials" else "left", no_wrap=True)
    unreadable: list[str] = []
    for name in names:
        try:
            state, done, best = _row(runs, name)
        except FdanError as error:
            table.add_row(name, "?", "", "", "")
            unreadable.append(f"{name}: {' '.join(str(error).split())}")
            continue
        files = [f for n in _RECORDS for f in (runs / name).glob(n)]
        last_change = max(file.stat().st_mtime for file in files)
        changed = datetime.fromtimestamp(last_change, UTC).astimezone()
        table.add_row(name, state, done, best, f"{changed:%Y-%m-%d %H:%M}")
    console.print(table, highlight=False)
    for line in unreadable:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _row(runs: Path, name: str) -> tuple[str, str, str]:
    """A study's state, what of it is done, and its best value; of a nested one, its outer folds,
    and the figure of their test parts."""
    if is_nested(runs / name):
        nested = read_nested_status(runs, name, None)
        tested = "" if nested.uar is None else f"{nested.uar:.4f} (outer test)"
        return nested.state, f"{nested.done}/{nested.outer} folds", tested
    status = read_status(runs, name, None)
    best = "" if status.value is None else f"{status.value:.4f} (trial {status.best})"
    return status.state, f"{status.done}/{status.wanted}" if status.wanted else "", best


def _show_command(what: str, command: str, console: Console) -> None:
    console.print(f"{what}:", style="dim", highlight=False)
    console.print(command, highlight=False, markup=False, soft_wrap=True)
