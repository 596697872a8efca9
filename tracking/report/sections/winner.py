"""The winner, and how sure that is: what the search said, what fresh seeds gave, what the test part
said of it, once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tracking.report.blocks import (
    Block,
    Card,
    Cards,
    Code,
    Column,
    Facts,
    Figure,
    Table,
    columns,
    note,
    numbers,
)
from tracking.report.charts import intervals
from tracking.report.charts.axes import Linear, around
from tracking.report.charts.intervals import Row
from tracking.report.formatting import (
    NOTHING,
    count,
    interval,
    is_number,
    moment,
    percent,
    score,
    sentence,
    setting,
    signed,
)
from tracking.report.selectors import complete, explained, searched_in, winner, winners_test
from tracking.result import ScoreInterval, StudyResult, TrialRecord

_FEW_SPEAKERS: Final = 10
_LEVEL: Final = percent(0.95)


def verdict(result: StudyResult) -> str:
    """The whole study in a few sentences."""
    best = winner(result)
    if best is None:
        ended = sum(result.counts.values())
        return (
            f"No trial is complete, so there is no winner. {ended} of"
            f" {count(result.wanted, 'trial')} ended."
        )
    number, confirm = best.number, result.confirm
    if confirm is None:
        said = (
            f"Trial {number} has the best value of the search, a validation UAR of"
            f" {score(best.value)}. No fresh seed confirms it: the best of"
            f" {count(len(complete(result)), 'complete trial')} is partly luck."
        )
    else:
        first, total = confirm.settings[0], len(confirm.settings)
        among = f"the best of {total} confirmed settings" if total > 1 else "no other was confirmed"
        said = (
            f"Trial {number} wins: with {count(len(first.values), 'fresh seed')} its settings"
            f" have a mean validation UAR of {score(first.mean)}, {among}."
        )
    test = winners_test(result)
    if test is None:
        return f"{said} {_unscored(result)}"
    return (
        f"{said} On the test part, {count(test.samples, 'utterance')} that nothing had seen, its"
        f" model has a UAR of {score(test.uar)} ({_sure(test.interval)})."
    )


def _unscored(result: StudyResult) -> str:
    """Why there is no figure of the test part."""
    if (test := result.test) is None:
        return "The test part has not been scored."
    run = "" if test.run is None else f", run {test.run} of its confirmation"
    return (
        f"The test part was scored for another model (trial {test.trial}{run}: UAR"
        f" {score(test.uar)}), and once is all."
    )


def winner_blocks(result: StudyResult) -> Iterator[Block]:
    best = winner(result)
    if best is None:
        yield note(
            "No trial is complete, so there is nothing to choose from. What became of the trials"
            " is below, under Failures."
        )
        yield Code(result.command)
        return
    yield Cards(tuple(_cards(result, best)))
    yield from _evidence(result, best)
    yield from _cautions(result)
    if result.space:
        yield _settings(result, best)
    else:
        yield note("Nothing was searched: all trials had the same settings.")
    if (test := winners_test(result)) is not None:
        which = f"trial {best.number}"
        if result.confirm is not None:
            which = (
                f"run {result.confirm.run} of the confirmation, seed {result.confirm.seed},"
                f" with the settings of trial {best.number}"
            )
        yield Facts(
            (
                ("model", which),
                ("folder", "winner/ in the study's folder"),
                ("sha256 of its tensors", test.model_sha256),
                ("test part scored", moment(test.scored)),
            )
        )


def _settings(result: StudyResult, best: TrialRecord) -> Table:
    return Table(
        (*columns("setting", "winner", "searched"), Column("what it is", roomy=True)),
        tuple(
            (
                name,
                setting(best.params[name]) if name in best.params else "not in use",
                searched_in(dimension),
                explained(name),
            )
            for name, dimension in result.space.items()
        ),
    )


def _cards(result: StudyResult, best: TrialRecord) -> Iterator[Card]:
    test, confirm = winners_test(result), result.confirm
    if test is None:
        yield Card("Test UAR", NOTHING, _unscored(result), strong=True)
    else:
        yield Card("Test UAR", score(test.uar), f"{_sure(test.interval)}.", strong=True)
    if confirm is None:
        yield Card("Validation UAR", score(best.value), "One seed, not confirmed.")
        yield Card("Optimism", NOTHING, "Unknown: only fresh seeds can tell how lucky it was.")
    else:
        first = confirm.settings[0]
        words = f"Mean of {count(len(first.values), 'fresh seed')}"
        if is_number(first.low):
            words += f"; {_LEVEL} interval {interval(first.low, first.high)}"
        yield Card("Confirmed validation UAR", score(first.mean), f"{words}.")
        yield Card(
            "Optimism",
            signed(first.optimism),
            f"The search had said {score(first.search_value)}"
            + (
                ": more than fresh seeds give."
                if first.optimism > 0
                else "; fresh seeds give no less."
            ),
        )
    if is_number(result.baseline):
        on_test = None if test is None else test.baseline_uar
        words = "Validation UAR on the same features and split"
        if is_number(on_test):
            words += f"; {score(on_test)} on the test part"
        yield Card("Logistic regression", score(result.baseline), f"{words}.")


def _evidence(result: StudyResult, best: TrialRecord) -> Iterator[Block]:
    rows = list(_rows(result, best))
    if len(rows) < 2:
        return
    ends = [x for row in rows for x in (row.value, row.low, row.high, *row.single)]
    scale = _within(around([x for x in ends if x is not None and is_number(x)], least=0.05))
    label = "What is known of the winner's UAR"
    yield Figure(
        label,
        f"Lines are {_LEVEL} intervals, small points single seeds. Validation and test are"
        " different recordings: a lower figure on one of them need not mean that something was"
        " overfitted."
        f" Guessing would give {score(chance(result))}.",
        intervals.draw(rows, scale, label, "UAR", wide=True),
        intervals.draw(rows, scale, label, "UAR", wide=False),
        table=Table(
            (*columns("figure"), *numbers("UAR", f"{_LEVEL} interval")),
            tuple((row.label, row.figure, interval(row.low, row.high)) for row in rows),
        ),
    )


def _rows(result: StudyResult, best: TrialRecord) -> Iterator[Row]:
    test, confirm = winners_test(result), result.confirm
    if is_number(best.value):
        yield Row("validation, search", best.value, score(best.value))
    if confirm is not None:
        first = confirm.settings[0]
        yield Row(
            f"validation, {count(len(first.values), 'fresh seed')}",
            first.mean,
            score(first.mean),
            first.low,
            first.high,
            tuple(first.values),
            strong=test is None,
        )
    if result.baseline is not None and is_number(result.baseline):
        yield Row("validation, regression", result.baseline, score(result.baseline))
    if test is not None:
        low, high = test.interval.low, test.interval.high
        yield Row("test, winner", test.uar, score(test.uar), low, high, strong=True)
        if is_number(test.baseline_uar):
            yield Row("test, regression", test.baseline_uar, score(test.baseline_uar))


def _cautions(result: StudyResult) -> Iterator[Block]:
    test, confirm = winners_test(result), result.confirm
    best = winner(result)
    assert best is not None
    value = best.value if confirm is None else confirm.settings[0].mean
    if is_number(result.baseline) and is_number(value) and result.baseline >= value:
        yield note(
            "A logistic regression on the same features has a validation UAR that is no lower than"
            f" the winner's, {score(result.baseline)} against {score(value)}: on this evidence the"
            " search has not beaten its yardstick."
        )
    if confirm is not None and len(confirm.settings[0].values) == 1:
        yield note("With one fresh seed there is no interval: confirm with three or more.")
    if test is not None:
        bounds = test.interval
        if bounds.by == "speaker" and bounds.groups < _FEW_SPEAKERS:
            yield note(
                f"The test interval rests on {count(bounds.groups, 'speaker')}, drawn whole. With"
                " so few it is too narrow rather than too wide: take it as the least to allow for."
            )
        if bounds.by != "speaker":
            yield note(
                "The interval is over utterances, since speakers are not known or there is only"
                " one. It says nothing about how other speakers would fare."
            )
        for again in test.again:
            yield note(
                f"The test part was scored again, {moment(again.when)}: UAR"
                f" {score(again.uar)}. The reason given: {sentence(again.reason or 'none')}"
                " A test part that was asked more than once has had a say in the choice."
            )


def _sure(bounds: ScoreInterval) -> str:
    """An interval of the test part, and over what."""
    if not is_number(bounds.low) or not is_number(bounds.high):
        return "no interval"
    level = percent(bounds.level)
    over = count(bounds.groups, bounds.by)
    return f"{level} interval {interval(bounds.low, bounds.high)} over {over}"


def _within(scale: Linear) -> Linear:
    """No score lies beyond 0 and 1."""
    return Linear(max(scale.low, 0.0), min(scale.high, 1.0))


def chance(result: StudyResult) -> float:
    """UAR of guessing: one over the emotions that the validated speech has."""
    for part in result.parts:
        if part.part == "validation" and part.modality == "acoustic":
            present = sum(1 for samples in part.emotions.values() if samples)
            return 1 / max(present, 1)
    return 1 / 7
