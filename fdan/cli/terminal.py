"""Terminal output of commands: progress of preparing, as bars or lines, and tables."""

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from fdan.corpora.listing import describe_counts
from fdan.data.store import MANIFEST, PASSED_OVER, PrepareProgress
from fdan.data.task import Task
from fdan.media.pixels import ODDITIES

_EVERY_S = 10.0  # without a terminal, a line at most this often


class Preparing:
    """A ProgressCallback while it is entered; silent while there is nothing to do."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Bars | None = None
        self._rows: dict[tuple[str, str], TaskID] = {}
        self._last = time.monotonic()  # what is quick prints nothing
        self._features = 0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bars = Bars(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, progress: PrepareProgress) -> None:
        unreadable = f", {progress.unreadable} unreadable" if progress.unreadable else ""
        text = f"{progress.stage}{unreadable}"
        self._show(progress.source, text, progress.stage, progress.done, progress.total)

    def features(self, done: int, total: int) -> None:
        """Show how far one store's frozen features or maps are, of one store after another.

        Args:
            done: Number of this store's images that are done.
            total: Number of this store's images.
        """
        self._show("frozen stages", "computing", str(self._features), done, total)
        self._features += done >= total

    def _show(self, source: str, text: str, key: str, done: int, total: int) -> None:
        if self._bars is None:
            now = time.monotonic()
            if now - self._last >= _EVERY_S and total:
                self._last = now
                self._console.print(
                    f"{source}: {text} {done}/{total}", highlight=False, markup=False
                )
            return
        if (source, key) not in self._rows:
            self._rows[source, key] = self._bars.add_task("", total=None)
        short = source if len(source) <= 48 else f"...{source[-45:]}"
        self._bars.update(
            self._rows[source, key],
            description=f"{short}: {text}",
            completed=done,
            total=total or None,
        )


def table_console() -> Console:
    """Stdout, wide enough for tables where it is not a terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=120)


def print_left_out(task: Task, console: Console) -> None:
    """Print what the stores could not use of their corpora, and which emotions are absent.

    Args:
        task: The data.
        console: Where it is printed.
    """
    for store in (*task.acoustic, *task.visual):
        listed = f"all are listed in {store.folder / MANIFEST}"
        prepare = "python -m fdan prepare lists all"
        for what, files, where in (
            ("unreadable", store.unreadable, listed),
            ("left out or missing", store.problems, prepare),
        ):
            if files:
                line = (
                    f"{store.corpus} ({store.modality}): {len(files)} {what}, such as"
                    f" {files[0]['path']}: {files[0]['reason']}; {where}"
                )
                console.print(line, style="yellow", highlight=False, markup=False)
    print_beside(task, console)


def print_beside(task: Task, console: Console) -> None:
    """Print what lies in the corpora's folders and is not used, what is odd about files that are,
    and which emotions are absent.

    Args:
        task: The data.
        console: Where it is printed.
    """
    for store in (*task.acoustic, *task.visual):
        beside = {
            name.removeprefix(PASSED_OVER): count
            for name, count in store.counts.items()
            if name.startswith(PASSED_OVER)
        }
        odd = [f"{store.counts[name]} with {name}" for name in ODDITIES if name in store.counts]
        for text in (f"not used: {describe_counts(beside)}" if beside else "", *odd):
            if text:
                line = f"{store.corpus} ({store.modality}): {text}"
                console.print(line, style="yellow", highlight=False, markup=False)
    for modality, emotions in task.absent.items():
        line = (
            f"no {modality} sample of {', '.join(emotions)}: no model learns that from these data"
        )
        console.print(line, style="bold red", highlight=False, markup=False)
