"""Decides that a trial is pruned: Optuna's pruners by name, after which epochs they are asked, and
why they ended a trial. `TrialController.record` in search/study/trial_controller.py asks after each
epoch but a trial's last, through `StudyWriter.pruned`. The end of a study leaves trials PRUNED,
too: `ActiveTrial.stop` in search/study/active_trials.py."""

import statistics
from collections.abc import Sequence

from optuna import pruners
from optuna.trial import FrozenTrial, TrialState

REDUCTION_FACTOR = 3  # about one in REDUCTION_FACTOR of the trials that reach a rung goes on

N_STARTUP_TRIALS = 5  # complete trials that `median` waits for before it compares

PRUNERS = {
    "hyperband": "successive halving in brackets of different patience"
    f" (factor {REDUCTION_FACTOR})",
    "halving": f"successive halving: at each rung the best of {REDUCTION_FACTOR} go on",
    "median": "below the median of the complete trials at the same epoch"
    f" (after {N_STARTUP_TRIALS})",
    "none": "every trial runs to its last epoch",
}


def make_pruner(name: str, epochs: int) -> pruners.BasePruner:
    """Make one of PRUNERS.

    Args:
        name: Key of PRUNERS.
        epochs: Last epoch of a trial.
    """
    rung = first_rung(epochs)
    match name:
        case "hyperband":
            return pruners.HyperbandPruner(rung, epochs, REDUCTION_FACTOR, bootstrap_count=0)
        case "halving":
            return pruners.SuccessiveHalvingPruner(
                rung, REDUCTION_FACTOR, min_early_stopping_rate=0, bootstrap_count=0
            )
        case "median":
            return pruners.MedianPruner(
                N_STARTUP_TRIALS, n_warmup_steps=rung, interval_steps=1, n_min_trials=3
            )
    return pruners.NopPruner()


def explain(name: str, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> str:
    """Why a trial was pruned at its last report.

    Optuna's pruners answer yes or no. The median and the rung are computed again from the same
    trials; hyperband does not expose which trials share a bracket.

    Args:
        name: Name of the pruner.
        trial: The trial that was pruned.
        trials: All trials of the study.
    """
    epoch = trial.last_step
    assert epoch is not None, "a pruned trial has reported"
    value = trial.intermediate_values[epoch]
    rivals = [
        other.intermediate_values[epoch]
        for other in trials
        if other.number != trial.number
        and epoch in other.intermediate_values
        and (name != "median" or other.state is TrialState.COMPLETE)
    ]
    if name == "median":
        best = max(trial.intermediate_values.values())
        shown = f"value {value:.3f}" if best == value else f"best value {best:.3f}"
        if not rivals:
            return f"epoch {epoch}: {shown} (median pruner)"
        median = statistics.median(rivals)
        return f"epoch {epoch}: {shown} below the median {median:.3f} of {len(rivals)} trials"
    fraction = {2: "half", 3: "third", 4: "quarter"}.get(REDUCTION_FACTOR, f"1/{REDUCTION_FACTOR}")
    text = f"epoch {epoch}: value {value:.3f} not in the best {fraction}"
    if name == "hyperband":
        return f"{text} of its bracket (hyperband)"
    better = sum(rival > value for rival in rivals)
    return f"{text} of its rung, where {better} of {len(rivals)} others were better (halving)"


def first_rung(epochs: int) -> int:
    """The first epoch at which trials are compared: a sixth of all, then a half (factor 3)."""
    return max(1, epochs // 6)


def next_rung(name: str, epochs: int, epoch: int) -> int:
    """The first epoch after `epoch` at which the pruner compares; the last epoch where there is
    none. `median` compares at every epoch: its rungs here are multiples of the first one.

    >>> [next_rung("hyperband", 30, epoch) for epoch in (0, 5, 14, 15)]
    [5, 15, 15, 30]
    >>> [next_rung(name, 30, 7) for name in ("median", "none")]
    [10, 30]

    Args:
        name: Name of the pruner.
        epochs: Last epoch of a trial.
        epoch: Epochs trained so far.
    """
    if name == "median":
        first = first_rung(epochs)
        return min((epoch // first + 1) * first, epochs)
    return next((rung for rung in decision_epochs(name, epochs) if rung > epoch), epochs)


def decision_epochs(name: str, epochs: int) -> tuple[int, ...]:
    """The epochs after which the pruner may end a trial. It is not asked about a trial's last.

    >>> decision_epochs("hyperband", 30), decision_epochs("none", 30)
    ((5, 15), ())
    >>> decision_epochs("median", 8)
    (1, 2, 3, 4, 5, 6, 7)

    Args:
        name: Name of the pruner.
        epochs: Last epoch of a trial.
    """
    rung = first_rung(epochs)
    if name == "none":
        return ()
    if name == "median":
        return tuple(range(rung, epochs))
    rungs = []
    while rung < epochs:
        rungs.append(rung)
        rung *= REDUCTION_FACTOR
    return tuple(rungs)


def describe_decisions(name: str, epochs: int) -> str:
    """When the pruner compares, for --dry-run.

    Args:
        name: Name of the pruner.
        epochs: Last epoch of a trial.
    """
    asked = decision_epochs(name, epochs)
    if not asked:
        return f"never: all trials run {epochs} epoch{'s' if epochs > 1 else ''}"
    if name == "median":
        complete = f"after {N_STARTUP_TRIALS} complete trials"
        return f"at each epoch from {asked[0]} to {asked[-1]} of {epochs}, {complete}"
    rungs = ", ".join(map(str, asked))
    return f"at epochs {rungs} of {epochs}, one in {REDUCTION_FACTOR} goes on"
