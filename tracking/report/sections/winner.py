"""The winner, and how sure that is: what the search said, what fresh seeds gave, what the test part
said of it, once."""

from collections.abc import Iterator
from typing import Final

from tracking.report.blocks import WORDS, Block, Cards, Code, Facts, Figure, Note, Table
from tracking.report.drawing import Linear, Row, around, rows_picture
from tracking.report.formatting import (
    NOTHING,
    count,
    interval,
    is_number,
    moment,
    percent,
    quantity,
    score,
    sentence,
    setting,
    signed,
)
from tracking.report.sections.yardsticks import yardstick_blocks
from tracking.report.selectors import complete, explained, winner, winners_test, yardsticks
from tracking.result import Choices, Dimension, ScoreInterval, StudyResult, TestScore, TrialRecord

_FEW_SPEAKERS: Final = 10
_LEVEL: Final = percent(0.95)
_ONE_SEED: Final = "One seed, not confirmed."


def verdict(result: StudyResult) -> str:
    """The whole study in a few sentences."""
    best = winner(result)
    if best is None:
        ended = f"{sum(result.counts.values())} of {count(result.wanted, 'trial')} ended"
        return f"No trial is complete, so there is no winner. {ended}."
    if result.confirm is None:
        said = (
            f"Trial {best.number} has the best value of the search, a validation UAR of"
            f" {score(best.value)}. No fresh seed confirms it: the best of"
            f" {count(len(complete(result)), 'complete trial')} is partly luck."
        )
    else:
        first, total = result.confirm.settings[0], len(result.confirm.settings)
        among = f"the best of {total} confirmed settings" if total > 1 else "no other was confirmed"
        said = (
            f"Trial {best.number} wins: with {count(len(first.values), 'fresh seed')} its settings"
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
        yield Note(
            "No trial is complete, so there is nothing to choose from. What became of the trials"
            " is below, under Failures."
        )
        yield Code(result.command)
        return
    yield Cards(list(_cards(result, best)))
    rows = list(_rows(result, best))
    if len(rows) > 1:
        yield _evidence(result, rows)
    if (test := winners_test(result)) is not None and test.yardsticks:
        yield from yardstick_blocks(test.yardsticks, "of the test part", "the winner")
    yield from _cautions(result, best)
    if result.space:
        params = {name: setting(value) for name, value in best.params.items()}
        yield Table(
            ("setting", "winner", "searched", "what it is"),
            [
                (name, params.get(name, "not in use"), _searched(dimension), explained(name))
                for name, dimension in result.space.items()
            ],
            WORDS,
            roomy="what it is",
        )
    else:
        yield Note("Nothing was searched: all trials had the same settings.")
    if test is not None:
        which = f"trial {best.number}"
        if (confirm := result.confirm) is not None:
            which = (
                f"run {confirm.run} of the confirmation, seed {confirm.seed},"
                f" with the settings of {which}"
            )
        yield Facts(
            (
                ("model", which),
                ("folder", "winner/ in the study's folder"),
                ("sha256 of its tensors", test.model_sha256),
                ("test part scored", moment(test.scored)),
            )
        )


def _searched(dimension: Dimension) -> str:
    """A dimension's range, in words."""
    if isinstance(dimension, Choices):
        return " or ".join(setting(choice) for choice in dimension.choices)
    words = f"{quantity(dimension.low)} to {quantity(dimension.high)}"
    return f"{words}, logarithmic" if dimension.log else words


def _cards(result: StudyResult, best: TrialRecord) -> Iterator[tuple[str, str, str]]:
    test = winners_test(result)
    if test is None:
        yield ("Test UAR", NOTHING, _unscored(result))
    else:
        yield ("Test UAR", score(test.uar), f"{_sure(test.interval)}.")
    if result.confirm is None:
        words = f"{_over_folds(result)}, one seed, not confirmed." if result.folds else _ONE_SEED
        yield ("Validation UAR", score(best.value), words)
        yield ("Optimism", NOTHING, "Unknown: only fresh seeds can tell how lucky it was.")
    else:
        first = result.confirm.settings[0]
        words = f"Mean of {count(len(first.values), 'fresh seed')}"
        words += f", {_over_folds(result).lower()}" * (result.folds > 0)
        if is_number(first.low):
            words += f"; {_LEVEL} interval {interval(first.low, first.high)}"
        yield ("Confirmed validation UAR", score(first.mean), f"{words}.")
        more = first.optimism > 0
        than = ": more than fresh seeds give." if more else "; fresh seeds give no less."
        said = f"The search had said {score(first.search_value)}{than}"
        yield ("Optimism", signed(first.optimism), said)
    for yardstick in yardsticks(result):
        same = count(result.folds, "fold") if result.folds else "split"
        words = f"Validation UAR on the same speech and {same}"
        if test is not None and (uar := _tested(test).get(yardstick.name)) is not None:
            words += f"; {score(uar)} on the test part"
        title = yardstick.title
        yield (f"{title[:1].upper()}{title[1:]}", score(yardstick.uar), f"{words}.")


def _over_folds(result: StudyResult) -> str:
    return f"Mean over {count(result.folds, 'fold')}"


def _evidence(result: StudyResult, rows: list[Row]) -> Figure:
    scale = around([value for row in rows for value in row.values()], least=0.05)
    scale = Linear(max(scale.low, 0.0), min(scale.high, 1.0))  # no score lies beyond
    label = "What is known of the winner's UAR"
    return Figure(
        label,
        f"Lines are {_LEVEL} intervals, small points single seeds. Validation and test are"
        " different recordings: a lower figure on one of them need not mean that something was"
        f" overfitted. Guessing would give {score(_chance(result))}.",
        rows_picture(rows, scale, label, "UAR"),
        table=Table(
            ("figure", "UAR", f"{_LEVEL} interval"),
            [(row.label, score(row.value), interval(row.low, row.high)) for row in rows],
        ),
    )


def _rows(result: StudyResult, best: TrialRecord) -> Iterator[Row]:
    test = winners_test(result)
    if is_number(best.value):
        yield Row("validation, search", best.value)
    if result.confirm is not None:
        first = result.confirm.settings[0]
        label, alone = f"validation, {count(len(first.values), 'fresh seed')}", test is None
        yield Row(label, first.mean, first.low, first.high, first.values, strong=alone)
    for yardstick in yardsticks(result):
        yield Row(f"validation, {yardstick.title}", yardstick.uar)
    if test is not None:
        yield Row("test, winner", test.uar, test.interval.low, test.interval.high, strong=True)
        for tested in test.yardsticks:
            bounds = tested.interval
            yield Row(f"test, {tested.title}", tested.uar, bounds.low, bounds.high)
        if not test.yardsticks and is_number(test.baseline_uar):
            yield Row("test, logistic regression", test.baseline_uar)


def _cautions(result: StudyResult, best: TrialRecord) -> Iterator[Block]:
    test, confirm = winners_test(result), result.confirm
    value = best.value if confirm is None else confirm.settings[0].mean
    for yardstick in yardsticks(result):
        if is_number(value) and yardstick.uar >= value:
            yield Note(
                f"The validation UAR of the yardstick {yardstick.title}, on the same speech and"
                f" split, is no lower than the winner's, {score(yardstick.uar)} against"
                f" {score(value)}: on this evidence the search has not beaten its yardstick."
            )
    if confirm is not None and len(confirm.settings[0].values) == 1:
        yield Note("With one fresh seed there is no interval: confirm with three or more.")
    if test is None:
        return
    if test.interval.by != "speaker":
        yield Note(
            "The interval is over utterances, since speakers are not known or there is only"
            " one. It says nothing about how other speakers would fare."
        )
    elif test.interval.groups < _FEW_SPEAKERS:
        yield Note(
            f"The test interval rests on {count(test.interval.groups, 'speaker')}, drawn whole."
            " With so few it is too narrow rather than too wide: take it as the least to allow for."
        )
    for again in test.again:
        yield Note(
            f"The test part was scored again, {moment(again.when)}: UAR"
            f" {score(again.uar)}. The reason given: {sentence(again.reason or 'none')}"
            " A test part that was asked more than once has had a say in the choice."
        )


def _tested(test: TestScore) -> dict[str, float]:
    """The yardsticks' UAR on the test part, by name."""
    uars = {yardstick.name: yardstick.uar for yardstick in test.yardsticks}
    if not uars and is_number(test.baseline_uar):  # of an earlier release
        uars["logistic_regression"] = test.baseline_uar
    return uars


def _sure(bounds: ScoreInterval) -> str:
    """An interval of the test part, and over what."""
    if not is_number(bounds.low) or not is_number(bounds.high):
        return "no interval"
    over = count(bounds.groups, bounds.by)
    return f"{percent(bounds.level)} interval {interval(bounds.low, bounds.high)} over {over}"


def _chance(result: StudyResult) -> float:
    """UAR of guessing: one over the emotions that the validated speech has."""
    for part in result.parts:
        if part.part == "validation" and part.modality == "acoustic":
            return 1 / max(sum(samples > 0 for samples in part.emotions.values()), 1)
    return 1 / 7
