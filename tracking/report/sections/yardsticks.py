"""A model, or the models of all outer folds, beside each yardstick on the same utterances."""

from collections.abc import Iterator, Sequence
from typing import Final

from tracking.report.blocks import Block, Note, Table
from tracking.report.formatting import interval, percent, score, signed
from tracking.result import YardstickScore

_SIGNIFICANT: Final = 0.05  # as promotion has it
_LEVEL: Final = percent(0.95)


def yardstick_blocks(yardsticks: Sequence[YardstickScore], where: str, who: str) -> Iterator[Block]:
    """The yardsticks' scores, and what they are to be compared with.

    Args:
        yardsticks: Scores on the same utterances.
        where: The utterances' part, such as "of the test part".
        who: What they are compared with, in the singular, such as "the winner".
    """
    rows = [
        (
            *(y.title, score(y.uar), interval(y.interval.low, y.interval.high)),
            signed(y.difference.value),
            f"{signed(y.difference.low)} to {signed(y.difference.high)}",
            f"{y.difference.p:.4f}",
        )
        for y in yardsticks
    ]
    above = f"{who.removeprefix('the ')} above"
    yield Table(("yardstick", "test UAR", f"{_LEVEL} interval", above, "interval", "p"), rows)
    close = [y for y in yardsticks if y.difference.p >= _SIGNIFICANT]
    worse = [y for y in yardsticks if y not in close and y.difference.value < 0]
    for which, words in ((worse, "is worse than"), (close, "is not distinguishable from")):
        if which:
            named = " and ".join(yardstick.title for yardstick in which)
            yield Note(f"On the same utterances {where}, {who} {words} {named}.")
