"""Who came first: settings confirmed with fresh seeds, with intervals; the search's own order."""

from collections.abc import Iterator
from typing import Final

from tracking.report.blocks import Block, Code, Figure, Note, Table, Text
from tracking.report.drawing import Row, around, rows_picture
from tracking.report.formatting import (
    NOTHING,
    count,
    duration,
    interval,
    listed,
    score,
    setting,
    short,
    signed,
)
from tracking.report.selectors import complete, confirm_end, reached, settings, winner
from tracking.result import SEPARATED, Behind, Confirmation, StudyResult

_BEST: Final = 10


def ranking_blocks(result: StudyResult) -> Iterator[Block]:
    if result.confirm is not None:
        yield from _confirmed(result, result.confirm)
    else:
        yield Note(
            "No setting was run again with fresh seeds, so the order is that of one seed each."
        )
        if complete(result):
            yield Code(f"{result.command} --confirm 3 --seeds 3")
    yield from _searched(result)


def _confirmed(result: StudyResult, confirm: Confirmation) -> Iterator[Block]:
    rows = [
        Row(
            f"trial {entry.trial}",
            entry.mean,
            entry.low,
            entry.high,
            entry.values,
            entry.search_value,
            strong=entry.trial == confirm.winner,
            title=f"trial {entry.trial}: {settings(entry.params, result.space)}",
        )
        for entry in confirm.settings
    ]
    label = "Confirmed settings, the winner first"
    scale = around(value for row in rows for value in row.values())
    yield Figure(
        label,
        "Each setting ran again with fresh seeds; the mean decides among those with the most seeds,"
        " and a setting that cannot win any more gets no further ones. Where the diamond lies right"
        " of the mean, the search had been lucky with it.",
        rows_picture(rows, scale, label, "validation UAR"),
        (("point strong", "mean"), ("single", "a fresh seed"), ("before", "what the search said")),
    )
    yield Table(
        ("trial", "seeds", "mean", "95 % interval", "behind the winner", "search", "optimism"),
        [
            (
                entry.trial,
                len(entry.values),
                score(entry.mean),
                interval(entry.low, entry.high),
                _behind(entry.behind),
                score(entry.search_value),
                signed(entry.optimism),
            )
            for entry in confirm.settings
        ],
        strong=confirm.winner,
    )
    if ended := confirm_end(confirm):
        words = f"{ended[0].upper()}{ended[1:]}."
        yield Text(words) if confirm.ended == SEPARATED else Note(words)
    if len(confirm.settings) > 1:
        yield from _settled(confirm)


def _behind(difference: Behind | None) -> str:
    """By how much a setting is behind the winner, with its interval."""
    if difference is None:
        return NOTHING
    return f"{signed(difference.mean)} ({signed(difference.low)} to {signed(difference.high)})"


def _settled(confirm: Confirmation) -> Iterator[Block]:
    """Whether the winner is better than the others whatever their seeds."""
    if len(confirm.seeds) == 1:
        yield Note("Without intervals the order may be chance: confirm with three seeds or more.")
    compared = {entry.trial: entry.behind for entry in confirm.settings if entry.behind is not None}
    close = [f"trial {trial}" for trial, behind in compared.items() if behind.low <= 0]
    if compared:
        yield Text(
            "The intervals behind the winner are paired, over the seeds that both have, and each"
            " is a 95 % interval by itself. "
            + (
                f"That of {listed(close)} holds 0: over all the seeds that there are, such a"
                " setting may be as good."
                if close
                else "None holds 0."
            )
        )


def _searched(result: StudyResult) -> Iterator[Block]:
    trials, best, names = result.trials, complete(result), list(result.space)
    first = winner(result)
    strong = None if first is None else first.number
    if not trials:
        yield Note("The study has no trial yet.")
        return
    values = {
        trial.number: [
            setting(trial.params[name]) if name in trial.params else NOTHING for name in names
        ]
        for trial in trials
    }
    if best:
        which = f"the best {_BEST} of {len(best)} complete trials"
        if len(best) <= _BEST:
            which = f"all {len(best)} complete trials" if len(best) > 1 else "the only complete one"
        yield Text(f"The search's own order, one seed a trial: {which}.")
        yield Table(
            ("trial", "value", *names),
            [(trial.number, score(trial.value), *values[trial.number]) for trial in best[:_BEST]],
            strong=strong,
        )
    yield Table(
        ("trial", "state", "value", "epochs", "time", *names, "why"),
        [
            (
                trial.number,
                trial.state.lower(),
                score(reached(trial)),
                trial.epochs,
                duration(trial.seconds),
                *values[trial.number],
                short(trial.reason, 120),
            )
            for trial in trials
        ],
        (2, -1),
        strong,
        folded=f"All {count(len(trials), 'trial')}" if len(trials) > 1 else "The trial",
    )
