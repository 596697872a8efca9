"""What the terminal shows while a study runs: a live table, or plain lines where there is none."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
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

_MAX_ROWS = 12  # of the live table: running trials first, then the newest that ended
_HEARTBEAT_S = 30.0  # without a terminal, a line at least this often
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


@dataclass(eq=False)
class Progress(StudyCallback):
    """A callback that shows the study on a console while it is entered."""

    console: Console
    name: str
    trials: int  # planned in all, earlier starts included, as in `counts`
    epochs: int
    noun: str = "trial"
    counts: dict[str, int] = field(default_factory=dict)
    best: tuple[int, float] | None = None  # number and value
    at_once: int = 1

    def __post_init__(self) -> None:
        self.running: dict[int, _Row] = {}
        self._ended: list[_Row] = []  # of this start, the newest last
        self._lock = threading.Lock()
        self._live: Live | None = None
        self._note = "starting Ray"
        self._last_line = time.monotonic()
        self._stopping = threading.Event()

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live = Live(
                get_renderable=self._render,
                console=self.console,
                refresh_per_second=2,
                redirect_stdout=False,
                redirect_stderr=False,
                transient=True,
            )
            self._live.start()
        else:
            threading.Thread(target=self._heartbeat, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        if self._live is not None:
            self._live.stop()

    def note(self, text: str) -> None:
        """What is happening beside the trials; an empty text takes it away."""
        with self._lock:
            self._note = text
        if text and self._live is None:
            self.say(text)

    def say(self, text: str) -> None:
        """A line that stays, above the table."""
        self._last_line = time.monotonic()
        self.console.print(text, highlight=False, markup=False, soft_wrap=self._live is None)

    def on_trial_start(self, number: int, params: Mapping[str, Value]) -> None:
        with self._lock:
            self.running[number] = _Row(number, params, time.monotonic())

    def on_epoch(self, number: int, report: EpochResult) -> None:
        with self._lock:
            row = self.running[number]
            row.epoch, row.value = report.epoch, report.value
            self._note = ""

    def on_trial_end(self, outcome: TrialOutcome) -> None:
        now, state, value = time.monotonic(), outcome.state.name, outcome.value
        with self._lock:
            row = self.running.pop(outcome.number)
            row.state, row.reason, row.value = state, outcome.reason, value
            row.took = now - row.began
            self._ended.append(row)
            self.counts[state] = self.counts.get(state, 0) + 1
            best = self.best
            if state == COMPLETE and value is not None and (best is None or value > best[1]):
                self.best = (row.number, value)
            head = self._headline(now)
        if self._live is None:
            self.say(f"{self.noun} {row.number} {state}: {row.reason} | {head}")

    def on_worker_lost(self, number: int, reason: str) -> None:
        self.say(
            f"{self.noun} {number}: {reason}; another worker goes on from its newest checkpoint"
        )

    def on_trial_pause(self, number: int, reason: str) -> None:
        with self._lock:
            del self.running[number]

    def _time_left(self, now: float) -> float | None:
        """Seconds to the end, from how long trials of this start took; None before the first."""
        if not self._ended:
            return None
        mean = sum(row.took for row in self._ended) / len(self._ended)
        waiting = max(0, self.trials - sum(self.counts.values()) - len(self.running))
        under_way = sum(max(0.0, mean - (now - row.began)) for row in self.running.values())
        return (waiting * mean + under_way) / max(1, min(self.at_once, waiting + len(self.running)))

    def _headline(self, now: float) -> str:
        ended = [(name, self.counts.get(name)) for name in (COMPLETE, PRUNED, FAIL)]
        counts = ", ".join(f"{count} {name}" for name, count in ended if count)
        best = "none yet"
        if self.best is not None:
            best = f"{self.best[1]:.3f} ({self.noun} {self.best[0]})"
        left = self._time_left(now)
        return (
            f"{sum(self.counts.values())}/{self.trials} {self.noun}s"
            f"{f' ({counts})' if counts else ''}, {len(self.running)} running, best {best}"
            + ("" if left is None else f", about {format_duration(left)} left")
        )

    def _heartbeat(self) -> None:
        while not self._stopping.wait(1.0):
            now = time.monotonic()
            if now - self._last_line >= _HEARTBEAT_S:
                with self._lock:
                    line = self._headline(now) + self._epochs()
                self.say(line)

    def _epochs(self) -> str:
        """How far the running ones are, for a line: a study's first trial ends after minutes."""
        epochs = sorted(row.epoch for row in self.running.values())
        if not epochs or epochs[-1] == 0:
            return ""
        first, last = epochs[0], epochs[-1]
        done = f"epoch {last}" if first == last else f"epochs {first} to {last}"
        return f"; {done} of {self.epochs}"

    def _render(self) -> RenderableType:
        now = time.monotonic()
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=True)
        columns = ((self.noun, 5), ("state", 8), ("epoch", 7), ("value", 5), ("time", 6))
        for title, width in columns:
            table.add_column(title, min_width=width, no_wrap=True)
        table.add_column("settings, or why it ended", ratio=1, overflow="ellipsis", no_wrap=True)
        with self._lock:
            rows = list(self.running.values())
            rows += self._ended[::-1][: max(0, _MAX_ROWS - len(rows))]
            for row in rows:
                is_best = self.best is not None and self.best[0] == row.number
                value = "" if row.value is None else f"{row.value:.3f}"
                table.add_row(
                    str(row.number),
                    Text(row.state.lower(), style=_STYLE.get(row.state, "")),
                    f"{row.epoch}/{self.epochs}",
                    Text(value, style="bold" if is_best else ""),
                    format_duration(now - row.began if row.state == RUNNING else row.took),
                    format_settings(row.params) if row.state in (RUNNING, COMPLETE) else row.reason,
                )
            head = Text(f"study {self.name}: {self._headline(now)}", style="bold")
            note = Text(self._note, style="dim")
        return Group(head, table, note) if note else Group(head, table)
