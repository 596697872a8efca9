"""Whether what a setting does to the value is larger than what the seed does to it.

Each searched dimension alone is fitted to the values of complete trials: a number by a parabola (of
its logarithm where it is searched so), a choice by the mean of each. Two questions follow.

- Is there an effect? A permutation test of the fit's F: values change places among the trials, and
  p is the share of orders whose F is as large, by Holm's method over the dimensions. What the other
  settings do is noise to it, as is the seed, so a small effect beside large ones remains unseen.
- How large is it? The standard deviation of the fit over the trials, less what a fit of pure noise
  has (as in adjusted R squared), beside the standard deviation over seeds that confirming measured.
  That is all of the noise, also what a seed does to all settings alike: "larger" is said with care.

It is about the trials that there are. A sampler that learns stays where values are good, so that a
setting which it narrowed seems to do less than it does, and settings that it narrowed together
share their effects.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial

from search.study.status import complete_trials
from tracking.result import LARGER, SMALLER, UNKNOWN, UNSEEN, Effect

MIN_TRIALS: Final = 10  # complete ones that have the dimension
_ORDERS: Final = 2000
_LEVEL: Final = 0.05

Floats = npt.NDArray[np.float64]


def effects(
    study: optuna.Study, space: Mapping[str, BaseDistribution], noise: float | None
) -> dict[str, Effect]:
    """The effect of each searched dimension, the largest first. Dimensions that too few complete
    trials have, or that do not vary, are left out.

    Args:
        study: The search.
        space: Distributions of its dimensions.
        noise: Standard deviation of a value over seeds; None where it was not measured.
    """
    trials = [t for t in complete_trials(study) if t.value is not None and math.isfinite(t.value)]
    fits = {
        name: fit
        for name, distribution in space.items()
        if (fit := _fit(name, distribution, trials)) is not None
    }
    ps = _holm({name: p for name, (_, p) in fits.items()})
    found = {}
    for name, (deviation, _) in sorted(fits.items(), key=lambda item: (-item[1][0], item[0])):
        verdict = UNSEEN
        if ps[name] < _LEVEL:
            verdict = UNKNOWN if noise is None else LARGER if deviation > noise else SMALLER
        found[name] = Effect(deviation, ps[name], verdict)
    return found


def _fit(
    name: str, distribution: BaseDistribution, trials: Sequence[FrozenTrial]
) -> tuple[float, float] | None:
    """Standard deviation of a dimension's fit, and its p; None where nothing can be said."""
    having = [trial for trial in trials if name in trial.params]
    if len(having) < MIN_TRIALS:
        return None
    y = np.array([trial.value for trial in having], np.float64)
    y -= y.mean()
    basis = _basis([trial.params[name] for trial in having], distribution)
    (n, terms), total = basis.shape, float(y @ y)
    free = n - 1 - terms
    if not terms or free < 1 or total <= 0:
        return None
    explained = float(((y @ basis) ** 2).sum())
    random = np.random.default_rng(0)
    orders = random.permuted(np.tile(y, (_ORDERS, 1)), axis=1)
    # The larger the explained part, the larger is F: the total is that of every order.
    extreme = int((((orders @ basis) ** 2).sum(1) >= explained * (1 - 1e-9)).sum())
    surplus = explained - terms * (total - explained) / free
    return math.sqrt(max(0.0, surplus) / n), (1 + extreme) / (1 + _ORDERS)


def _basis(values: Sequence[object], distribution: BaseDistribution) -> Floats:
    """(trials, terms) orthonormal columns, each with a sum of 0, that span the fit."""
    if isinstance(distribution, CategoricalDistribution):
        kinds = sorted({repr(value) for value in values})
        columns = np.array([[repr(value) == kind for kind in kinds] for value in values], float)
    else:
        x = np.array(values, np.float64)
        if getattr(distribution, "log", False):
            x = np.log(x)
        x = (x - x.mean()) / (x.std() or 1.0)
        columns = np.stack([x, x**2], axis=1)
    columns = columns - columns.mean(0)
    left, scale, _ = np.linalg.svd(columns, full_matrices=False)
    spanned: Floats = left[:, scale > 1e-8 * max(1.0, float(scale.max(initial=0.0)))]
    return spanned


def _holm(ps: Mapping[str, float]) -> dict[str, float]:
    """P-values by Holm's method."""
    adjusted, highest = {}, 0.0
    for place, (name, p) in enumerate(sorted(ps.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, p * (len(ps) - place)))
        adjusted[name] = highest
    return adjusted
