"""What the study took, and what pruning saved."""

from __future__ import annotations

from collections.abc import Iterator

from tracking.report.blocks import Block, Card, Cards, Text, note
from tracking.report.formatting import (
    NOTHING,
    count,
    duration,
    hours,
    is_number,
    percent,
    short,
    thousands,
)
from tracking.report.selectors import in_state
from tracking.result import StudyResult
from tracking.tags import PRUNED


def cost_blocks(result: StudyResult) -> Iterator[Block]:
    cost = result.cost
    trained, planned = cost.epochs_trained, cost.epochs_planned
    spent = cost.trial_seconds + (cost.confirm_seconds or 0)
    unit = "CPU hours" if cost.device == "cpu" else "GPU hours"
    cards = [
        Card(
            unit,
            hours(spent),
            f"{duration(cost.trial_seconds)} of trials"
            + (
                f", {duration(cost.confirm_seconds)} of confirming."
                if cost.confirm_seconds
                else "."
            ),
            strong=True,
        ),
        Card("Epochs trained", thousands(trained), f"Of trials of {result.epochs} epochs at most."),
    ]
    saved = planned - trained
    pruned = in_state(result, PRUNED)
    if saved > 0 and planned:
        worth = ""
        if trained and is_number(cost.trial_seconds):
            time = duration(saved * cost.trial_seconds / trained)
            worth = f", about {time} at the pace of the others"
        cards.append(
            Card(
                "Epochs saved by pruning",
                thousands(saved),
                f"{percent(saved / planned)} of {thousands(planned)}{worth}.",
            )
        )
    else:
        cards.append(
            Card(
                "Epochs saved by pruning",
                NOTHING if not pruned else "0",
                "No trial was stopped early."
                if not pruned
                else "What was stopped had trained as much elsewhere.",
            )
        )
    yield Cards(tuple(cards))
    where = "on CPU cores" if cost.device == "cpu" else f"on {short(str(cost.device), 60)}"
    yield Text(f"Hours are the trials' own time {where}, one after the other, without waiting.")
    if pruned:
        epochs = sorted(trial.epochs for trial in pruned)
        middle = epochs[len(epochs) // 2]
        yield Text(
            f"{len(pruned)} of {count(len(result.trials), 'trial')} were pruned by"
            f" {result.pruner}, half of them by epoch {middle} of {result.epochs}."
        )
    interrupted = [trial for trial in result.trials if trial.interruptions]
    if interrupted:
        times = sum(trial.interruptions for trial in interrupted)
        yield note(
            f"{count(times, 'interruption')} in {count(len(interrupted), 'trial')}: a worker was"
            " lost and another one went on from the newest checkpoint."
        )
