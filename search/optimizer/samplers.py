"""Optuna's samplers by name, every argument stated: its own defaults change over versions."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
from optuna.samplers import (
    BaseSampler,
    BruteForceSampler,
    CmaEsSampler,
    GPSampler,
    RandomSampler,
    TPESampler,
)

from fdan.errors import ConfigError, unknown
from search.optimizer.space import Space

STARTUP = 10
"""Trials that tpe and gp draw at random before they model anything."""

HELP = {
    "tpe": "tree-structured Parzen estimators, conditional dimensions modelled in groups",
    "random": "independent draws",
    "gp": "Gaussian process; conditional dimensions are drawn at random",
    "cmaes": "CMA-ES; conditional and categorical dimensions are drawn at random",
    "grid": "every combination once; needs a space without continuous dimensions",
}


class _GridSampler(BruteForceSampler):
    """Each combination once, conditional dimensions included (Optuna's GridSampler repeats those).

    Asked and told, there is no loop of Optuna's to stop after the last one: the searcher knows how
    many combinations there are.
    """

    def after_trial(self, *_: Any) -> None:
        pass


def make(name: str, space: Space, seed: int, told: int) -> BaseSampler:
    """The sampler called `name`.

    `told` is the number of trials already in the study: a study that is continued does not draw
    again what it drew before.
    """
    if name not in HELP:
        raise ConfigError(f"--sampler: {unknown('sampler', name, HELP)}")
    state = int(np.random.SeedSequence([seed, told]).generate_state(1)[0])
    if name == "grid" and (dims := space.continuous()):
        raise ConfigError(
            f"--sampler grid: {', '.join(dims)} {'is' if len(dims) == 1 else 'are'} continuous: "
            "give each a step or choices (--space FILE), or pin it by its flag"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _MAKERS[name](state)


def _tpe(seed: int) -> BaseSampler:
    # All arguments that Optuna 5 does not warn about as deprecated.
    return TPESampler(
        n_startup_trials=STARTUP,
        n_ei_candidates=24,
        seed=seed,
        multivariate=True,
        group=True,  # without it, conditional dimensions fall out of the model
        constant_liar=True,  # trials that still run keep new ones away from themselves
        constraints_func=None,
    )


def _random(seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


def _gp(seed: int) -> BaseSampler:
    return GPSampler(
        seed=seed,
        independent_sampler=RandomSampler(seed=seed),
        n_startup_trials=STARTUP,
        deterministic_objective=False,
        constraints_func=None,
        warn_independent_sampling=False,
    )


def _cmaes(seed: int) -> BaseSampler:
    return CmaEsSampler(
        x0=None,
        sigma0=None,
        n_startup_trials=1,
        independent_sampler=RandomSampler(seed=seed),
        warn_independent_sampling=False,
        seed=seed,
        consider_pruned_trials=True,  # most trials are pruned: without them it hardly learns
        popsize=None,
        use_separable_cma=False,
        with_margin=False,
        lr_adapt=False,
        source_trials=None,
    )


def _grid(seed: int) -> BaseSampler:
    return _GridSampler(seed=seed, avoid_premature_stop=False)


_MAKERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": _tpe,
    "random": _random,
    "gp": _gp,
    "cmaes": _cmaes,
    "grid": _grid,
}
