"""Optuna's pruners by name, every argument stated, and their decisions in words."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    SuccessiveHalvingPruner,
)
from optuna.trial import FrozenTrial, TrialState

from fdan.errors import ConfigError, unknown

FACTOR = 3
"""Of the trials that reach a rung, about one in FACTOR goes on."""

STARTUP = 5
"""Complete trials that `median` waits for before it compares."""

HELP = {
    "hyperband": f"successive halving in brackets of different patience (factor {FACTOR})",
    "halving": f"successive halving: at each rung the best of {FACTOR} go on",
    "median": f"below the median of the complete trials at the same epoch (after {STARTUP})",
    "none": "every trial runs to its last epoch",
}


def make(name: str, epochs: int) -> BasePruner:
    """The pruner called `name` for trials of at most `epochs` epochs."""
    if name not in HELP:
        raise ConfigError(f"--pruner: {unknown('pruner', name, HELP)}")
    if name == "hyperband":
        return HyperbandPruner(
            min_resource=first_rung(epochs),
            max_resource=epochs,
            reduction_factor=FACTOR,
            bootstrap_count=0,
        )
    if name == "halving":
        return SuccessiveHalvingPruner(
            min_resource=first_rung(epochs),
            reduction_factor=FACTOR,
            min_early_stopping_rate=0,
            bootstrap_count=0,
        )
    if name == "median":
        return MedianPruner(
            n_startup_trials=STARTUP,
            n_warmup_steps=first_rung(epochs),
            interval_steps=1,
            n_min_trials=3,
        )
    return NopPruner()


def first_rung(epochs: int) -> int:
    """The epoch before which nothing is compared: a sixth of the way, then a half (factor 3)."""
    return max(1, epochs // 6)


def next_rung(name: str, epochs: int, epoch: int) -> int:
    """The first epoch after `epoch` at which the pruner compares; the last one where it does not
    any more. `median`, which compares at each, gets some that are as far apart as its first one.

    >>> [next_rung("hyperband", 30, epoch) for epoch in (0, 5, 14, 15)]
    [5, 15, 15, 30]
    >>> [next_rung(name, 30, 7) for name in ("median", "none")]
    [10, 30]
    """
    if name == "median":
        first = first_rung(epochs)
        return min((epoch // first + 1) * first, epochs)
    return next((rung for rung in decided(name, epochs) if rung > epoch), epochs)


def decided(name: str, epochs: int) -> tuple[int, ...]:
    """The epochs after which the pruner may end a trial.

    >>> decided("hyperband", 30), decided("median", 8), decided("none", 30)
    ((5, 15), (1, 2, 3, 4, 5, 6, 7, 8), ())
    """
    first = first_rung(epochs)
    if name == "none":
        return ()
    if name == "median":
        return tuple(range(first, epochs + 1))
    found = []
    while first <= epochs:
        found.append(first)
        first *= FACTOR
    return tuple(found)


def rungs(name: str, epochs: int) -> str:
    """When the pruner compares, for --dry-run."""
    first = first_rung(epochs)
    if name == "none":
        return f"never: all trials run {epochs} epochs"
    if name == "median":
        return f"at each epoch from {first} to {epochs}, after {STARTUP} complete trials"
    steps = ", ".join(map(str, decided(name, epochs)))
    return f"at epochs {steps} of {epochs}, one in {FACTOR} goes on"


def reason(name: str, trial: FrozenTrial, others: Sequence[FrozenTrial]) -> str:
    """Why `trial` was pruned at its last report, as far as the pruner lets one see.

    Optuna's pruners answer yes or no. The median and the rung are computed again from the same
    trials; which trials share a bracket, hyperband keeps to itself.
    """
    epoch = trial.last_step
    assert epoch is not None, "a pruned trial has reported"
    value = trial.intermediate_values[epoch]
    if name == "median":
        rivals = [
            other.intermediate_values[epoch]
            for other in others
            if other.state == TrialState.COMPLETE and epoch in other.intermediate_values
        ]
        best = max(trial.intermediate_values.values())
        shown = f"value {value:.3f}" if best == value else f"best value {best:.3f}"
        if not rivals:
            return f"epoch {epoch}: {shown} (median pruner)"
        return (
            f"epoch {epoch}: {shown} below the median {statistics.median(rivals):.3f} "
            f"of {len(rivals)} trials"
        )
    text = f"epoch {epoch}: value {value:.3f} not in the best {_fraction()}"
    if name == "hyperband":
        return f"{text} of its bracket (hyperband)"
    reached = [
        other.intermediate_values[epoch]
        for other in others
        if other.number != trial.number and epoch in other.intermediate_values
    ]
    better = sum(rival > value for rival in reached)
    return f"{text} of its rung, where {better} of {len(reached)} others were better (halving)"


def _fraction() -> str:
    return {2: "half", 3: "third", 4: "quarter"}.get(FACTOR, f"1/{FACTOR}")
