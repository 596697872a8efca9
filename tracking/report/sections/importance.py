"""Which settings mattered."""

from __future__ import annotations

from collections.abc import Iterator

from tracking.report.blocks import Block, Figure, Table, columns, note, numbers
from tracking.report.charts import intervals
from tracking.report.charts.axes import Linear
from tracking.report.charts.intervals import Row
from tracking.report.formatting import count, is_number, percent
from tracking.report.selectors import explained
from tracking.result import StudyResult


def importance_blocks(result: StudyResult) -> Iterator[Block]:
    importances = result.importances
    values = {k: value for k, value in importances.values.items() if is_number(value.mean)}
    trials = count(importances.trials, "complete trial")
    if not values:
        yield note(f"Too few trials: of {trials} nothing can be said about what mattered.")
        return
    if not importances.enough:
        yield note(
            f"Too few trials: of {trials} the intervals are so wide that the order below is"
            " arbitrary. Do not choose a setting by it."
        )
    rows = [
        Row(
            name,
            100 * value.mean,
            percent(value.mean),
            100 * value.low,
            100 * value.high,
            title=f"{name}, {explained(name)}" if explained(name) else name,
            strong=bool(importances.enough) and index == 0,
        )
        for index, (name, value) in enumerate(values.items())
    ]
    highest = max(max(row.value, row.high or 0.0) for row in rows)
    scale = Linear(0.0, min(100.0, max(highest, 10.0) * 1.04))
    label = "Share of the difference between good trials and all trials"
    yield Figure(
        label,
        f"{importances.method}, over {trials}; lines are {percent(0.95)} intervals of bootstrap"
        " samples of the trials. A setting that the search kept in a narrow range seems less"
        " important than it is.",
        intervals.draw(rows, scale, label, "importance [%]", wide=True, bars=True),
        intervals.draw(rows, scale, label, "importance [%]", wide=False, bars=True),
        table=Table(
            (*columns("setting"), *numbers("importance", "95 % interval")),
            tuple(
                (
                    name,
                    percent(value.mean),
                    f"{percent(value.low)} to {percent(value.high)}",
                )
                for name, value in values.items()
            ),
        ),
    )
