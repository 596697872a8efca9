"""What a worker and the driver say to each other. Light: a worker imports no Optuna for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

REPORT = "report"
"""Key of a worker's result that holds pairs of a trial's number and its Report: Tune would flatten
a mapping."""

FAILED = "failed"
"""Key of a worker's result that says why trials failed, numbers and words; the worker is well."""

LOST = "lost"
"""Key of a worker's result that says why it could not go on with its trial; another may."""

STARVED = "starved"
"""Key of a worker's result that says that its trial ran out of its share of the GPU's memory."""

FULL = "full"
"""Key of a worker's result that says where it found no room to write: no trial can go on there."""

REFUSED = "refused"
"""Key of a worker's result that says why its node takes no part in the study."""

BROKEN = "broken"
"""Key of a worker's result that says what its GPU broke down with; the worker ends then."""

NODE = "node"
"""Key of the worker's node's id, in those results and with a Report."""

NOTE = "note"
"""Key of a worker's result that is a line for whoever watches."""


@dataclass(frozen=True)
class Report:
    """One epoch of a trial."""

    epoch: int
    """From 1."""
    value: float
    """What the study maximises."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    confusion: Sequence[Sequence[int]] = ()
    """(7, 7) counts on the validation part, rows are true classes; empty where there are none."""


@dataclass(frozen=True)
class Turn:
    """What a worker is to do: a trial, from its start or from where it is."""

    number: int
    params: Mapping[str, Any]
    after: int
    """The last epoch that has been reported; 0 for a new trial."""
    until: int
    """The epoch that it ends with, or rests after: it then waits for another turn."""
    gpus: float
    """Its share: more than others have where that was too little for it."""
    decided: tuple[int, ...] = ()
    """Epochs after which the pruner decides whether it goes on, which the worker waits for."""
