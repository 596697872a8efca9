"""Whether a setting's effect is larger than the seed's noise, of studies whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import RandomSampler

from search.results.effects import MIN_TRIALS, effects
from tracking.result import LARGER, SMALLER, UNKNOWN, UNSEEN

NOISE = 0.02
SPACE: dict[str, BaseDistribution] = {
    "alpha": FloatDistribution(1e-5, 1.0, log=True),
    "context": CategoricalDistribution(["bank", None]),
    "layers": IntDistribution(0, 3),
    "heads": CategoricalDistribution([1, 2]),
}


def study_of(value: Callable[[dict[str, object]], float], trials: int, seed: int) -> optuna.Study:
    """Random settings; `heads` only where there are layers."""
    random = np.random.default_rng(seed)
    study = optuna.create_study(direction="maximize", sampler=RandomSampler(seed=seed))
    for _ in range(trials):
        trial = study.ask()
        for name in ("alpha", "context", "layers"):
            trial._suggest(name, SPACE[name])
        if trial.params["layers"]:
            trial._suggest("heads", SPACE["heads"])
        study.tell(trial, value(trial.params) + random.normal(0, NOISE))
    return study


def mixed(params: dict[str, object]) -> float:
    """alpha matters by four times the noise, with its best value inside; context by half of it."""
    alpha = params["alpha"]
    assert isinstance(alpha, float)
    return -0.06 * (math.log10(alpha) + 2.5) ** 2 / 1.5 + 0.02 * (params["context"] == "bank")


def test_each_dimension_has_its_verdict() -> None:
    study = study_of(mixed, 300, seed=1)
    found = effects(study, SPACE, NOISE)
    assert next(iter(found)) == "alpha" and found.keys() == SPACE.keys()
    verdicts = {name: effect.verdict for name, effect in found.items()}
    assert (verdicts["alpha"], verdicts["layers"], verdicts["heads"]) == (LARGER, UNSEEN, UNSEEN)
    fitted = [mixed({**t.params, "context": "bank"}) for t in study.trials]
    assert found["alpha"].deviation == pytest.approx(np.std(fitted), rel=0.1)
    unmeasured = effects(study, SPACE, None)
    assert unmeasured["alpha"].verdict == UNKNOWN and unmeasured["layers"].verdict == UNSEEN


def test_a_real_effect_may_be_smaller_than_the_noise() -> None:
    study = study_of(lambda params: 0.016 * (params["context"] == "bank"), 300, seed=2)
    effect = effects(study, SPACE, NOISE)["context"]
    assert effect.verdict == SMALLER and effect.p < 0.05
    assert effect.deviation == pytest.approx(0.008, abs=0.003)


def test_where_nothing_matters_an_effect_is_seen_in_one_study_of_twenty() -> None:
    repeats = 100
    seen = 0
    for seed in range(repeats):
        found = effects(study_of(lambda _: 0.5, 30, seed), SPACE, 0.0)
        seen += any(effect.verdict != UNSEEN for effect in found.values())
    assert 0 < seen <= 0.1 * repeats


def test_what_nothing_can_be_said_of_is_left_out() -> None:
    few = study_of(mixed, MIN_TRIALS - 1, seed=3)
    assert effects(few, SPACE, NOISE) == {}
    study = study_of(lambda _: 0.5, MIN_TRIALS, seed=3)
    one_value = {**SPACE, "unused": FloatDistribution(0.0, 1.0)}
    assert "unused" not in effects(study, one_value, NOISE)
    alike = optuna.create_study(direction="maximize")
    for _ in range(20):
        trial = alike.ask(fixed_distributions={"layers": IntDistribution(1, 1)})
        alike.tell(trial, 0.5)
    assert effects(alike, {"layers": IntDistribution(1, 1)}, NOISE) == {}
