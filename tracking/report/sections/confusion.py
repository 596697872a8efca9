"""Confusion matrices of validation and test part, and the test part by emotion and by speaker."""

from collections.abc import Iterator
from typing import Final

import numpy as np

from fdan.emotions import EMOTIONS, SHORT
from fdan.metrics import measures
from tracking.report.blocks import Block, Figure, Gallery, Note, Table
from tracking.report.drawing import Svg
from tracking.report.formatting import NOTHING, count, percent, score
from tracking.report.selectors import winners_test
from tracking.result import Matrix, StudyResult

_CELL: Final = 38.0
_LEFT: Final = 80.0
_TOP: Final = 26.0


def confusion_blocks(result: StudyResult) -> Iterator[Block]:
    test = winners_test(result)
    unscored = "it was scored for another model"
    if result.test is None:
        unscored = "the test part has not been scored"
    matrices = (
        ("validation", result.confusion.validation, "no model was there to be asked"),
        ("test", None if test is None else result.confusion.test, unscored),
    )
    figures = [_figure(part, matrix) for part, matrix, _ in matrices if matrix and np.sum(matrix)]
    if figures:
        yield Gallery(figures, large=True)
    for part, matrix, why in matrices:
        if not matrix or not np.sum(matrix):
            yield Note(f"No confusion matrix of the {part} part: {why}.")
    if test is None:
        return
    yield Table(
        ("emotion", "recall", "precision", "utterances"),
        [
            (emotion, score(scores.recall), score(scores.precision), scores.samples)
            for emotion, scores in test.per_class.items()
        ],
    )
    if test.per_speaker:
        yield Table(
            ("speaker", "UAR", "WAR", "utterances"),
            [
                (name, score(scores.uar), score(scores.war), scores.samples)
                for name, scores in test.per_speaker.items()
            ],
            folded="" if len(test.per_speaker) <= 12 else "By speaker",
        )
    else:
        yield Note("Speakers of the test part are not known, so there are no figures by speaker.")


def _figure(part: str, matrix: Matrix) -> Figure:
    scores = measures(np.asarray(matrix, dtype=np.int64))
    rows = []
    for row, (emotion, counts) in enumerate(zip(EMOTIONS, matrix, strict=True)):
        recall = percent(counts[row] / sum(counts)) if sum(counts) else NOTHING
        rows.append((emotion, *counts, recall))
    return Figure(
        f"{part.capitalize()} part",
        f"UAR {score(scores.uar)}, WAR {score(scores.war)}, w-F1 {score(scores.wf1)};"
        f" {count(sum(map(sum, matrix)), 'utterance')}. Rows are the true emotion, columns the"
        " predicted one; shades are shares of a row."
        " The model is that of its run's last epoch, while a run's value is the mean of five.",
        _draw(part, matrix),
        table=Table(("true", *SHORT, "recall"), rows),
    )


def _draw(part: str, matrix: Matrix) -> Svg:
    size, inside = _CELL * len(EMOTIONS), _CELL - 1.5
    d = Svg(_LEFT + size + 2, _TOP + size + 22, f"Confusion matrix of the {part} part")
    for row, (emotion, counts) in enumerate(zip(EMOTIONS, matrix, strict=True)):
        total, y = sum(counts), _TOP + _CELL * row
        middle = _LEFT + _CELL * (row + 0.5)
        d.add("text", "tick", SHORT[row], x=middle, y=_TOP - 8, text_anchor="middle")
        middle = y + _CELL / 2 + 4
        d.add("text", "tick", emotion, x=_LEFT - 8, y=middle, text_anchor="end")
        for column, value in enumerate(counts):
            x, share = _LEFT + _CELL * column, value / total if total else 0.0
            title = f"{emotion} taken for {EMOTIONS[column]}: {value} of {total}"
            d.add("rect", "cell empty", title, x=x, y=y, width=inside, height=inside)
            if value:
                shade = f"{share:.2f}"
                d.add(
                    "rect", "cell", title, x=x, y=y, width=inside, height=inside, fill_opacity=shade
                )
            tone = "inside" if share > 0.5 else "count" if value else "none"
            number = str(value) if value < 10_000 else f"{value / 1000:.0f}k"
            words, across = number if total else NOTHING, x + inside / 2
            d.add("text", f"{tone} tick", words, x=across, y=middle, text_anchor="middle")
    d.add("text", "label", "predicted", x=_LEFT + size, y=_TOP + size + 16, text_anchor="end")
    d.add("text", "label", "true", x=_LEFT - 8, y=_TOP - 8, text_anchor="end")
    return d
