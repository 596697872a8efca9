"""Learning curves: every trial's course, and the losses of the best."""

from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

from tracking.report.blocks import Block, Figure, Gallery, Note
from tracking.report.drawing import Frame, around
from tracking.report.formatting import count, is_number
from tracking.report.selectors import complete, winner
from tracking.result import Curve, StudyResult, TrialRecord
from tracking.tags import COMPLETE

_PANELS: Final = (
    ("validation/uar", "Validation UAR", "Of each epoch alone"),
    ("validation/loss", "Validation loss", "Cross-entropy"),
    ("train/loss", "Training loss", "Both modalities and alpha times the LMMD"),
    ("train/lmmd", "LMMD", "Summed over layers, before alpha"),
)
_Course: TypeAlias = tuple[TrialRecord, Curve]


def curves_blocks(result: StudyResult) -> Iterator[Block]:
    best = winner(result)
    courses = _finite((trial, trial.values) for trial in result.trials)
    if not courses:
        yield Note("No trial reported an epoch, so there is no curve to draw.")
        return
    whole = [trial.state == COMPLETE for trial, _ in courses]
    legend = [("curve chosen", "the winner")] if best is not None else []
    if any(whole):
        legend.append(("curve whole", "complete"))
    if not all(whole):
        legend.append(("curve", "pruned, failed or under way"))
    label = "The value of every trial after each epoch"
    yield Figure(
        "Every trial's course",
        f"The value after each epoch, the mean validation UAR of the last five, of"
        f" {count(len(courses), 'trial')}.",
        _draw(label, courses, best, ("epoch", "value")),
        legend,
        wide=True,
    )
    kept = [(trial, result.curves.get(str(trial.number), {})) for trial in complete(result)]
    panels = []
    for key, title, words in _PANELS:
        if courses := _finite((trial, curves.get(key, ())) for trial, curves in kept):
            which = f"the best {len(courses)} trials" if len(courses) > 1 else "the complete trial"
            label = f"{title} of the best trials, epoch by epoch"
            panels.append(Figure(title, f"{words}; {which}.", _draw(label, courses, best)))
    if panels:
        yield Gallery(panels)
    else:
        yield Note("No complete trial's epochs were kept, so losses are not drawn.")


def _finite(courses: Iterable[_Course]) -> list[_Course]:
    """Their finite values, of those that have one."""
    finite = [(trial, tuple(p for p in curve if is_number(p[1]))) for trial, curve in courses]
    return [(trial, curve) for trial, curve in finite if curve]


def _draw(
    label: str,
    courses: list[_Course],
    best: TrialRecord | None,
    names: tuple[str, str] | None = None,
) -> Frame:
    points = [point for _, curve in courses for point in curve]
    longest = max(epoch for epoch, _ in points)
    epochs = around((1, longest), 0.02, least=1, whole=True)
    frame = Frame(label, epochs, around(value for _, value in points), names)
    # The winner above the complete ones, those above the others.
    courses = sorted(courses, key=lambda c: (c[0] is best, c[0].state == COMPLETE, c[0].number))
    for trial, curve in courses:
        kind = "curve whole" if trial.state == COMPLETE else "curve"
        kind = "curve chosen" if trial is best else kind
        epoch, value = curve[-1]
        title = f"trial {trial.number}, {trial.state.lower()}: {value:.3g} at epoch {epoch}"
        frame.path([frame.at(*point) for point in curve], kind, title)
        if len(curve) == 1:
            x, y = frame.at(epoch, value)
            dot = "complete" if trial.state == COMPLETE else "pruned"
            frame.add("circle", dot, title, cx=x, cy=y, r=3)
    return frame
