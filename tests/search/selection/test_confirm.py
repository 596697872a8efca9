"""The best settings run again with fresh seeds, and the best mean wins."""

from __future__ import annotations

import io
import json
import math
from dataclasses import asdict
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from rich.console import Console
from scipy import stats

from search.callbacks.progress import Progress
from search.selection import confirm
from search.study.resume import resume_trials
from search.study.trial_controller import TrialController, TrialPolicy
from search.study.writer import StudyWriter
from search.tune.recovery import Recount
from search.worker.messages import EpochResult, TrialAssignment

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
    while queue.left:
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
    told = confirm.confirmation(search, found)
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
    assert queue.left == 1
    run = opened.ask()
    assert (run.number, queue.suggest(run)["alpha"]) == (bare, 0.01)
    assert queue.left == 0


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
    assert confirm.confirmation(search, []) is None


def values_of(given: dict[tuple[float, int], float], alpha: object, seed: object) -> float:
    assert isinstance(alpha, float) and isinstance(seed, int)
    return given[alpha, seed - confirm.FIRST_SEED]


FAR: dict[tuple[float, int], float] = {
    (alpha, seed): mean + 0.001 * (seed * (3 + round(100 * alpha)) % 5)
    for alpha, mean in ((0.0, 0.5), (0.01, 0.8), (0.02, 0.3))
    for seed in range(6)
}
"""Three settings that two seeds tell apart."""


def test_runs_are_spent_where_they_decide_and_the_result_says_so() -> None:
    search = searched(0.9, 0.8, 0.7)
    asked = run_all(search, dict(FAR), count=3, seeds=6)
    assert [run["alpha"] for run in asked].count(0.01) == 3
    assert len(asked) == 7, "two seeds of the others"
    found = confirm.confirmed_settings(search)
    assert [(one.trial, len(one.values)) for one in found] == [(1, 3), (0, 2), (2, 2)]
    told = confirm.confirmation(search, found)
    assert told is not None
    assert (told.winner, told.ended, told.runs, told.budget) == (1, "separated", 7, 18)
    assert told.seeds_each == 6 and told.noise is not None and told.noise < 0.002
    behind = told.settings[1].behind
    assert told.settings[0].behind is None and behind is not None
    differences = [FAR[0.01, seed] - FAR[0.0, seed] for seed in range(2)]
    assert behind.mean == pytest.approx(sum(differences) / 2)
    assert behind.low < behind.mean < behind.high
    assert run_all(search, dict(FAR), count=3, seeds=6) == [], "started again, it runs no more"


def test_settings_that_stay_close_spend_the_budget() -> None:
    search = searched(0.9, 0.8)
    same = {(alpha, seed): 0.5 + 0.1 * (seed % 2) for alpha in (0.0, 0.01) for seed in range(4)}
    assert len(run_all(search, dict(same), count=2, seeds=4)) == 8
    told = confirm.confirmation(search, confirm.confirmed_settings(search))
    assert told is not None and (told.ended, told.runs, told.budget) == ("budget", 8, 8)


def test_a_mean_of_few_seeds_ranks_below_one_of_more() -> None:
    """Also where it is higher."""
    search = searched(0.9, 0.8)
    run_all(search, {(0.0, seed): 0.4 for seed in range(3)}, count=1, seeds=3)
    run_all(search, {(0.01, 0): 0.9}, count=2, seeds=1)
    assert [one.trial for one in confirm.confirmed_settings(search)] == [0, 1]


def test_a_study_that_an_earlier_release_confirmed_keeps_its_winner() -> None:
    """All seeds of each setting, and no word about what was planned."""
    search = searched(0.9, 0.8, 0.7)
    opened = confirm.open_confirmation(search)
    for seed in range(4):
        for trial, alpha in enumerate((0.0, 0.01, 0.02)):
            run = opened.ask()
            run.set_user_attr("params", {"alpha": alpha})
            run.set_user_attr("of", trial)
            run.set_user_attr("seed", confirm.FIRST_SEED + seed)
            opened.tell(run, FAR[alpha, seed])
    told = confirm.confirmation(search, confirm.confirmed_settings(search))
    assert told is not None
    assert (told.winner, told.runs, told.budget, told.seeds_each) == (1, 12, 12, 4)
    assert run_all(search, dict(FAR), count=3, seeds=4) == []
    assert run_all(search, dict(FAR), count=3, seeds=5) == [], "and its race is decided"


def test_a_run_that_was_created_before_the_race_was_decided_still_gets_a_setting() -> None:
    search = searched(0.9, 0.8, 0.7)
    opened = confirm.open_confirmation(search)
    queue = confirm.ConfirmationQueue(opened, confirm.nominate(search)[:3], fresh_seeds(0, 6))
    last = None
    for number in range(7):
        last = opened.ask()
        params = queue.suggest(last)
        if number < 6:
            opened.tell(last, values_of(dict(FAR), params["alpha"], params["seed"]))
    bare = opened.ask()
    assert last is not None and queue.left == 0
    opened.tell(last, FAR[0.01, 2])
    given = queue.suggest(bare)
    assert given["seed"] == confirm.FIRST_SEED + 2
    assert given == queue.suggest(optuna.Trial(opened, bare._trial_id))


@pytest.mark.parametrize("killed_after", range(1, 12))
def test_a_driver_that_is_killed_comes_to_the_same_runs(killed_after: int) -> None:
    """Two runs at a time through a real controller; the second driver resumes what was running."""
    close = {
        (a, s): v if a != 0.02 else FAR[0.01, s] - 0.002 * (s % 2) for (a, s), v in FAR.items()
    }

    def drive(search: optuna.Study, epochs: int) -> int:
        """A driver that dies after so many epochs; returns those that it did not use."""
        opened = confirm.open_confirmation(search)
        nominated = confirm.nominate(search)[:3]
        queue = confirm.ConfirmationQueue(opened, nominated, fresh_seeds(0, 6))
        writer = StudyWriter(opened, queue.suggest, "none")
        controller = TrialController(writer, TrialPolicy(epochs=1), queue.left)
        trials = len(opened.trials) + queue.left
        with Progress(Console(file=io.StringIO()), "s", trials, 1, "run") as progress:
            controller.callbacks = (Recount(lambda: queue.left, controller, progress), progress)
            resume_trials(controller, Path("none"), "run", lambda _: None)
            running: list[TrialAssignment] = []
            while controller.queue or controller.new_trials_left or running:
                while len(running) < 2 and (controller.queue or controller.new_trials_left):
                    running.append(
                        controller.start() if controller.queue else controller.start_new()
                    )
                if not epochs:
                    return 0
                first = running.pop(0)
                value = values_of(close, first.params["alpha"], first.params["seed"])
                controller.record(first.number, EpochResult(1, value))
                controller.release(first.number)
                epochs -= 1
            done = len(opened.get_trials(states=(TrialState.COMPLETE,)))
            assert progress.trials == done, "the progress shows as many as there are"
        return epochs

    undisturbed, killed = searched(0.9, 0.8, 0.7), searched(0.9, 0.8, 0.7)
    drive(undisturbed, 99)
    drive(killed, killed_after)
    drive(killed, 99)
    runs = {
        study: sorted(
            (run.user_attrs["of"], run.user_attrs["seed"], run.value)
            for run in confirm.confirming_runs(study)
        )
        for study in (undisturbed, killed)
    }
    assert runs[undisturbed] == runs[killed]
    assert 9 <= len(runs[killed]) < 18
