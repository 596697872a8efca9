"""When a study has enough: on values that were recorded from a real one, and on made-up ones whose
future is known."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from fdan.errors import ConfigError
from search.callbacks import early_stopping
from search.callbacks.early_stopping import (
    MIN_TRIALS,
    EarlyStopping,
    _epoch_noise,
    _expected_gain,
    _peaks_gain,
)
from search.cli import main as command
from search.cli.main import parse
from search.optimizer.space import Space
from search.selection.confirm import seed_noise
from search.study.events import TrialOutcome
from search.study.stopping import StopSignal
from search.study.storage import open_storage
from search.worker.messages import EpochResult
from tests.search.conftest import SMALL, MakeStudy

pytestmark = pytest.mark.long

RECORDED = json.loads((Path(__file__).parent / "recorded_study.json").read_text())
VALUES: list[float] = RECORDED["values"]
SEEDS: list[list[float]] = list(RECORDED["seeds"].values())
LAST_EPOCHS: list[list[float]] = RECORDED["last_epochs"]
FINISHED = TrialState.COMPLETE


def ended(number: int, value: float | None, last: Sequence[float] = ()) -> TrialOutcome:
    """A trial whose last epochs had these UARs; pruned where it has no value."""
    uars = [0.2, 0.4, *(last or [value or 0.3] * 5)]
    reports = [EpochResult(i, uar, {"validation/uar": uar}) for i, uar in enumerate(uars, 1)]
    reports[-1] = EpochResult(len(uars), value or 0.3, reports[-1].metrics)
    state = TrialState.PRUNED if value is None else FINISHED
    return TrialOutcome(number, state, "", tuple(reports))


def stops(
    values: Sequence[float | None],
    noise: float | None,
    last: Sequence[Sequence[float]] | None = None,
) -> tuple[int | None, str]:
    """After how many trials a study of these values would have been ended, and the reason."""
    stop = StopSignal()
    rule = EarlyStopping(stop, noise)
    for number, value in enumerate(values):
        rule.on_trial_end(ended(number, value, last[number] if last else ()))
        if stop.due():
            assert (stop.final, stop.code) == (True, 0)
            return number + 1, stop.reason
    return None, ""


# Recorded values


def test_a_recorded_plateau_stops() -> None:
    """The seed moves these values more than forty trials did."""
    noise = seed_noise(SEEDS)
    assert noise == pytest.approx(0.025, abs=0.001)
    after, reason = stops(VALUES, noise)
    assert after == MIN_TRIALS
    assert reason == (
        "enough after 20 trials: the next 10 are expected to add 0.0078, less than the 0.0248 by"
        " which the seed alone moves the value"
    )
    assert noise is not None and max(VALUES) - max(VALUES[:after]) < noise


def test_the_last_epochs_are_a_lower_bound_of_the_noise() -> None:
    noise = seed_noise(SEEDS)
    bound = _epoch_noise(LAST_EPOCHS)
    assert noise is not None and bound is not None and 0 < bound < noise
    after, reason = stops(VALUES, None, LAST_EPOCHS)
    assert after is not None and MIN_TRIALS < after < len(VALUES), (
        "later than with the seeds' noise"
    )
    assert "by which a trial's last epochs alone move its value" in reason
    # It was right: what the recorded study did afterwards was worth less than that.
    assert max(VALUES) - max(VALUES[:after]) < bound


def test_recorded_trials_are_few_where_most_are_pruned() -> None:
    pruned: list[float | None] = RECORDED["hyperband"]
    assert len(pruned) == MIN_TRIALS and sum(value is not None for value in pruned) == 9
    assert stops(pruned, 0.5) == (None, "")
    assert stops([*pruned, 0.69], 0.5)[0] == MIN_TRIALS + 1


# Made-up values


@pytest.mark.parametrize("noise", [0.001, 0.02])
def test_a_study_that_still_climbs_goes_on(noise: float) -> None:
    """Each ten trials add 0.03: by a steady climb, and in steps with bad trials between."""
    steady = [0.3 + 0.003 * i for i in range(100)]
    assert stops(steady, noise) == (None, "")
    jumps = [0.3 + 0.03 * (i // 10) if i % 10 == 0 else 0.2 for i in range(100)]
    assert stops(jumps, noise) == (None, "")


def test_a_study_that_climbed_stops_after_it_came_to_rest() -> None:
    random = np.random.default_rng(0)
    climbing = [0.3 + 0.01 * i for i in range(30)]
    resting = [0.6 - abs(float(x)) for x in random.normal(0, 0.002, 40)]
    after, _ = stops([*climbing, *resting], 0.01)
    assert after is not None and len(climbing) + 5 < after < len(climbing) + 30


def test_noise_that_is_larger_than_the_gains_stops_and_smaller_noise_does_not() -> None:
    random = np.random.default_rng(1)
    values = [0.6 + float(x) for x in random.normal(0, 0.02, 60)]
    assert stops(values, 0.05)[0] == MIN_TRIALS
    assert stops(values, 1e-5) == (None, "")
    assert stops(values, 0.0) == (None, "")
    later, sooner = (stops(values, noise)[0] or len(values) + 1 for noise in (0.004, 0.015))
    assert MIN_TRIALS <= sooner <= later


@pytest.mark.parametrize("count", [0, 1, MIN_TRIALS // 2, MIN_TRIALS - 1])
def test_few_trials_never_stop(count: int) -> None:
    assert _expected_gain([0.5] * count) == math.inf
    assert stops([0.5] * count, 0.9) == (None, "")


def test_trials_that_came_to_nothing_never_stop() -> None:
    assert stops([None] * 50, 0.9) == (None, "")
    assert stops([None] * 50 + [0.5] * (MIN_TRIALS // 2 - 1), 0.9) == (None, "")


def test_nothing_is_better_than_perfect() -> None:
    values = [0.8 + 0.01 * i for i in range(21)]
    assert _expected_gain(values[:20]) == pytest.approx(0.01)
    assert _expected_gain([*values[:20], 1.0]) == 0.0


def test_pruned_trials_add_nothing() -> None:
    random = np.random.default_rng(2)
    values = [0.6 + float(x) for x in random.normal(0, 0.02, 40)]
    apart = [one for value in values for one in (value, None, None)]
    # One in three of the next trials is complete: as three or four of the others.
    assert _expected_gain(apart, 30) == pytest.approx(_expected_gain(values, 10), rel=0.15)
    assert _expected_gain(apart) < _expected_gain(values)


@pytest.mark.parametrize("draws", [1, 4, 10])
def test_the_sum_against_draws(draws: int) -> None:
    """Where the law holds: peaks of mean excess e above a threshold that one in four exceeds."""
    random = np.random.default_rng(3)
    excesses = [0.01, 0.02, 0.03, 0.03, 0.06]
    values = [*(0.6 + x for x in excesses), 0.6, *(0.1 + 0.02 * i for i in range(14))]
    drawn = np.where(
        random.random((400_000, draws)) < 0.25, 0.6 + random.exponential(0.03, (400_000, draws)), 0
    )
    gain = np.maximum(drawn.max(axis=1) - 0.66, 0).mean()
    assert _peaks_gain(values, 0.66, draws) == pytest.approx(gain, rel=0.03)


KINDS: dict[str, Callable[[np.random.Generator], Any]] = {
    "normal": lambda random: 0.6 + 0.03 * random.normal(size=40),
    "long tail": lambda random: 0.3 + 0.05 * random.exponential(size=40),
    "some fail": lambda random: np.where(
        random.random(40) < 0.3, 0.2, 0.6 + 0.015 * random.normal(size=40)
    ),
    "a few hundred utterances": lambda random: (
        np.round((0.6 + 0.03 * random.normal(size=40)) * 126) / 126
    ),
    "wall": lambda random: 0.7 - 0.05 * random.exponential(size=40),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_expectation_against_what_then_happens(kind: str) -> None:
    """Over many studies whose trials are draws of one kind: never too shy, and of the right size
    except where values end at a wall."""
    random = np.random.default_rng(4)
    expected, happened = [], []
    for _ in range(400):
        values = [float(value) for value in KINDS[kind](random)]
        expected.append(_expected_gain(values[:30]))
        happened.append(max(0.0, max(values[30:]) - max(values[:30])))
    ratio = np.mean(expected) / np.mean(happened)
    assert ratio > 0.8
    assert ratio < 4 or kind == "wall"


def test_ties_at_the_top() -> None:
    assert _peaks_gain([0.7] * 10 + [0.5] * 10, 0.7, 10) == 0.0
    assert _peaks_gain([0.7] * 20, 0.8, 10) == 0.0


def test_noise_of_seeds_and_epochs() -> None:
    assert seed_noise([]) is None
    assert seed_noise([[0.5], [0.7]]) is None
    assert seed_noise([[0.4, 0.6]]) == pytest.approx(math.sqrt(0.02))
    # Settings of unlike quality are no noise: only what lies within each counts.
    assert seed_noise([[0.4, 0.6], [0.1, 0.3], [0.9]]) == pytest.approx(math.sqrt(0.02))
    assert _epoch_noise([[0.1, 0.2]]) is None
    curve = [0.1, 0.3, 0.5, 0.6, 0.5, 0.6, 0.5]
    assert _epoch_noise([curve, [0.2]]) == pytest.approx(np.std(curve[-5:], ddof=1) / math.sqrt(5))


# The option


def test_a_study_that_goes_on_knows_its_earlier_trials(
    small_space: Space, make_study: MakeStudy, tmp_path: Path
) -> None:
    opened = make_study(small_space)
    for value in VALUES[: MIN_TRIALS - 1]:
        trial = opened.ask()
        small_space.suggest(trial)
        trial.report(value, 1)
        opened.tell(trial, value)
    stop = StopSignal()
    rule = EarlyStopping.of_study(stop, 0.03, make_study(small_space), tmp_path)
    assert not stop.due()
    rule.on_trial_end(ended(MIN_TRIALS - 1, VALUES[MIN_TRIALS - 1]))
    assert stop.due()
    trial = opened.ask()
    trial.report(VALUES[MIN_TRIALS - 1], 1)
    opened.tell(trial, VALUES[MIN_TRIALS - 1])
    again = StopSignal()
    EarlyStopping.of_study(again, 0.03, make_study(small_space), tmp_path)
    assert again.due() and again.reason == stop.reason


@pytest.mark.parametrize("word", ["0.02", "auto", "0"])
def test_the_option_s_words(word: str) -> None:
    given = parse(["--stop-early", word]).options["stop_early"]
    assert given == (word if word == "auto" else float(word))


@pytest.mark.parametrize("word", ["soon", "-0.1", "1", "nan"])
def test_the_option_refuses(word: str) -> None:
    with pytest.raises(ConfigError, match=r"stop_early = .*expected auto, or a part of 1"):
        parse([f"--stop-early={word}"])


@pytest.mark.usefixtures("free_ray")
def test_a_study_that_has_enough_is_finished(
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A real one, with fewer trials than anybody should decide on."""
    monkeypatch.setattr(early_stopping, "MIN_TRIALS", 4)
    monkeypatch.setattr(early_stopping, "LOOKAHEAD", 2)
    runs = tmp_path / "runs"
    flags = ["--runs", str(runs), "--task", f"demo:{corpus}", "--workers", "1", *SMALL]
    flags += ["--epochs", "5", "--pruner", "none", "--study", "s", "--trials", "200"]
    flags += ["--stop-early", "0.9"]
    assert command.main(flags) == 0
    out = capsys.readouterr().out
    said = "enough after 4 trials: the next 2 are expected to add "
    assert said in out
    trials = optuna.load_study(study_name="s", storage=open_storage(None, runs / "s")).trials
    assert sum(one.state is FINISHED for one in trials) in (4, 5)
    assert all(one.state.is_finished() for one in trials)
    result = json.loads((runs / "s" / "result.json").read_text())
    assert result["state"] == "COMPLETE"
    assert said in result["reason"]
    assert command.main(flags) == 0
    assert "study s: enough after " in capsys.readouterr().err, "and nothing was run"
