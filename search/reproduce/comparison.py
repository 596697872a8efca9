"""Compares the metrics of a recorded trial with those of its repetition, epoch by epoch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.table import Table

_MAX_ROWS: Final = 10  # metrics in the table of differences


@dataclass(frozen=True)
class MetricDifference:
    """A metric whose values differ in an epoch; nan where one side has none."""

    epoch: int
    metric: str
    recorded: float
    repeated: float

    @property
    def difference(self) -> float:
        """The difference relative to the larger value, so that losses and rates can be compared;
        infinite where a value is not finite."""
        if not (math.isfinite(self.recorded) and math.isfinite(self.repeated)):
            return math.inf
        return abs(self.recorded - self.repeated) / max(abs(self.recorded), abs(self.repeated))


@dataclass(frozen=True)
class Comparison:
    """How a repetition compares with the run."""

    epochs: int  # number of repeated epochs, from the first
    recorded: int  # number of epochs of the run
    metrics: int  # number of metrics that were compared
    differing: tuple[MetricDifference, ...]

    @property
    def line(self) -> str:
        """The outcome in a line."""
        if not self.differing:
            return (
                f"epoch {self.epochs} of {self.recorded}: all {self.metrics} metrics of"
                f" {self.epochs} epoch{'s' * (self.epochs != 1)} equal to the last digit"
            )
        first = self.differing[0]
        names = {difference.metric for difference in self.differing}
        return (
            f"{len(names)} of {self.metrics} metrics differ, first {first.metric} in epoch"
            f" {first.epoch}; the largest differences:"
        )

    @property
    def largest(self) -> list[MetricDifference]:
        """The largest difference of each metric, the largest of all first."""
        largest: dict[str, MetricDifference] = {}
        for item in sorted(self.differing, key=lambda item: -item.difference):
            largest.setdefault(item.metric, item)
        return [*largest.values()][:_MAX_ROWS]

    def show(self, console: Console) -> None:
        """Print that all metrics are equal, or the table of those that differ."""
        console.print(self.line, highlight=False, soft_wrap=True)
        if not self.differing:
            return
        table = Table(box=None)
        for title in ("metric", "epoch", "there", "here", "relative difference"):
            table.add_column(title, justify="left" if title == "metric" else "right")
        for item in self.largest:
            cells = (str(item.epoch), repr(item.recorded), repr(item.repeated))
            table.add_row(item.metric, *cells, f"{item.difference:.1e}")
        console.print(table)


def compare(
    recorded: Mapping[int, Mapping[str, float]], repeated: Mapping[int, Mapping[str, float]]
) -> Comparison:
    """Compare two trainings of one trial.

    Args:
        recorded: Metrics by epoch of MLflow's run.
        repeated: Metrics by epoch of the repetition.
    """
    names, differing = set[str](), []
    for epoch in sorted(repeated):
        before, after = recorded.get(epoch, {}), repeated[epoch]
        for name in sorted(before.keys() | after.keys()):
            names.add(name)
            old, new = before.get(name, math.nan), after.get(name, math.nan)
            equal = old == new or (math.isnan(old) and math.isnan(new))
            if (name in before) != (name in after) or not equal:
                differing.append(MetricDifference(epoch, name, old, new))
    return Comparison(len(repeated), len(recorded), len(names), tuple(differing))
