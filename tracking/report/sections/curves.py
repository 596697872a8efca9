"""Learning curves: every trial's course, and the losses of the best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from tracking.report.blocks import Block, Figure, Gallery, note
from tracking.report.charts.axes import Frame, around, counted
from tracking.report.charts.intervals import NARROW, WIDE
from tracking.report.charts.svg import Svg
from tracking.report.formatting import count, is_number, score
from tracking.report.selectors import complete, winner
from tracking.result import Curve, StudyResult
from tracking.tags import COMPLETE

_PANELS: Final = (
    ("validation/uar", "Validation UAR", "of each epoch alone"),
    ("validation/loss", "Validation loss", "cross-entropy"),
    ("train/loss", "Training loss", "both modalities and alpha times the LMMD"),
    ("train/lmmd", "LMMD", "summed over layers, before alpha"),
)


def curves_blocks(result: StudyResult) -> Iterator[Block]:
    courses = [
        (trial.number, trial.state, curve)
        for trial in result.trials
        if (curve := _finite(trial.values))
    ]
    if not courses:
        yield note("No trial reported an epoch, so there is no curve to draw.")
        return
    states = {state for _, state, _ in courses}
    legend = [("curve chosen", "the winner")] if winner(result) is not None else []
    if COMPLETE in states:
        legend.append(("curve whole", "complete"))
    if states - {COMPLETE}:
        legend.append(("curve", "pruned, failed or under way"))
    yield Figure(
        "Every trial's course",
        f"The value after each epoch, the mean validation UAR of the last five, of"
        f" {count(len(courses), 'trial')}.",
        str(_all(result, courses, wide=True)),
        str(_all(result, courses, wide=False)),
        tuple(legend),
    )
    numbers = [t.number for t in complete(result) if str(t.number) in result.curves]
    panels = [panel for key, *words in _PANELS if (panel := _panel(result, numbers, key, *words))]
    if panels:
        yield Gallery(tuple(panels))
    else:
        yield note("No complete trial's epochs were kept, so losses are not drawn.")


def _all(result: StudyResult, courses: Sequence[tuple[int, str, Curve]], *, wide: bool) -> Svg:
    width, height = (WIDE, 340.0) if wide else (NARROW, 280.0)
    d = Svg(width, height, "The value of every trial after each epoch")
    frame = _frame(d, [curve for *_, curve in courses], (46, 26, width - 8, height - 40), result)
    frame.axes("epoch", "value", (10 if wide else 6, 5))
    best = winner(result)
    chosen = None if best is None else best.number
    rank = {COMPLETE: 1}
    for number, state, curve in sorted(
        courses, key=lambda course: (course[0] == chosen, rank.get(course[1], 0), course[0])
    ):
        kind = "curve whole" if state == COMPLETE else "curve"
        kind = "curve chosen" if number == chosen else kind
        last = curve[-1]
        _course(
            frame,
            curve,
            kind,
            f"trial {number}, {state.lower()}: {score(last[1])} at epoch {last[0]}",
        )
    return d


def _panel(
    result: StudyResult, numbers: list[int], key: str, title: str, words: str
) -> Figure | None:
    curves = [
        (number, curve)
        for number in numbers
        if (curve := _finite(result.curves[str(number)].get(key, ())))
    ]
    if not curves:
        return None
    width, height = 290.0, 190.0
    d = Svg(width, height, f"{title} of the best trials, epoch by epoch")
    frame = _frame(d, [curve for _, curve in curves], (44, 12, width - 6, height - 26), result)
    frame.axes(most=(5, 5))
    best = winner(result)
    for number, curve in reversed(curves):  # the best above the others
        chosen = best is not None and best.number == number
        kind = "curve chosen" if chosen else "curve whole"
        _course(frame, curve, kind, f"trial {number}: {curve[-1][1]:.3g} at epoch {curve[-1][0]}")
    trials = "the complete trial" if len(curves) == 1 else f"the best {len(curves)} trials"
    return Figure(title, f"{words[:1].upper()}{words[1:]}; {trials}.", str(d))


def _frame(
    d: Svg, curves: Sequence[Curve], box: tuple[float, float, float, float], result: StudyResult
) -> Frame:
    longest = max(epoch for curve in curves for epoch, _ in curve)
    values = [value for curve in curves for _, value in curve]
    return Frame(d, *box, counted(1, longest), around(values))


def _course(frame: Frame, curve: Curve, kind: str, title: str) -> None:
    points = [place for epoch, value in curve if (place := frame.at(epoch, value)) is not None]
    if len(points) == 1:
        frame.drawing.circle(points[0], 3, "complete" if "w" in kind else "pruned", title)
    frame.drawing.path(points, kind, title)


def _finite(values: Curve) -> Curve:
    return tuple((epoch, value) for epoch, value in values if is_number(value))
