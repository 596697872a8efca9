"""A trial's value: the number that a search maximises. The loss that training minimises is
`fdan_loss` in fdan/model/network.py."""

from collections.abc import Sequence
from typing import Final

VALUE_EPOCHS: Final = 5
"""A single epoch's UAR jumps by as much as trials differ; a best epoch would reward luck."""


def objective_value(uar_history: Sequence[float]) -> float:
    """The mean of the last VALUE_EPOCHS epochs' validation UAR, of fewer while there are fewer."""
    last = uar_history[-VALUE_EPOCHS:]
    return sum(last) / len(last)
