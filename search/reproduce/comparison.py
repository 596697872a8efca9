"""Metrics of one trial, trained twice, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.table import Table

_SHOWN: Final = 10
"""Metrics in the table of differences."""


@dataclass(frozen=True)
class Differing:
    """One figure that came out otherwise; nan where one side has none."""

    epoch: int
    metric: str
    there: float
    here: float

    @property
    def difference(self) -> float:
        """Relative to the larger of the two, so that a loss and a rate can be compared; infinite
        where one of them is not finite."""
        if not (math.isfinite(self.there) and math.isfinite(self.here)):
            return math.inf
        return abs(self.there - self.here) / max(abs(self.there), abs(self.here))


@dataclass(frozen=True)
class Compared:
    """epochs: of which so many were trained again, `last` the last one; recorded: how many the run
    has; metrics: names that were compared."""

    epochs: int
    last: int
    recorded: int
    metrics: int
    differing: tuple[Differing, ...]

    @property
    def line(self) -> str:
        """What came of it."""
        if not self.differing:
            return (
                f"epoch {self.last} of {self.recorded}: all {self.metrics} metrics of"
                f" {self.epochs} epoch{'s' * (self.epochs != 1)} equal to the last digit"
            )
        first = self.differing[0]
        names = {one.metric for one in self.differing}
        return (
            f"{len(names)} of {self.metrics} metrics differ, first {first.metric} in epoch"
            f" {first.epoch}; the largest differences:"
        )

    @property
    def largest(self) -> list[Differing]:
        """A metric's largest difference each, the largest of all first."""
        found: dict[str, Differing] = {}
        for one in self.differing:
            held = found.get(one.metric)
            if held is None or one.difference > held.difference:
                found[one.metric] = one
        return sorted(found.values(), key=lambda one: -one.difference)[:_SHOWN]


def compare(
    recorded: Mapping[int, Mapping[str, float]], found: Mapping[int, Mapping[str, float]]
) -> Compared:
    """Compare two trainings of one trial.

    Args:
        recorded: {epoch: metrics} of MLflow's run.
        found: The same of the epochs that were trained again.
    """
    names, differing = set[str](), []
    for epoch in sorted(found):
        there, here = recorded.get(epoch, {}), found[epoch]
        for name in sorted(there.keys() | here.keys()):
            names.add(name)
            one = Differing(epoch, name, there.get(name, math.nan), here.get(name, math.nan))
            both_nan = math.isnan(one.there) and math.isnan(one.here)
            if (name in there) != (name in here) or not (one.there == one.here or both_nan):
                differing.append(one)
    return Compared(len(found), max(found), len(recorded), len(names), tuple(differing))


def show(compared: Compared, console: Console) -> None:
    """Print that all metrics are equal, or the table of those that differ.

    Args:
        compared: The comparison.
        console: Where to.
    """
    console.print(compared.line, highlight=False, soft_wrap=True)
    if not compared.differing:
        return
    table = Table(box=None)
    for title in ("metric", "epoch", "there", "here", "relative difference"):
        table.add_column(title, justify="left" if title == "metric" else "right")
    for one in compared.largest:
        cells = (str(one.epoch), repr(one.there), repr(one.here), f"{one.difference:.1e}")
        table.add_row(one.metric, *cells)
    console.print(table)
