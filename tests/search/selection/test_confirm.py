"""The best settings run again with fresh seeds, and the best mean wins."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from scipy import stats

from search.selection import confirm

UNIFORM = {"alpha": optuna.distributions.FloatDistribution(0.0, 1.0)}


def fresh_seeds(seed: int, count: int) -> range:
    return range(seed + confirm.FIRST_SEED, seed + confirm.FIRST_SEED + count)


def searched(*values: float | None, alphas: tuple[float, ...] | None = None) -> optuna.Study:
    """A study with a complete trial of each value, a pruned one for None."""
    made = optuna.create_study(study_name="s", direction="maximize")
    for number, value in enumerate(values):
        made.add_trial(
            create_trial(
                params={"alpha": alphas[number] if alphas else number / 100},
                distributions=UNIFORM,
                value=value,
                state=TrialState.PRUNED if value is None else TrialState.COMPLETE,
            )
        )
    return made


def run_all(
    search: optuna.Study,
    values: dict[tuple[float, int], float | None],
    count: int = 2,
    seeds: int = 3,
    seed: int = 0,
) -> list[dict[str, object]]:
    """Run what the queue asks for; a value of None fails. Returns the runs' settings in order."""
    opened = confirm.open_confirmation(search)
    queue = confirm.ConfirmationQueue(
        opened, confirm.nominate(search)[:count], fresh_seeds(seed, seeds)
    )
    asked = []
    for _ in range(queue.left):
        run = opened.ask()
        asked.append(dict(queue.suggest(run)))
        assert queue.suggest(run) == asked[-1], "asked again, it says the same"
        value = values[asked[-1]["alpha"], asked[-1]["seed"] - seed - 1000]
        opened.tell(run, value, TrialState.FAIL if value is None else TrialState.COMPLETE)
    return asked


def test_the_best_are_nominated_each_setting_once() -> None:
    search = searched(0.5, 0.7, None, 0.7, 0.6, 0.7, alphas=(0.1, 0.2, 0.3, 0.2, 0.4, 0.5))
    assert [trial.number for trial in confirm.nominate(search)[:3]] == [1, 5, 4]
    assert [trial.number for trial in confirm.nominate(search)[:9]] == [1, 5, 4, 0]


def test_the_mean_over_fresh_seeds_decides_not_the_luck_of_the_search() -> None:
    search = searched(0.9, 0.8, 0.1)
    given = {(0.0, 0): 0.6, (0.0, 1): 0.7, (0.0, 2): 0.5}
    given |= {(0.01, 0): 0.8, (0.01, 1): 0.75, (0.01, 2): 0.7}
    asked = run_all(search, given, seed=5)
    assert [run["seed"] for run in asked] == [1005, 1005, 1006, 1006, 1007, 1007], "none is 5"
    found = confirm.confirmed_settings(search)
    assert [one.trial for one in found] == [1, 0]
    first, second = found
    assert confirm.winning_setting(found) is first
    assert first.interval.value == pytest.approx(0.75)
    assert (first.optimism, second.optimism) == pytest.approx((0.05, 0.3))
    low, high = stats.t.interval(0.95, 2, loc=0.75, scale=stats.sem([0.8, 0.75, 0.7]))
    assert (first.interval.low, first.interval.high) == pytest.approx((low, high))
    opened = confirm.open_confirmation(search)
    assert opened.trials[first.median_run].value == 0.75, "the median, not the luckiest"
    told = confirm.confirmation(found)
    assert told is not None
    assert (told.winner, told.run, told.seed) == (1, first.median_run, 1006)
    json.dumps(asdict(told), allow_nan=False)


def test_a_setting_that_fails_with_a_seed_does_not_win() -> None:
    search = searched(0.9, 0.8)
    given: dict[tuple[float, int], float | None]
    given = {(0.0, 0): 0.95, (0.0, 1): None, (0.01, 0): 0.5, (0.01, 1): 0.5}
    run_all(search, given, seeds=2)
    found = confirm.confirmed_settings(search)
    assert [(one.trial, one.failed) for one in found] == [(1, ()), (0, (1001,))]
    assert confirm.winning_setting(found) is found[0]
    assert confirm.winning_setting(found[1:]) is None, "if all failed there is none"


def test_more_seeds_or_settings_add_only_what_is_missing() -> None:
    search = searched(0.9, 0.8)
    same = {(alpha, seed): 0.5 + alpha for alpha in (0.0, 0.01) for seed in range(3)}
    assert len(run_all(search, same, count=1, seeds=2)) == 2
    assert run_all(search, same, count=1, seeds=2) == []
    added = run_all(search, same, count=2, seeds=3)
    assert sorted((run["alpha"], run["seed"]) for run in added) == [
        (0.0, 1002), (0.01, 1000), (0.01, 1001), (0.01, 1002)
    ]  # fmt: skip
    assert [len(one.values) for one in confirm.confirmed_settings(search)] == [3, 3]


def test_a_setting_with_fewer_seeds_than_others_waits() -> None:
    search = searched(0.9, 0.8)
    run_all(search, {(0.0, 0): 0.4, (0.0, 1): 0.4}, count=1, seeds=2)
    run_all(search, {(0.0, 0): 0.4, (0.01, 0): 0.9}, count=2, seeds=1)
    found = confirm.confirmed_settings(search)
    assert [one.trial for one in found] == [0, 1]
    assert math.isnan(found[1].interval.low), "one seed says nothing of its spread"
    assert confirm.winning_setting(found) is found[0]


def test_a_driver_that_died_loses_and_doubles_nothing() -> None:
    search = searched(0.9, 0.8)
    opened = confirm.open_confirmation(search)
    nominated, seeds = confirm.nominate(search)[:2], fresh_seeds(0, 2)
    queue = confirm.ConfirmationQueue(opened, nominated, seeds)
    assert queue.left == 4
    begun, bare = opened.ask(), opened.ask()
    first = queue.suggest(begun)
    # The driver dies: one run is under way, the other was asked for and given nothing.
    again = confirm.ConfirmationQueue(confirm.open_confirmation(search), nominated, seeds)
    assert again.left == 2
    held = [optuna.Trial(opened, run._trial_id) for run in (begun, bare)]
    rest = [again.suggest(run) for run in held] + [again.suggest(opened.ask()) for _ in range(2)]
    assert rest[0] == first
    assert len({(run["alpha"], run["seed"]) for run in rest}) == 4
    assert again.tags(bare.number) == {"confirms": 1}


def test_a_run_that_was_asked_for_and_is_not_wanted_any_more_goes_back() -> None:
    search = searched(0.9, 0.8)
    opened = confirm.open_confirmation(search)
    run_all(search, {(0.0, 0): 0.4}, count=1, seeds=1)
    bare = opened.ask().number  # its driver dies
    queue = confirm.ConfirmationQueue(opened, confirm.nominate(search)[:1], fresh_seeds(0, 1))
    assert queue.left == 0 and opened.trials[bare].state is TrialState.WAITING
    queue = confirm.ConfirmationQueue(opened, confirm.nominate(search)[:2], fresh_seeds(0, 1))
    run = opened.ask()
    assert (queue.left, run.number, queue.suggest(run)["alpha"]) == (1, bare, 0.01)


@pytest.mark.parametrize("taken", [False, True], ids=["refused", "its answer lost"])
@pytest.mark.parametrize("call", [0, 1, 2])
def test_a_storage_that_goes_away_in_between_loses_and_doubles_nothing(
    call: int, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = searched(0.9, 0.8)
    opened = confirm.open_confirmation(search)
    queue = confirm.ConfirmationQueue(opened, confirm.nominate(search)[:2], fresh_seeds(0, 1))
    write, calls = optuna.Trial.set_user_attr, iter(range(9))

    def away(run: optuna.Trial, key: str, value: object) -> None:
        failing = next(calls) == call
        if taken or not failing:
            write(run, key, value)
        if failing:
            raise ConnectionError

    monkeypatch.setattr(optuna.Trial, "set_user_attr", away)
    run = opened.ask()
    with pytest.raises(ConnectionError):
        queue.suggest(run)
    # As the bridge asks again: with the run as the storage has it.
    asked = [queue.suggest(optuna.Trial(opened, run._trial_id)), queue.suggest(opened.ask())]
    assert [one["alpha"] for one in asked] == [0.0, 0.01]


def test_nothing_is_made_where_nothing_was_confirmed() -> None:
    search = searched(0.9)
    assert confirm.confirmed_settings(search) == [] and confirm.confirming_runs(search) == []
    assert optuna.get_all_study_names(search._storage) == ["s"]
    assert confirm.confirmation([]) is None
