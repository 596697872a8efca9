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

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from fdan.emotions import EMOTIONS
from fdan.errors import DataError
from fdan.evaluation.predictions import Predictions
from fdan.metrics import Ints

Floats = npt.NDArray[np.float64]

LEVEL: Final = 0.95  # the probability that an interval holds the figure

_RESAMPLES: Final = 2000
_TOSSES: Final = 10_000
_C: Final = len(EMOTIONS)
_TIE: Final = 1e-12  # sums of the same fractions in another order are the same sum


@dataclass(frozen=True)
class Interval:
    """Confidence interval of a figure, at LEVEL. The limits are nan where they are unknown."""

    value: float
    low: float
    high: float
    groups: int  # number of units drawn or averaged
    by: str  # the unit: "speaker", "utterance" or "value"


@dataclass(frozen=True)
class Comparison:
    """A challenger beside a champion."""

    difference: float  # the challenger's UAR less the champion's; low .. high at LEVEL
    low: float
    high: float
    p: float  # share of coin tosses that make the two differ by as much or more, either way round
    samples: int
    disagreements: int  # utterances for which the two predict different emotions


def mean_interval(values: Sequence[float]) -> Interval:
    """Student's interval around a mean of independent values, such as one a seed; nan .. nan for
    one value, which has no spread."""
    # Not scipy.stats, which takes a second to import.
    from scipy.special import stdtrit

    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, math.nan, math.nan, n, "value")
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * math.sqrt(variance / n)
    return Interval(mean, mean - half, mean + half, n, "value")


def bootstrap(predictions: Predictions) -> Interval:
    """Percentile interval of the UAR over resampled speakers, each with all of their utterances;
    over resampled utterances where not every speaker is known or there is only one.

    A resample without an emotion is measured over the emotions that it has, as `metrics` does.
    """
    cells = predictions.truth * _C + predictions.predicted
    drawn, groups, by = _resample(cells, _C**2, predictions.speakers, _RESAMPLES)
    low, high = _percentiles(_uar(drawn.reshape(-1, _C, _C)))
    return Interval(float(_uar(predictions.confusion[None])[0]), low, high, groups, by)


def compare(challenger: Predictions, champion: Predictions) -> Comparison:
    """The difference of two models' UAR on the same utterances. DataError: the two are not about
    the same utterances with the same truth.

    p is that of a two-sided paired randomisation test: the two answers on an utterance change
    places by the toss of a coin; (1 + tosses as extreme) / (1 + tosses), so never 0. The interval
    is a paired bootstrap: both models measured on the same resampled speakers (or utterances).

    Args:
        challenger: The challenger's predictions.
        champion: Its predictions for the same utterances, in any order.
    """
    ours, theirs = _paired(challenger, champion)
    truth, a, b = challenger.truth[ours], challenger.predicted[ours], champion.predicted[theirs]

    # Whoever answers, the truth is the same: a toss moves an utterance's share of its class's
    # recall from one model to the other, and only where one of them is right and the other wrong.
    # So what a class's tosses add up to is binomial.
    counts = np.bincount(truth, minlength=_C)
    gained = np.bincount(truth[(a == truth) & (b != truth)], minlength=_C)
    lost = np.bincount(truth[(b == truth) & (a != truth)], minlength=_C)
    share = 1 / (np.maximum(counts, 1) * (counts > 0).sum())
    difference = float((gained - lost) @ share)
    heads = np.random.default_rng(0).binomial(gained + lost, 0.5, (_TOSSES, _C))
    tossed = (2 * heads - (gained + lost)) @ share
    extreme = int((np.abs(tossed) >= abs(difference) - _TIE).sum())

    cells = (truth * 2 + (a == truth)) * 2 + (b == truth)
    speakers = [challenger.speakers[i] for i in ours.tolist()]
    drawn = _resample(cells, _C * 4, speakers, _TOSSES)[0].reshape(-1, _C, 2, 2)
    true = drawn.sum((2, 3))
    apart = (drawn[:, :, 1, 0] - drawn[:, :, 0, 1]) / np.maximum(true, 1)
    low, high = _percentiles(apart.sum(1) / (true > 0).sum(1))
    return Comparison(
        difference=difference,
        low=low,
        high=high,
        p=(1 + extreme) / (1 + _TOSSES),
        samples=len(truth),
        disagreements=int((a != b).sum()),
    )


def _paired(challenger: Predictions, champion: Predictions) -> tuple[Ints, Ints]:
    """The orders in which row i of both is the same utterance. Copies of a recording, whose
    contents are equal, go by their truth and place."""
    ours, our_keys = _sorted(challenger)
    theirs, their_keys = _sorted(champion)
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
    if not our_keys:
        raise DataError("no utterance to compare two models on")
    return ours, theirs


def _sorted(model: Predictions) -> tuple[Ints, list[tuple[str, int]]]:
    """The order of a model's rows by content and truth, and those in that order."""
    keys = list(zip(model.contents, model.truth.tolist(), strict=True))
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return np.array(order, dtype=np.int64), [keys[i] for i in order]


def _resample(
    cells: Ints, size: int, speakers: Sequence[str | None], repeats: int
) -> tuple[Ints, int, str]:
    """(repeats, size) counts of cells over units drawn with replacement; how many are drawn, and
    their name. `cells`: one of each utterance. `speakers`: theirs."""
    generator = np.random.default_rng([0, 1])
    known = sorted({name for name in speakers if name is not None})
    if None in speakers or len(known) < 2:
        # Utterances in one cell are one and the same to every measure: a unit is a cell, of which
        # as many are drawn as utterances fall into it.
        n = len(cells)
        share = np.bincount(cells, minlength=size) / n
        return generator.multinomial(n, share, repeats), n, "utterance"
    n = len(known)
    place = {name: i for i, name in enumerate(known)}
    owner = np.array([place[name] for name in speakers if name is not None])
    units = np.bincount(owner * size + cells, minlength=n * size).reshape(n, size)
    return generator.multinomial(n, np.full(n, 1 / n), repeats) @ units, n, "speaker"


def _uar(confusion: Ints) -> Floats:
    """(R,) of (R, C, C) counts, rows true: `metrics.measures` for many at once."""
    hits = np.diagonal(confusion, axis1=1, axis2=2).astype(np.float64)
    true = confusion.sum(2)
    uar: Floats = (hits / np.maximum(true, 1)).sum(1) / (true > 0).sum(1)
    return uar


def _percentiles(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
