"""What the terminal shows while a study runs: a live table, or plain lines where there is none."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from search.formatting import format_duration, format_settings
from search.optimizer.space import Value
from search.study.events import StudyCallback, TrialOutcome
from search.worker.messages import EpochResult
from tracking.tags import COMPLETE, FAIL, PRUNED, RUNNING

_MAX_ROWS = 12
"""Rows of the live table: running trials first, then the newest that ended."""

_HEARTBEAT_S = 30.0
"""Without a terminal, a line at least this often."""

_STYLE = {COMPLETE: "green", PRUNED: "yellow", FAIL: "red", RUNNING: "cyan"}


@dataclass
class _Row:
    number: int
    params: Mapping[str, Value]
    began: float
    epoch: int = 0
    value: float | None = None
    state: str = RUNNING
    reason: str = ""
    took: float = 0.0


@dataclass
class ProgressState:
    """What the display knows of the study; the counts include trials of earlier starts."""

    name: str
    trials: int
    """Planned in all."""
    epochs: int
    at_once: int
    noun: str = "trial"
    counts: dict[str, int] = field(default_factory=dict)
    best: tuple[int, float] | None = None
    running: dict[int, _Row] = field(default_factory=dict)
    ended: list[_Row] = field(default_factory=list)
    """Ended trials of this start, the newest last."""

    def end(self, row: _Row) -> None:
        """Count a trial that has ended."""
        self.ended.append(row)
        self.counts[row.state] = self.counts.get(row.state, 0) + 1
        if row.state != COMPLETE or row.value is None:
            return
        if self.best is None or row.value > self.best[1]:
            self.best = (row.number, row.value)

    @property
    def done(self) -> int:
        return sum(self.counts.values())

    def eta(self, now: float) -> float | None:
        """Seconds to the end, from how long trials of this start took; None before the first."""
        if not self.ended:
            return None
        mean = sum(row.took for row in self.ended) / len(self.ended)
        waiting = max(0, self.trials - self.done - len(self.running))
        under_way = sum(max(0.0, mean - (now - row.began)) for row in self.running.values())
        return (waiting * mean + under_way) / max(1, min(self.at_once, waiting + len(self.running)))

    def headline(self, now: float) -> str:
        best = (
            "none yet" if self.best is None else f"{self.best[1]:.3f} ({self.noun} {self.best[0]})"
        )
        counts = ", ".join(
            f"{self.counts[name]} {name}"
            for name in (COMPLETE, PRUNED, FAIL)
            if self.counts.get(name)
        )
        left = self.eta(now)
        eta = "" if left is None else f", about {format_duration(left)} left"
        return (
            f"{self.done}/{self.trials} {self.noun}s{f' ({counts})' if counts else ''}, "
            f"{len(self.running)} running, best {best}{eta}"
        )


class Progress(StudyCallback):
    """A callback that shows the study on a console while it is entered."""

    def __init__(self, state: ProgressState, console: Console) -> None:
        self._state = state
        self._console = console
        self._lock = threading.Lock()
        self._live: Live | None = None
        self._note = "starting Ray"
        self._last_line = time.monotonic()
        self._stopping = threading.Event()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self._render,
                console=self._console,
                refresh_per_second=2,
                redirect_stdout=False,
                redirect_stderr=False,
                transient=True,
            )
            self._live.start()
        else:
            threading.Thread(target=self._heartbeat, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        if self._live is not None:
            self._live.stop()

    def note(self, text: str) -> None:
        """What is happening beside the trials; an empty text takes it away."""
        with self._lock:
            self._note = text
        if text and self._live is None:
            self._line(text)

    def say(self, text: str) -> None:
        """A line that stays, above the table."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=self._live is None)

    def on_trial_start(self, number: int, params: Mapping[str, Value]) -> None:
        with self._lock:
            self._state.running[number] = _Row(number, params, time.monotonic())

    def on_epoch(self, number: int, report: EpochResult) -> None:
        with self._lock:
            row = self._state.running[number]
            row.epoch, row.value = report.epoch, report.value
            self._note = ""

    def on_trial_end(self, outcome: TrialOutcome) -> None:
        now = time.monotonic()
        with self._lock:
            row = self._state.running.pop(outcome.number)
            row.state, row.reason, row.value = outcome.state.name, outcome.reason, outcome.value
            row.took = now - row.began
            self._state.end(row)
            head = self._state.headline(now)
        if self._live is None:
            self._line(
                f"{self._state.noun} {outcome.number} {outcome.state.name}: {outcome.reason}"
                f" | {head}"
            )

    def on_worker_lost(self, number: int, reason: str) -> None:
        noun = self._state.noun
        self.say(f"{noun} {number}: {reason}; another worker goes on from its newest checkpoint")

    def on_trial_pause(self, number: int, reason: str) -> None:
        with self._lock:
            del self._state.running[number]

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _heartbeat(self) -> None:
        while not self._stopping.wait(1.0):
            now = time.monotonic()
            if now - self._last_line >= _HEARTBEAT_S:
                with self._lock:
                    head = self._state.headline(now)
                self._line(head)

    def _render(self) -> RenderableType:
        now = time.monotonic()
        with self._lock:
            state, note = self._state, self._note
            rows = list(state.running.values())
            rows += state.ended[::-1][: max(0, _MAX_ROWS - len(rows))]
            head = Text(f"study {state.name}: {state.headline(now)}", style="bold")
            table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=True)
            for title, width in ((state.noun, 5), ("state", 8), ("epoch", 7), ("value", 5)):
                table.add_column(title, min_width=width, no_wrap=True)
            table.add_column("time", min_width=6, no_wrap=True)
            table.add_column(
                "settings, or why it ended", ratio=1, overflow="ellipsis", no_wrap=True
            )
            for row in rows:
                took = now - row.began if row.state == RUNNING else row.took
                best = state.best is not None and state.best[0] == row.number
                table.add_row(
                    str(row.number),
                    Text(row.state.lower(), style=_STYLE.get(row.state, "")),
                    f"{row.epoch}/{state.epochs}",
                    Text(
                        "" if row.value is None else f"{row.value:.3f}",
                        style="bold" if best else "",
                    ),
                    format_duration(took),
                    format_settings(row.params) if row.state in (RUNNING, COMPLETE) else row.reason,
                )
        return Group(head, table, Text(note, style="dim")) if note else Group(head, table)
