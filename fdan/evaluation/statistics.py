"""All the statistics: an interval around a mean of seeds, an interval around a score, and whether
one model is better than another on the same utterances.

What is asked of whom. **The interval asks about other speakers**: utterances of one speaker are
alike, so a score of 500 utterances by three speakers says as much about a fourth speaker as three
numbers do. `bootstrap` therefore draws whole speakers, and the interval is as wide as they differ.
With fewer than about ten speakers it is still too narrow (a bootstrap of three speakers has ten
different outcomes): take it as the least that one has to allow for.

**The test asks about these utterances**: `compare` takes both models and the speakers as given and
asks whether which of the two gave which answer could as well have been decided by a coin for each
utterance. A speaker who is hard for both is no bias in it: each utterance is compared with itself.
It was chosen since a coin for each speaker can never say yes below six speakers (p >= 2 / 2^5).
What a small p does not say: that the challenger is better for other speakers, where the two models
have speakers of their own whom they suit, nor that its settings are better, of which each model is
one seed (confirm them for that). The comparison's interval, drawn by speaker, is for the first: in
a simulation of equal models, of which each suits ten speakers by up to 0.1 more or less, the test
called 8 % instead of 2.5 % better than the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

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
    """value: the figure itself; low, high: where it lies with probability `level`, nan where that
    cannot be said. groups: how many units were drawn or averaged; by: "speaker", "utterance" or
    "value"."""

    value: float
    low: float
    high: float
    level: float
    groups: int
    by: str


@dataclass(frozen=True)
class Comparison:
    """difference: the challenger's UAR less the champion's, its interval low .. high at `level`.

    p: the share of coin tosses that make the two differ by as much or more, either way round.
    samples: utterances; disagreements: those of which the two say different emotions.
    """

    difference: float
    low: float
    high: float
    p: float
    samples: int
    disagreements: int
    level: float


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Student's interval around the mean of independent values, such as one a seed. One value has
    no spread: its interval is nan .. nan."""
    n = len(values)
    assert n and 0 < level < 1
    # Of scipy.special: scipy.stats takes a second to import.
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

    Raises:
        DataError: the two are not about the same utterances with the same truth.
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
    for one in (challenger, champion):
        keys = list(zip(one.contents, one.truth.tolist(), strict=True))
        orders.append((sorted(range(len(keys)), key=keys.__getitem__), sorted(keys)))
    (ours, here), (theirs, there) = orders
    if here != there:
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
    if not here:
        raise DataError("no utterance to compare two models on")
    return np.array(ours, dtype=np.int64), np.array(theirs, dtype=np.int64)


def _units(
    cells: Ints, size: int, predictions: Predictions, order: Ints | None = None
) -> tuple[Ints, str, int]:
    """What is resampled as a whole: (units, size) counts of cells; "speaker" or "utterance"; and
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


def _measured(confusion: npt.NDArray[Any], measure: Measure) -> Floats:
    """(R,) of (R, C, C) counts, rows true: `metrics.measures` for many at once."""
    hits = np.diagonal(confusion, axis1=1, axis2=2).astype(np.float64)
    true, predicted = confusion.sum(2), confusion.sum(1)
    total: Ints = true.sum(1)
    found: Floats
    if measure == "war":
        found = hits.sum(1) / total
    elif measure == "uar":
        found = (hits / np.maximum(true, 1)).sum(1) / (true > 0).sum(1)
    else:
        f1 = 2 * hits / np.maximum(true + predicted, 1)
        found = (f1 * true).sum(1) / total
    return found


def _percentiles(values: Floats, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
