"""Decides which runs a confirmation still needs, and whether its winner is found: settings race
over common seeds, and those that are out get no more of them.

After each seed from the second on, a setting is out if it would lose to the leader even with all
of its seeds. With k settings in the race, n of N seeds each, and s the residual standard deviation
after the means of settings and of seeds are taken out, that is where

    mean(leader) - mean(setting) > t(1 - a; f) s sqrt(2 / n) sqrt(1 - n / N),  f = (k - 1)(n - 1).

Of two settings this is Student's paired test on their differences. Of more it is the same test in a
randomised block design, whose blocks are the seeds; it takes the noise of all as equal. The last
factor is the finite population correction (Cochran, Sampling Techniques, section 2.6): the question
is not which setting is better over all seeds that there are, but which one N seeds would choose.

a is one for all looks and settings of a confirmation, such that the race loses the setting that N
seeds would choose in 5 % of confirmations whose settings are all equal, the hardest case, with
normal noise. It is found by simulation (`error_each`). Bonferroni's 0.05 / ((settings - 1) looks)
would be too small by a factor of seven or so: the tests depend on one another, and a setting that
will come first is seldom far behind. Racing: Maron and Moore 1994; over blocks, with paired tests:
Birattari et al. 2002.

All of it is a function of finished runs. A look takes the first n seeds and no others, so it does
not matter how many runs were under way at once, or how often the driver was started.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from fdan.evaluation.statistics import LEVEL

MIN_SEEDS: Final = 2  # seeds of each setting before any is out
WINNER_SEEDS: Final = 3  # seeds of a winner, at least: a mean of two has hardly an interval
_MIN_FREEDOM: Final = 2  # degrees of freedom of a test: with one, two equal values decide
_TIE: Final = 1e-12

_SIMULATIONS: Final = 3000
_HALVINGS: Final = 9

Values = npt.NDArray[np.float64]
Pair = tuple[int, int]  # number of a setting's trial, and a seed


@dataclass(frozen=True)
class Race:
    """Where a race stands."""

    leaders: tuple[int, ...]  # settings that are still in it, the best mean first
    wanted: tuple[Pair, ...]
    """Runs without a value that are to be made, the most urgent first. Those for the next look come
    first, later seeds after them, for workers that would be idle."""
    separated: bool  # whether the leader is alone because the others are out

    @property
    def over(self) -> bool:
        return not self.wanted


def race(
    settings: Sequence[int],
    seeds: Sequence[int],
    values: Mapping[Pair, float | None],
    retired: Collection[int] = (),
) -> Race:
    """Where a race stands.

    Args:
        settings: Trials whose settings race, the best of the search first.
        seeds: Seeds of a setting, at most, in the order in which they are run.
        values: Values of finished runs; None where the run failed, which puts its setting out.
        retired: Those of the settings that get no more runs, since the search has better ones now.
    """
    failed = {setting for (setting, _), value in values.items() if value is None}
    entered = [setting for setting in settings if setting not in failed]
    racing, separated = entered, False
    looks = range(min(MIN_SEEDS, len(seeds)), len(seeds))
    for n in looks:
        ready = {s for s in racing if all((s, seed) in values for seed in seeds[:n])}
        racing = [s for s in racing if s in ready or s not in retired]
        if len(racing) < 2 or not ready.issuperset(racing):
            break
        table = np.array([[values[s, seed] for seed in seeds[:n]] for s in racing], np.float64)
        error = error_each(len(settings), len(seeds))
        racing = [racing[row] for row in _survivors(table, len(seeds), error)]
        separated = len(racing) == 1
    leaders = tuple(sorted(racing, key=lambda setting: -_mean(setting, seeds, values)))
    needed = len(seeds)
    if separated:  # no setting may have more seeds than the winner
        most = max(sum((s, seed) in values for seed in seeds) for s in settings)
        needed = max(min(WINNER_SEEDS, len(seeds)), most)
    wanted = tuple(
        (setting, seed)
        for seed in seeds[:needed]
        for setting in leaders
        if (setting, seed) not in values and setting not in retired
    )
    return Race(leaders, wanted, separated)


@cache
def error_each(settings: int, seeds: int) -> float:
    """The probability of a wrong answer that one test of a confirmation may have, so that all of
    them together have 5 %.

    Args:
        settings: Number of settings.
        seeds: Number of seeds in the end, of each.
    """
    values = np.random.default_rng(0).normal(size=(_SIMULATIONS, settings, seeds))
    low, high = 0.0, 0.5
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if _lost(values, middle) > 1 - LEVEL else (middle, high)
    return low


def _lost(values: Values, error: float) -> float:
    """The share of simulated confirmations that lose the setting which all seeds would choose.

    Args:
        values: (confirmations, settings, seeds) values.
        error: Probability of a wrong answer that one test may have.
    """
    from scipy.special import stdtrit

    seeds = values.shape[2]
    racing = np.ones(values.shape[:2], bool)  # (confirmations, settings)
    for n in range(MIN_SEEDS, seeds):
        k = racing.sum(1)
        means, blocks = values[..., :n].mean(2), np.einsum("cks,ck->cs", values[..., :n], racing)
        blocks /= k[:, None]
        residual = values[..., :n] - means[..., None] - (blocks - blocks.mean(1)[:, None])[:, None]
        freedom = (k - 1) * (n - 1)
        tested = freedom >= _MIN_FREEDOM
        free = np.where(tested, freedom, _MIN_FREEDOM)
        squares = np.einsum("cks,ck->c", residual**2, racing)
        spread = np.sqrt(squares / free * 2 / n * (1 - n / seeds))
        behind = np.where(tested, -stdtrit(free, error) * spread, np.inf)
        best = np.where(racing, means, -np.inf).max(1)
        racing &= best[:, None] - means <= behind[:, None]
    chosen = values.mean(2).argmax(1)
    return 1 - float(racing[np.arange(len(values)), chosen].mean())


def _survivors(table: Values, seeds: int, error: float) -> list[int]:
    """The rows, settings, of a (settings, seeds so far) table that are not out.

    Args:
        table: Values.
        seeds: Number of seeds in the end.
        error: Probability of a wrong answer about one row.
    """
    # Not scipy.stats, which takes a second to import.
    from scipy.special import stdtrit

    k, n = table.shape
    freedom = (k - 1) * (n - 1)
    if freedom < _MIN_FREEDOM:
        return list(range(k))
    means = table.mean(1)
    residual = table - means[:, None] - table.mean(0) + table.mean()
    spread = math.sqrt(float((residual**2).sum()) / freedom * 2 / n * (1 - n / seeds))
    behind = -float(stdtrit(freedom, error)) * spread
    return np.flatnonzero(means.max() - means <= behind + _TIE).tolist()


def _mean(setting: int, seeds: Sequence[int], values: Mapping[Pair, float | None]) -> float:
    """Mean of a setting's values so far; -inf where it has none."""
    known = [value for seed in seeds if (value := values.get((setting, seed))) is not None]
    return math.fsum(known) / len(known) if known else -math.inf
