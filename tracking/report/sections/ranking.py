"""Who came first: settings confirmed with fresh seeds, with intervals; the search's own order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from tracking.report.blocks import Block, Code, Figure, Table, Text, columns, note, numbers
from tracking.report.charts import intervals
from tracking.report.charts.axes import around
from tracking.report.charts.intervals import Row
from tracking.report.formatting import count, duration, interval, is_number, score, short, signed
from tracking.report.selectors import complete, is_winner, reached, setting_or_dash, settings
from tracking.result import ConfirmedSetting, StudyResult

_BEST: Final = 10


def ranking_blocks(result: StudyResult) -> Iterator[Block]:
    yield from _confirmed(result)
    yield from _searched(result)


def _confirmed(result: StudyResult) -> Iterator[Block]:
    confirm = result.confirm
    if confirm is None:
        yield note(
            "No setting was run again with fresh seeds, so the order is that of one seed each."
        )
        if complete(result):
            yield Code(f"{result.command} --confirm 3 --seeds 3")
        return
    ranking = confirm.settings
    rows = [
        Row(
            f"trial {entry.trial}",
            entry.mean,
            score(entry.mean),
            entry.low,
            entry.high,
            tuple(entry.values),
            entry.search_value,
            strong=entry.trial == confirm.winner,
            title=f"trial {entry.trial}: {settings(entry.params, result.space)}",
        )
        for entry in ranking
        if is_number(entry.mean)
    ]
    ends = [
        value
        for row in rows
        for value in (row.value, row.low, row.high, row.before, *row.single)
        if value is not None and is_number(value)
    ]
    label = "Confirmed settings, the best mean first"
    table = Table(
        (*columns("trial"), *numbers("mean", "95 % interval", "search", "optimism")),
        tuple(
            (
                str(entry.trial),
                score(entry.mean),
                interval(entry.low, entry.high),
                score(entry.search_value),
                signed(entry.optimism),
            )
            for entry in ranking
        ),
        frozenset(i for i, entry in enumerate(ranking) if entry.trial == confirm.winner),
    )
    if rows:
        scale = around(ends)
        yield Figure(
            label,
            "Each setting ran again with fresh seeds; the mean decides. Where the diamond lies"
            " right of the mean, the search had been lucky with it.",
            intervals.draw(rows, scale, label, "validation UAR", wide=True),
            intervals.draw(rows, scale, label, "validation UAR", wide=False),
            (
                ("point strong", "mean"),
                ("single", "a fresh seed"),
                ("before", "what the search said"),
            ),
        )
    yield table
    if (words := _settled(ranking)) is not None:
        yield words


def _settled(ranking: Sequence[ConfirmedSetting]) -> Text | None:
    """Whether first and second can be told apart."""
    if len(ranking) < 2:
        return None
    first, second = ranking[0], ranking[1]
    if not (is_number(first.low) and is_number(second.high)):
        return note("Without intervals the order may be chance: confirm with three seeds or more.")
    if second.high < first.low:
        return Text("The intervals of the first and the second do not overlap.")
    return note(
        "The intervals of the first and the second overlap: which of the two is better is not"
        " settled, and more seeds could change their order."
    )


def _searched(result: StudyResult) -> Iterator[Block]:
    best, names = complete(result), list(result.space)
    if not result.trials:
        yield note("The study has no trial yet.")
        return
    if best:
        which = f"the best {_BEST} of {len(best)} complete trials"
        if len(best) <= _BEST:
            which = f"all {len(best)} complete trials" if len(best) > 1 else "the only complete one"
        yield Text(f"The search's own order, one seed a trial: {which}.")
        yield Table(
            (*columns("trial"), *numbers("value", *names)),
            tuple(
                (
                    str(trial.number),
                    score(trial.value),
                    *(setting_or_dash(trial.params, name) for name in names),
                )
                for trial in best[:_BEST]
            ),
            frozenset(i for i, trial in enumerate(best[:_BEST]) if is_winner(result, trial)),
        )
    yield Table(
        (
            *columns("trial", "state"),
            *numbers("value", "epochs", "time", *names),
            *columns("why"),
        ),
        tuple(
            (
                str(trial.number),
                trial.state.lower(),
                score(reached(trial)),
                str(trial.epochs),
                duration(trial.seconds),
                *(setting_or_dash(trial.params, name) for name in names),
                short(trial.reason, 120),
            )
            for trial in result.trials
        ),
        frozenset(i for i, trial in enumerate(result.trials) if is_winner(result, trial)),
        folded=f"All {count(len(result.trials), 'trial')}"
        if len(result.trials) > 1
        else "The trial",
    )
