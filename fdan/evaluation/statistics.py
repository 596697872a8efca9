"""Statistics: intervals around a mean of seeds and around a score, and whether one model is better
than another on the same utterances.

**The interval is about other speakers.** Utterances of one speaker are alike, so a score of 500
utterances by three speakers says as much about a fourth speaker as three numbers do. `bootstrap`
therefore draws whole speakers, and the interval is as wide as they differ. With fewer than about
ten speakers it is still too narrow (a bootstrap of three has ten different outcomes).

**The test is about these utterances.** `compare` takes both models and the speakers as given and
tests whether a coin for each utterance could as well have decided which model gave which answer. A
speaker who is hard for both is no bias: each utterance is compared with itself. A coin for each
speaker could never reject below six speakers (p >= 2 / 2^5). A small p does not say that the
challenger is better for other speakers, whom either model may suit, nor that its settings are
better, of which each model is one seed (confirm them for that). The comparison's interval, drawn by
speaker, is for the first: in a simulation of equal models, each of which suits ten speakers by up
to 0.1 more or less, the test called 8 % instead of 2.5 % better than the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from fdan.emotions import EMOTIONS
from fdan.errors import DataError
from fdan.evaluation.predictions import Predictions
from fdan.metrics import Ints

Floats = npt.NDArray[np.float64]
Measure = Literal["uar", "war", "wf1"]

_C: Final = len(EMOTIONS)
_TIE: Final = 1e-12  # sums of the same fractions in another order are the same sum


@dataclass(frozen=True)
class Interval:
    """Confidence interval of a figure."""

    value: float
    """The figure itself."""
    low: float
    """nan where the interval is unknown."""
    high: float
    level: float
    """The probability that it lies between `low` and `high`."""
    groups: int
    """Number of units drawn or averaged."""
    by: str
    """The unit: "speaker", "utterance" or "value"."""


@dataclass(frozen=True)
class Comparison:
    """A challenger beside a champion."""

    difference: float
    """The challenger's UAR less the champion's; its interval is low .. high at `level`."""
    low: float
    high: float
    p: float
    """The share of coin tosses that make the two differ by as much or more, either way round."""
    samples: int
    disagreements: int
    """Utterances for which the two predict different emotions."""
    level: float


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Student's interval around a mean; nan .. nan for one value, which has no spread.

    Args:
        values: Independent values, such as one a seed.
        level: Level of confidence, in 0 .. 1.
    """
    n = len(values)
    assert n and 0 < level < 1
    # Not scipy.stats, which takes a second to import.
    from scipy.special import stdtrit

    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, math.nan, math.nan, level, n, "value")
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = float(stdtrit(n - 1, (1 + level) / 2)) * math.sqrt(variance / n)
    return Interval(mean, mean - half, mean + half, level, n, "value")


def bootstrap(
    predictions: Predictions,
    measure: Measure = "uar",
    level: float = 0.95,
    repeats: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a measure over resampled speakers, each with all of their utterances;
    over resampled utterances where not every speaker is known or there is only one.

    A resample without an emotion is measured over the emotions that it has, as `metrics` does.

    Args:
        predictions: One model's predictions.
        measure: One of uar, war and wf1.
        level: Level of confidence, in 0 .. 1.
        repeats: Number of resamples.
        seed: Seed of the resampling.
    """
    cells = predictions.truth * _C + predictions.predicted
    units, by, groups = _units(cells, _C**2, predictions)
    drawn = _resampled(units, groups, repeats, seed).reshape(repeats, _C, _C)
    low, high = _percentiles(_measured(drawn, measure), level)
    value = _measured(predictions.confusion[None], measure)[0]
    return Interval(float(value), low, high, level, groups, by)


def compare(
    challenger: Predictions,
    champion: Predictions,
    repeats: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Comparison:
    """The difference of two models' UAR on the same utterances.

    p is that of a two-sided paired randomisation test: the two answers on an utterance change
    places by the toss of a coin; (1 + tosses as extreme) / (1 + repeats), so never 0. The interval
    is a paired bootstrap: both models measured on the same resampled speakers (or utterances).

    Args:
        challenger: The challenger's predictions.
        champion: Its predictions for the same utterances, in any order.
        repeats: Number of tosses and of resamples.
        seed: Seed of both.
        level: Level of confidence, in 0 .. 1.

    Raises:
        DataError: The two are not about the same utterances with the same truth.
    """
    ours, theirs = _paired(challenger, champion)
    truth, a, b = challenger.truth[ours], challenger.predicted[ours], champion.predicted[theirs]
    generator = np.random.default_rng(seed)

    # Whoever answers, the truth is the same: a toss moves an utterance's share of its class's
    # recall from one model to the other, and only where one of them is right and the other wrong.
    # So what a class's tosses add up to is binomial.
    counts = np.bincount(truth, minlength=_C)
    gained = np.bincount(truth[(a == truth) & (b != truth)], minlength=_C)
    lost = np.bincount(truth[(b == truth) & (a != truth)], minlength=_C)
    share = 1 / (np.maximum(counts, 1) * (counts > 0).sum())
    difference = float((gained - lost) @ share)
    heads = generator.binomial(gained + lost, 0.5, (repeats, _C))
    tossed = (2 * heads - (gained + lost)) @ share
    extreme = int((np.abs(tossed) >= abs(difference) - _TIE).sum())

    cells = (truth * 2 + (a == truth)) * 2 + (b == truth)
    units, _, groups = _units(cells, _C * 4, challenger, ours)
    drawn = _resampled(units, groups, repeats, seed).reshape(repeats, _C, 2, 2)
    true = drawn.sum((2, 3))
    apart = (drawn[:, :, 1, 0] - drawn[:, :, 0, 1]) / np.maximum(true, 1)
    low, high = _percentiles(apart.sum(1) / (true > 0).sum(1), level)
    return Comparison(
        difference=difference,
        low=low,
        high=high,
        p=(1 + extreme) / (1 + repeats),
        samples=len(truth),
        disagreements=int((a != b).sum()),
        level=level,
    )


def _paired(challenger: Predictions, champion: Predictions) -> tuple[Ints, Ints]:
    """The orders in which row i of both is the same utterance. Copies of a recording, whose
    contents are equal, go by their truth and place."""
    orders = []
    for model in (challenger, champion):
        keys = list(zip(model.contents, model.truth.tolist(), strict=True))
        orders.append((sorted(range(len(keys)), key=keys.__getitem__), sorted(keys)))
    (ours, our_keys), (theirs, their_keys) = orders
    if our_keys != their_keys:
        alone, other = set(challenger.contents), set(champion.contents)
        if alone != other:
            raise DataError(
                "the two models were not tested on the same utterances:"
                f" {len(alone & other)} in both, {len(alone - other)} only the challenger's,"
                f" {len(other - alone)} only the champion's; score both on one test part"
            )
        raise DataError(
            "the two models were tested on the same files, but not with the same emotions as truth"
            " or not equally often; score both on one test part"
        )
    if not ours:
        raise DataError("no utterance to compare two models on")
    return np.array(ours, dtype=np.int64), np.array(theirs, dtype=np.int64)


def _units(
    cells: Ints, size: int, predictions: Predictions, order: Ints | None = None
) -> tuple[Ints, str, int]:
    """Units resampled as a whole: (units, size) counts of cells; "speaker" or "utterance"; and
    how many there are. `order`: which row of `predictions` cell i is of (None: row i)."""
    names: list[str | None] = list(predictions.speakers)
    if order is not None:
        names = [names[i] for i in order.tolist()]
    known = sorted({name for name in names if name is not None})
    if None in names or len(known) < 2:
        # Utterances in one cell are one and the same to every measure: a unit is a cell, of which
        # as many are drawn as utterances fall into it.
        return np.bincount(cells, minlength=size)[None], "utterance", len(cells)
    place = {name: i for i, name in enumerate(known)}
    owner = np.array([place[name] for name in names if name is not None])
    counts = np.bincount(owner * size + cells, minlength=len(known) * size)
    return counts.reshape(len(known), size), "speaker", len(known)


def _resampled(units: Ints, groups: int, repeats: int, seed: int) -> Ints:
    """(repeats, size): cell counts of `groups` units drawn with replacement."""
    generator = np.random.default_rng([seed, 1])
    if len(units) == 1:
        return generator.multinomial(groups, units[0] / groups, repeats)
    drawn: Ints = generator.multinomial(groups, np.full(groups, 1 / groups), repeats) @ units
    return drawn


def _measured(confusion: Ints, measure: Measure) -> Floats:
    """(R,) of (R, C, C) counts, rows true: `metrics.measures` for many at once."""
    hits = np.diagonal(confusion, axis1=1, axis2=2).astype(np.float64)
    true, predicted = confusion.sum(2), confusion.sum(1)
    total: Ints = true.sum(1)
    values: Floats
    if measure == "war":
        values = hits.sum(1) / total
    elif measure == "uar":
        values = (hits / np.maximum(true, 1)).sum(1) / (true > 0).sum(1)
    else:
        f1 = 2 * hits / np.maximum(true + predicted, 1)
        values = (f1 * true).sum(1) / total
    return values


def _percentiles(values: Floats, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
