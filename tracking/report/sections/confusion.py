"""Confusion matrices of validation and test part, and the test part by emotion and by speaker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from fdan.emotions import EMOTIONS, SHORT
from fdan.metrics import measures
from tracking.report.blocks import Block, Figure, Gallery, Table, columns, note, numbers
from tracking.report.charts.svg import Svg
from tracking.report.formatting import count, percent, score
from tracking.report.selectors import winners_test
from tracking.result import StudyResult

_CELL: Final = 38.0
_LEFT: Final = 80.0
_TOP: Final = 26.0
_CLASSES: Final = len(EMOTIONS)


def confusion_blocks(result: StudyResult) -> Iterator[Block]:
    figures, missing = [], []
    for part in ("validation", "test"):
        counts = result.confusion.test if part == "test" else result.confusion.validation
        if part == "test" and winners_test(result) is None:
            counts = None
        if counts is None or not np.sum(counts):
            missing.append(part)
        else:
            figures.append(_figure(part, counts))
    if figures:
        yield Gallery(tuple(figures), large=True)
    for part in missing:
        why = {
            "validation": "no model was there to be asked",
            "test": "the test part has not been scored"
            if result.test is None
            else "it was scored for another model",
        }
        yield note(f"No confusion matrix of the {part} part: {why[part]}.")
    test = winners_test(result)
    if test is None:
        return
    yield Table(
        (*columns("emotion"), *numbers("recall", "precision", "utterances")),
        tuple(
            (emotion, score(scores.recall), score(scores.precision), str(scores.samples))
            for emotion, scores in test.per_class.items()
        ),
    )
    if test.per_speaker:
        yield Table(
            (*columns("speaker"), *numbers("UAR", "WAR", "utterances")),
            tuple(
                (name, score(scores.uar), score(scores.war), str(scores.samples))
                for name, scores in test.per_speaker.items()
            ),
            folded="" if len(test.per_speaker) <= 12 else "By speaker",
        )
    else:
        yield note("Speakers of the test part are not known, so there are no figures by speaker.")


def _figure(part: str, counts: Sequence[Sequence[int]]) -> Figure:
    matrix = np.asarray(counts, dtype=np.int64)
    scores = measures(matrix)
    totals = matrix.sum(1)
    return Figure(
        f"{part.capitalize()} part",
        f"UAR {score(scores.uar)}, WAR {score(scores.war)}, w-F1 {score(scores.wf1)};"
        f" {count(int(matrix.sum()), 'utterance')}. Rows are the true emotion, columns the"
        " predicted one; shades are shares of a row."
        " The model is that of its run's last epoch, while a run's value is the mean of five.",
        str(_draw(part, matrix.tolist())),
        table=Table(
            (*columns("true"), *numbers(*SHORT, "recall")),
            tuple(
                (
                    emotion,
                    *(str(value) for value in matrix[row].tolist()),
                    percent(matrix[row, row] / totals[row]) if totals[row] else "–",
                )
                for row, emotion in enumerate(EMOTIONS)
            ),
        ),
    )


def _draw(part: str, matrix: list[list[int]]) -> Svg:
    size, inside = _CELL * _CLASSES, (_CELL - 1.5, _CELL - 1.5)
    d = Svg(_LEFT + size + 2, _TOP + size + 22, f"Confusion matrix of the {part} part")
    for index, emotion in enumerate(EMOTIONS):
        middle = _CELL * (index + 0.5)
        d.text((_LEFT + middle, _TOP - 8), SHORT[index], "tick", "middle")
        d.text((_LEFT - 8, _TOP + middle + 4), emotion, "tick", "end")
    for row, counts in enumerate(matrix):
        total = sum(counts)
        for column, value in enumerate(counts):
            corner = (_LEFT + _CELL * column, _TOP + _CELL * row)
            share = value / total if total else 0.0
            title = f"{EMOTIONS[row]} taken for {EMOTIONS[column]}: {value} of {total}"
            d.rectangle(corner, inside, "cell empty", title)
            if value:
                d.rectangle(corner, inside, "cell", title, opacity=share)
            x, y = corner[0] + (_CELL - 1.5) / 2, corner[1] + _CELL / 2
            tone = "inside" if share > 0.5 else "count" if value else "none"
            d.text((x, y + 4), _number(value) if total else "–", f"{tone} tick", "middle")
    d.text((_LEFT + size, _TOP + size + 16), "predicted", "label", "end")
    d.text((_LEFT - 8, _TOP - 8), "true", "label", "end")
    return d


def _number(value: int) -> str:
    return str(value) if value < 10_000 else f"{value / 1000:.0f}k"
