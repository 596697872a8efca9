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

A confirmation has settings - 1 comparisons with the one that N seeds would choose, at each of
N - MIN_SEEDS looks; they share the error evenly (Bonferroni), so a = 0.05 / ((settings - 1) looks).
Where noise is normal and equal, the race leaves out the setting that equal seeds would have chosen
in at most 5 % of all confirmations. Racing: Maron and Moore 1994; over blocks, with paired tests:
Birattari et al. 2002.

All of it is a function of finished runs. A look takes the first n seeds and no others, so it does
not matter how many runs were under way at once, or how often the driver was started.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from fdan.evaluation.statistics import LEVEL

MIN_SEEDS: Final = 2  # seeds of each setting before any is out
WINNER_SEEDS: Final = 3  # seeds of a winner, at least: a mean of two has hardly an interval
_MIN_FREEDOM: Final = 2  # degrees of freedom of a test: with one, two equal values decide
_TIE: Final = 1e-12

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
        error = (1 - LEVEL) / ((len(settings) - 1) * len(looks))
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


def _survivors(table: npt.NDArray[np.float64], seeds: int, error: float) -> list[int]:
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
    spread = math.sqrt(float((residual**2).sum()) / freedom)
    behind = float(stdtrit(freedom, 1 - error)) * spread * math.sqrt(2 / n * (1 - n / seeds))
    return np.flatnonzero(means.max() - means <= behind + _TIE).tolist()


def _mean(setting: int, seeds: Sequence[int], values: Mapping[Pair, float | None]) -> float:
    """Mean of a setting's values so far; -inf where it has none."""
    known = [value for seed in seeds if (value := values.get((setting, seed))) is not None]
    return math.fsum(known) / len(known) if known else -math.inf
