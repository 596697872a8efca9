"""Violations and figures of one or more subjects, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.chaos.course import Finished
from benchmarks.chaos.faults import HELP
from benchmarks.chaos.invariants import INVARIANTS, check
from benchmarks.chaos.stores import FINAL, Life

_KILLED = ("driver", "worker")

_SHOWN = 8
"""Violations of a kind that are told in full."""


@dataclass
class Result:
    """What became of one subject."""

    subject: str
    violations: dict[str, list[str]] = field(default_factory=lambda: {t: [] for t in INVARIANTS})
    faults: Counter[str] = field(default_factory=Counter)
    phases: dict[str, Counter[str]] = field(default_factory=lambda: {k: Counter() for k in _KILLED})
    """Of the lives of drivers and workers, in which they were killed."""
    states: Counter[str] = field(default_factory=Counter)
    figures: dict[str, float] = field(default_factory=dict)
    ends: list[str] = field(default_factory=list)
    """Drivers that ended by themselves without success."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Kind of fault -> why it was not given."""

    @property
    def violated(self) -> int:
        return sum(map(len, self.violations.values()))

    def add(self, done: Finished) -> None:
        name, evidence = done.study.name, done.evidence
        for title, lines in check(evidence).items():
            self.violations[title] += [f"{name}: {line}" for line in lines]
        self.faults.update(kind for kind, _ in done.given)
        for kind, phases in self.phases.items():
            phases.update(phase for of, phase in done.given if of == kind)
        trials = evidence.stores.trials
        self.states.update(trial.state for trial in trials)
        self.ends += [
            f"{name}: {_after(life)}, exit code {life.code}: {life.line}"
            for life in evidence.lives
            if life.code not in (None, 0)
        ]
        for title, value in {
            "studies": 1,
            "drivers started": len(evidence.lives),
            "trials": len(trials),
            "epochs in Optuna": sum(len(trial.values) for trial in trials),
            "epochs trained again": done.trained_again,
            "trials compared with undisturbed ones": len(evidence.undisturbed),
            "  of them interrupted": done.interrupted,
            "minutes": evidence.lives[-1].ended / 60 if evidence.lives else 0.0,
        }.items():
            self.figures[title] = self.figures.get(title, 0) + value

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**vars(self), "violated": self.violated}


def show(results: Sequence[Result], console: Console) -> None:
    """The table, and below it what its numbers stand for."""
    table = Table(title="after the faults, in Optuna's and MLflow's stores", title_justify="left")
    table.add_column("violations")
    for result in results:
        table.add_column(result.subject, justify="right")
    for title in INVARIANTS:
        table.add_row(title, *(_count(len(result.violations[title])) for result in results))
    table.add_row("all", *(_count(result.violated) for result in results), style="bold")
    table.add_section()
    table.add_row("faults", style="bold")
    for kind in HELP:
        table.add_row(kind, *(_given(kind, result) for result in results))
    table.add_section()
    table.add_row("figures", style="bold")
    for title in results[0].figures:
        cells = [result.figures.get(title, 0.0) for result in results]
        table.add_row(title, *(f"{v:.1f}" if title == "minutes" else f"{v:.0f}" for v in cells))
    for state in sorted({state for result in results for state in result.states}):
        row = (str(result.states[state]) for result in results)
        table.add_row(f"  {state}", *row, style="" if state in FINAL else "red")
    console.print(table)
    for result in results:
        for title, lines in result.violations.items():
            _list(console, f"{result.subject}: {title}", lines)
        _list(console, f"{result.subject}: drivers that ended by themselves", result.ends)
        for kind, why in result.skipped.items():
            console.print(f"{result.subject}: no {kind} faults: {why}", highlight=False)


def _list(console: Console, title: str, lines: Sequence[str]) -> None:
    if not lines:
        return
    console.print(f"\n{title}: {len(lines)}", style="bold", highlight=False, markup=False)
    for line in lines[:_SHOWN]:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    if len(lines) > _SHOWN:
        console.print(f"  and {len(lines) - _SHOWN} more", highlight=False)


def _after(life: Life) -> str:
    return f"after {', '.join(life.faults)}" if life.faults else "nothing done to it"


def _count(number: int) -> str:
    return f"[red]{number}[/]" if number else "[green]0[/]"


def _given(kind: str, result: Result) -> str:
    if kind in result.skipped:
        return "skipped"
    if not result.phases.get(kind):
        return str(result.faults[kind])
    phases = ", ".join(f"{count} {phase}" for phase, count in sorted(result.phases[kind].items()))
    return f"{result.faults[kind]} ({phases})"
