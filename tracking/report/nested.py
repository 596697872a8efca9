"""The report of a nested study, out of its nested.json alone."""

from collections.abc import Iterator, Mapping
from typing import Final

from tracking.nested_result import Agreement, NestedResult, OuterResult, PooledScore
from tracking.report.blocks import WORDS, Block, Cards, Code, Facts, Figure, Note, Table, Text
from tracking.report.drawing import Linear, Row, around, rows_picture
from tracking.report.formatting import (
    NOTHING,
    count,
    interval,
    is_number,
    listed,
    moment,
    percent,
    score,
    sentence,
    setting,
    short,
    signed,
)
from tracking.report.page import Page
from tracking.report.sections.yardsticks import yardstick_blocks
from tracking.result import ScoreInterval

_FEW_SPEAKERS: Final = 10


def nested_page(result: NestedResult) -> Page:
    """The report's page."""
    state = result.state.lower()
    lines = (
        short(result.task),
        f"{len(result.folds)} of {count(result.outer, 'outer fold')} done",
        f"{state}: {short(result.reason, 200)}" if result.reason else state,
        f"written {moment(result.written)}",
    )
    return Page(
        f"Nested study {short(result.study, 60)}",
        [sentence(line).rstrip(".") for line in lines],
        nested_verdict(result),
        [
            ("result", "Result", list(_result_blocks(result))),
            ("folds", "Outer folds", list(_fold_blocks(result))),
            ("settings", "Chosen settings", list(_setting_blocks(result))),
            ("provenance", "Provenance", list(_provenance_blocks(result))),
        ],
    )


def nested_verdict(result: NestedResult) -> str:
    """The whole nested study in a sentence or two."""
    pooled = result.pooled
    if pooled is None:
        return "No outer fold is done, so there is no figure yet."
    done = f"{len(result.folds)} of {result.outer} outer folds are done. "
    before = "" if len(result.folds) == result.outer else done
    return (
        f"{before}On {count(pooled.samples, 'utterance')} of speakers that their searches never"
        f" heard, the winners have a UAR of {score(pooled.uar)} ({_sure(pooled.interval)})."
    )


def agreement_words(agreement: Agreement) -> str:
    """How far the outer folds' winners agree on a setting, in words."""
    spread = agreement.spread
    if spread is None:
        return NOTHING
    if spread == 0:
        return "all the same"
    values = [value for value in agreement.values if value is not None]
    if any(isinstance(value, str | bool) for value in values):
        most = max(values, key=values.count)
        return f"{values.count(most)} of {len(values)}: {setting(most)}"
    return f"spread over {percent(spread)} of the searched range"


def _result_blocks(result: NestedResult) -> Iterator[Block]:
    pooled = result.pooled
    if pooled is None:
        yield Note("No outer fold is done yet. The same command goes on:")
        yield Code(result.command)
        return
    if len(result.folds) < result.outer:
        words = f"{len(result.folds)} of {count(result.outer, 'outer fold')}"
        yield Note(f"This is of {words}: the same command goes on with the others.")
    yield Cards(list(_cards(result, pooled)))
    yield _picture(result, pooled)
    if pooled.yardsticks:
        yield from yardstick_blocks(pooled.yardsticks, "of all outer folds", "the search")
    if pooled.interval.by != "speaker":
        yield Note(
            "The interval is over utterances, since there is only one speaker yet. It says nothing"
            " about how other speakers would fare."
        )
    elif pooled.interval.groups < _FEW_SPEAKERS:
        yield Note(
            f"The interval rests on {count(pooled.interval.groups, 'speaker')}, drawn whole. With"
            " so few it is too narrow rather than too wide: take it as the least to allow for."
        )
    yield Text(
        "Each outer fold had a search of its own, which saw neither the speech nor the faces of its"
        " speakers; they were asked once, at its end. So the figure is of the whole procedure, of"
        " searching, choosing and training on a corpus like this one, and of no single model."
    )


def _cards(result: NestedResult, pooled: PooledScore) -> Iterator[tuple[str, str, str]]:
    yield ("Outer test UAR", score(pooled.uar), f"{sentence(_sure(pooled.interval))}")
    said = [fold.search_uar for fold in result.folds]
    mean = sum(said) / len(said)
    words = "Mean over the outer folds of what each search said of its winner on validation."
    yield ("The searches said", score(mean), words)
    words = "What the searches said, less what unheard speakers gave."
    yield ("Optimism", signed(mean - pooled.uar), words)
    for yardstick in pooled.yardsticks:
        title = yardstick.title
        words = f"On the same utterances; {_sure(yardstick.interval)}."
        yield (f"{title[:1].upper()}{title[1:]}", score(yardstick.uar), words)


def _picture(result: NestedResult, pooled: PooledScore) -> Figure:
    bounds, uars = pooled.interval, tuple(fold.test_uar for fold in result.folds)
    rows = [Row("all outer folds", pooled.uar, bounds.low, bounds.high, uars, strong=True)]
    for yardstick in pooled.yardsticks:
        low, high = yardstick.interval.low, yardstick.interval.high
        rows.append(Row(yardstick.title, yardstick.uar, low, high))
    for fold in result.folds:
        label = f"fold {fold.fold}, tests {listed([*fold.speakers], 3)}"
        rows.append(Row(label, fold.test_uar, before=fold.search_uar))
    scale = around([value for row in rows for value in row.values()], least=0.05)
    scale = Linear(max(scale.low, 0.0), min(scale.high, 1.0))  # no score lies beyond
    label = "What unheard speakers give"
    return Figure(
        label,
        f"Lines are {percent(0.95)} intervals over speakers, small points single outer folds. Where"
        " a diamond lies right of its point, the search had promised more than its test part gave.",
        rows_picture(rows, scale, label, "UAR"),
        (("point strong", "test"), ("single", "an outer fold"), ("before", "what the search said")),
        Table(
            ("figure", "UAR", f"{percent(0.95)} interval"),
            [(row.label, score(row.value), interval(row.low, row.high)) for row in rows],
        ),
    )


def _fold_blocks(result: NestedResult) -> Iterator[Block]:
    if not result.folds:
        yield Note("None is done yet.")
        return
    head = ("fold", "tests", "utterances", "the search said", "fresh seeds", "test UAR", "trial")
    rows = [
        (
            *(f"{fold.fold} of {result.outer}", listed([*fold.speakers], 6), fold.samples),
            *(score(fold.search_uar), score(fold.confirmed_uar), score(fold.test_uar)),
            f"{fold.trial} of {fold.trials}",
        )
        for fold in result.folds
    ]
    yield Table(head, rows, (2, None))
    studies = listed([fold.study for fold in result.folds], len(result.folds))
    yield Text(
        f"Validation UARs are of the search's best trial and of its setting with fresh seeds. Each"
        f" fold is a study of its own with its own report: {studies}."
    )


def _setting_blocks(result: NestedResult) -> Iterator[Block]:
    if not result.folds:
        yield Note("None is chosen yet.")
        return
    if not result.agreement:
        yield Note("Nothing was searched: all trials had the same settings.")
        return
    head = ("setting", *(f"fold {fold.fold}" for fold in result.folds), "agreement")
    rows = [
        (name, *(_chosen(fold, name) for fold in result.folds), agreement_words(own))
        for name, own in result.agreement.items()
    ]
    yield Table(head, rows, (1, 1 + len(result.folds)))
    yield Text(
        "Where the outer folds choose alike, the search finds the setting again without some of the"
        " speakers; where they spread over the whole range, it matters little, or the corpus is too"
        " small to tell."
    )


def _chosen(fold: OuterResult, name: str) -> str:
    params: Mapping[str, object] = fold.params
    return setting(params[name]) if name in params else "not in use"


def _provenance_blocks(result: NestedResult) -> Iterator[Block]:
    yield Text("The same command continues the nested study:")
    yield Code(result.command)
    inner = "one split" if result.inner_folds == "none" else f"folds {result.inner_folds}"
    yield Facts(
        (
            ("study", result.study),
            ("study id", result.study_id),
            ("outer folds", f"{result.outer} (--nested {result.nested})"),
            ("each search validates on", inner),
            ("MLflow experiment", result.experiment),
            ("MLflow", result.tracking_uri),
            ("its studies there", f"tags.`fdan.nested` = '{result.study}'"),
            ("written", moment(result.written)),
        )
    )
    head = ("outer fold", "speaker", "utterances")
    rows = [
        (fold.fold, name, samples)
        for fold in result.folds
        for name, samples in fold.speakers.items()
    ]
    yield Table(head, rows, WORDS, folded="Test speakers")


def _sure(bounds: ScoreInterval) -> str:
    if not is_number(bounds.low) or not is_number(bounds.high):
        return "no interval"
    over = count(bounds.groups, bounds.by)
    return f"{percent(bounds.level)} interval {interval(bounds.low, bounds.high)} over {over}"
