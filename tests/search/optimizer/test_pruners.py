"""Where the pruners decide, as Optuna's own code has it."""

from __future__ import annotations

import random

import optuna
import pytest

from search.optimizer.pruners import decision_epochs, first_rung, make_pruner


@pytest.mark.parametrize("name", ["hyperband", "halving", "median", "none"])
@pytest.mark.parametrize("epochs", [1, 2, 7, 12, 18, 30, 60])
def test_nothing_is_pruned_but_where_a_worker_waits(name: str, epochs: int) -> None:
    """Between those epochs it trains on unheard."""
    rng = random.Random(epochs)
    study = optuna.create_study(
        direction="maximize",
        pruner=make_pruner(name, epochs),
        sampler=optuna.samplers.RandomSampler(0),
    )
    pruned = set()
    for number in range(60):
        trial = study.ask()
        good = number < 10 or rng.random() < 0.3
        for epoch in range(1, epochs + 1):
            trial.report(rng.random() + good, epoch)
            if epoch < epochs and trial.should_prune():
                pruned.add(epoch)
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, rng.random() + good)
    assert pruned <= {*decision_epochs(name, epochs)}
    if name != "none" and epochs > 1:
        assert first_rung(epochs) in pruned
