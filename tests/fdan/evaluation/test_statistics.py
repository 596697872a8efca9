"""Intervals and the paired comparison against scipy, and the promotion gate's error rates on
simulated models."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from fdan.errors import DataError
from fdan.evaluation import statistics
from fdan.evaluation.predictions import Predictions
from fdan.evaluation.statistics import Comparison, bootstrap, compare, mean_interval
from fdan.metrics import confusion_matrix, measures
from tracking.promotion.gates import beside_yardsticks, challenger_is

Array = npt.NDArray[Any]


def said(truth: Array, answers: Array, speakers: tuple[str | None, ...]) -> Predictions:
    """A model that is sure of each of its answers."""
    contents = tuple(f"{i:064x}" for i in range(len(truth)))
    return Predictions(contents, contents, speakers, truth, np.eye(7)[answers])


def some(n: int, right: float, seed: int, speakers: int = 0) -> Predictions:
    """Right with this probability, speaker i by i times 0.1 less often; the truth is the same for
    all seeds."""
    random = np.random.default_rng(seed)
    truth = np.random.default_rng(99).integers(0, 7, n)
    owner = np.arange(n) % max(speakers, 1)
    hit = random.random(n) < right - 0.1 * owner
    answers = np.where(hit, truth, (truth + random.integers(1, 7, n)) % 7)
    return said(truth, answers, tuple(f"s{i}" if speakers else None for i in owner))


# Mean of seeds


def test_the_mean_of_seeds_is_students() -> None:
    values = [0.61, 0.55, 0.67, 0.58]
    found = mean_interval(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(values), low, high))
    assert (found.groups, found.by) == (4, "value")


def test_one_seed_has_no_interval() -> None:
    found = mean_interval([0.6])
    assert found.value == 0.6 and math.isnan(found.low) and math.isnan(found.high)


# Bootstrap


def _uar(predictions: Predictions, rows: Array) -> float:
    truth, answers = predictions.truth[rows], predictions.predicted[rows]
    return measures(confusion_matrix(truth, answers, 7)).uar


@pytest.mark.parametrize("speakers", [0, 6])
def test_the_interval_is_scipys(speakers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    predictions = some(60, 0.8, seed=3, speakers=speakers)
    n = speakers or 60
    owner = np.arange(60) % n
    rows = [np.flatnonzero(owner == i) for i in range(n)]

    def statistic(drawn: Array) -> float:
        return _uar(predictions, np.concatenate([rows[i] for i in drawn]))

    expected = stats.bootstrap(
        (np.arange(n),),
        statistic,
        vectorized=False,
        method="percentile",
        n_resamples=3000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    monkeypatch.setattr(statistics, "_RESAMPLES", 20_000)
    found = bootstrap(predictions)
    # Two per cent of 3000 resamples lie beyond a limit: it moves by a hundredth by chance.
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.02)
    assert found.value == pytest.approx(_uar(predictions, np.arange(60)), rel=1e-12)
    assert (found.groups, found.by) == (n, "speaker" if speakers else "utterance")


def test_speakers_that_differ_make_a_wider_interval() -> None:
    predictions = some(300, 0.9, seed=1, speakers=6)
    unnamed = replace(predictions, speakers=(None,) * 300)
    by_speaker, by_utterance = bootstrap(predictions), bootstrap(unnamed)
    assert by_speaker.value == by_utterance.value
    assert by_speaker.high - by_speaker.low > 1.5 * (by_utterance.high - by_utterance.low)


@pytest.mark.parametrize("speakers", [("DC",) * 20, (None,) * 20, ("DC",) * 10 + (None,) * 10])
def test_without_two_speakers_it_is_by_utterance(speakers: tuple[str | None, ...]) -> None:
    found = bootstrap(replace(some(20, 0.5, seed=0), speakers=speakers))
    assert (found.by, found.groups) == ("utterance", 20)


def test_the_interval_is_the_same_each_time() -> None:
    predictions = some(200, 0.9, seed=0, speakers=8)
    assert bootstrap(predictions) == bootstrap(predictions)


# Comparison


def test_the_p_value_is_scipys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eleven utterances have 2^11 tosses, of which scipy counts all."""
    a, b = some(11, 0.9, seed=0), some(11, 0.35, seed=5)

    def statistic(x: Array, y: Array) -> float:
        def uar(answers: Array) -> float:
            return measures(confusion_matrix(a.truth, answers.astype(np.int64), 7)).uar

        return uar(x) - uar(y)

    exact = stats.permutation_test(
        (a.predicted, b.predicted),
        statistic,
        permutation_type="samples",
        vectorized=False,
        n_resamples=np.inf,
    )
    monkeypatch.setattr(statistics, "_TOSSES", 200_000)
    found = compare(a, b)
    assert found.difference == pytest.approx(exact.statistic)
    assert 0.02 < exact.pvalue < 0.5, "too easy a case"
    assert found.p == pytest.approx(exact.pvalue, abs=0.005)


def test_the_comparisons_interval_is_scipys() -> None:
    a, b = some(120, 0.95, seed=0, speakers=6), some(120, 0.8, seed=1, speakers=6)
    rows = [np.flatnonzero(np.arange(120) % 6 == i) for i in range(6)]

    def statistic(drawn: Array) -> float:
        chosen = np.concatenate([rows[i] for i in drawn])
        return _uar(a, chosen) - _uar(b, chosen)

    expected = stats.bootstrap(
        (np.arange(6),),
        statistic,
        vectorized=False,
        method="percentile",
        n_resamples=3000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    found = compare(a, b)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.01)
    assert found.low < found.difference < found.high
    assert found.samples == 120 and found.disagreements == (a.predicted != b.predicted).sum()


def test_the_order_of_rows_is_nothing() -> None:
    a, b = some(80, 0.8, seed=0, speakers=5), some(80, 0.6, seed=1, speakers=5)
    order = np.random.default_rng(4).permutation(80)
    shuffled = Predictions(
        tuple(b.contents[i] for i in order),
        tuple(b.utterances[i] for i in order),
        tuple(b.speakers[i] for i in order),
        b.truth[order],
        b.probabilities[order],
    )
    assert compare(a, shuffled) == compare(a, b)
    back = compare(b, a)
    assert (back.difference, back.p) == (-compare(a, b).difference, compare(a, b).p)


def test_a_model_is_as_good_as_itself() -> None:
    a = some(60, 0.7, seed=0, speakers=4)
    assert compare(a, a) == Comparison(0.0, 0.0, 0.0, 1.0, 60, 0)


def _other_truth(p: Predictions) -> Predictions:
    return replace(p, truth=(p.truth + 1) % 7)


def _one_less(p: Predictions) -> Predictions:
    return Predictions(
        p.contents[:-1], p.utterances[:-1], p.speakers[:-1], p.truth[:-1], p.probabilities[:-1]
    )


def _twice(p: Predictions) -> Predictions:
    return replace(p, contents=(*p.contents[:-1], p.contents[0]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_other_truth, "not with the same emotions"),
        (_one_less, "59 in both, 1 only the challenger's, 0 only the champion's"),
        (_twice, "not tested on the same utterances"),
    ],
)
def test_other_utterances_are_refused(
    change: Callable[[Predictions], Predictions], words: str
) -> None:
    a, b = some(60, 0.7, seed=0), some(60, 0.6, seed=1)
    with pytest.raises(DataError, match=words) as caught:
        compare(a, change(b))
    assert "\n" not in str(caught.value)


# The promotion gate: its own rule

REPETITIONS = 400
# Utterances of each emotion (neutral is the largest, as in SAVEE), of ten speakers.
SIZES = (50, 40, 50, 75, 125, 90, 70)


def simulated(random: np.random.Generator, *gains: float) -> list[Predictions]:
    """Models' answers on 500 utterances; their true UARs are 0.5 and these gains.

    Each is right with a probability made of its own strengths (emotions it is good or bad at,
    which leave its true UAR as it is), the speaker's difficulty and the utterance's. Of three
    utterances in ten all are right or all are wrong: they learnt from the same data.
    """
    truth = np.repeat(np.arange(7), SIZES)
    n = len(truth)
    owner = random.integers(0, 10, n)
    shared = random.uniform(-0.15, 0.15, 10)[owner] + random.uniform(-0.15, 0.15, n)
    alike, common = random.random(n) < 0.3, random.random(n)
    speakers = tuple(f"s{i}" for i in owner)
    models = []
    for gain in gains:
        strength = random.uniform(-0.1, 0.1, 7)
        right = 0.5 + gain + (strength - strength.mean())[truth] + shared
        hit = np.where(alike, common, random.random(n)) < right
        answers = np.where(hit, truth, (truth + random.integers(1, 7, n)) % 7)
        models.append(said(truth, answers, speakers))
    return models


def promoted(better: float, monkeypatch: pytest.MonkeyPatch) -> float:
    """The share of repetitions that the gate lets through."""
    monkeypatch.setattr(statistics, "_TOSSES", 2000)
    random = np.random.default_rng(2024)
    found = 0
    for _ in range(REPETITIONS):
        found += challenger_is(compare(*simulated(random, better, 0.0))) == "better"
    return found / REPETITIONS


def test_an_equal_model_is_hardly_ever_promoted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert promoted(0.0, monkeypatch) <= 0.05


def test_a_better_model_is_nearly_always_promoted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert promoted(0.1, monkeypatch) >= 0.8


# The gate of the yardsticks


def beside(monkeypatch: pytest.MonkeyPatch, better: float, *yardsticks: float) -> dict[str, float]:
    """The share of repetitions in which a winner is better than the yardsticks, worse, or
    neither."""
    monkeypatch.setattr(statistics, "_TOSSES", 2000)
    random = np.random.default_rng(2024)
    shares = {"better": 0.0, "worse": 0.0, "tie": 0.0}
    for _ in range(REPETITIONS):
        winner, *others = simulated(random, better, *yardsticks)
        shares[beside_yardsticks([compare(winner, other) for other in others])] += 1 / REPETITIONS
    return shares


@pytest.mark.parametrize("yardsticks", [(0.0,), (0.0, 0.0), (0.0, -0.2), (0.0, -0.1, 0.05)])
def test_a_winner_that_equals_a_yardstick_is_hardly_ever_better(
    yardsticks: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many others there are, and however good: it has to be better than each."""
    assert beside(monkeypatch, 0.0, *yardsticks)["better"] <= 0.05


@pytest.mark.parametrize("yardsticks", [(0.0,), (0.0, 0.0), (0.0, 0.0, -0.1)])
def test_a_winner_that_is_better_than_the_yardsticks_nearly_always_is(
    yardsticks: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert beside(monkeypatch, 0.1, *yardsticks)["better"] >= 0.8


def test_a_winner_that_is_worse_than_one_yardstick_nearly_always_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert beside(monkeypatch, 0.0, 0.1, -0.1)["worse"] >= 0.8
