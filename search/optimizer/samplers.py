"""Optuna's samplers by name, every argument stated: its own defaults change over versions."""

import warnings
from typing import Any

import numpy as np
import optuna
from optuna import samplers

from fdan.errors import ConfigError
from search.optimizer.space import Space

N_STARTUP_TRIALS = 10  # trials that tpe and gp draw at random before they model anything

SAMPLERS = {
    "tpe": "tree-structured Parzen estimators, conditional dimensions modelled in groups",
    "random": "independent draws",
    "gp": "Gaussian process; conditional dimensions are drawn at random",
    "cmaes": "CMA-ES; conditional and categorical dimensions are drawn at random",
    "grid": "every combination once; needs a space without continuous dimensions",
}


class _GridSampler(samplers.BruteForceSampler):
    """Each combination once, conditional dimensions included (Optuna's GridSampler repeats those).

    With ask and tell there is no loop of Optuna's to stop after the last one: the searcher knows
    how many combinations there are.
    """

    def after_trial(self, *_: Any) -> None:
        pass


def make_sampler(name: str, space: Space, seed: int, n_trials: int) -> samplers.BaseSampler:
    """One of SAMPLERS.

    Args:
        name: Key of SAMPLERS.
        space: Space that is searched.
        seed: Seed of the study.
        n_trials: Trials of the study so far: a continued study does not repeat their draws.
    """
    if name == "grid" and (dims := space.continuous()):
        raise ConfigError(
            f"--sampler grid: {', '.join(dims)} {'is' if len(dims) == 1 else 'are'} continuous: "
            "give each a step or choices (--space FILE), or pin it by its flag"
        )
    seed = int(np.random.SeedSequence([seed, n_trials]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match name:
            case "random":
                return samplers.RandomSampler(seed=seed)
            case "grid":
                return _GridSampler(seed=seed, avoid_premature_stop=False)
            case "gp":
                return samplers.GPSampler(
                    seed=seed,
                    independent_sampler=samplers.RandomSampler(seed=seed),
                    n_startup_trials=N_STARTUP_TRIALS,
                    deterministic_objective=False,
                    constraints_func=None,
                    warn_independent_sampling=False,
                )
            case "cmaes":
                return samplers.CmaEsSampler(
                    x0=None,
                    sigma0=None,
                    n_startup_trials=1,
                    independent_sampler=samplers.RandomSampler(seed=seed),
                    warn_independent_sampling=False,
                    seed=seed,
                    consider_pruned_trials=True,  # most are pruned: without them it hardly learns
                    popsize=None,
                    use_separable_cma=False,
                    with_margin=False,
                    lr_adapt=False,
                    source_trials=None,
                )
        # All arguments that Optuna 5 does not warn about as deprecated.
        return samplers.TPESampler(
            n_startup_trials=N_STARTUP_TRIALS,
            n_ei_candidates=24,
            seed=seed,
            multivariate=True,
            group=True,  # without it, conditional dimensions fall out of the model
            constant_liar=True,  # trials that still run keep new ones away from themselves
            constraints_func=None,
        )
