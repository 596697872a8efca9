"""The controller without Ray: samplers, pruners, verdicts and reasons in Optuna's own storage."""

from __future__ import annotations

import math

import optuna
import pytest
from optuna.trial import TrialState

from fdan.errors import ConfigError
from search.config.options import SearchConfig
from search.optimizer.pruners import PRUNERS
from search.optimizer.samplers import SAMPLERS, make_sampler
from search.optimizer.space import Space
from search.optimizer.space_file import parse_space
from search.study.active_trials import MAX_WORKER_DEATHS
from search.study.events import REASON, TrialOutcome
from search.worker.messages import EpochResult, OutOfGpuMemory, TrialFailed, WorkerLost
from tests.search.conftest import (
    DISCRETE,
    KNOWN,
    SPACE,
    ControllerOptions,
    Heard,
    MakeStudy,
    controller_of,
)

EPOCHS = 9


def run(
    study: optuna.Study, searched: Space, trials: int, pruner: str = "none"
) -> list[TrialOutcome]:
    """Trials two at a time, whose value grows towards lr."""
    heard = Heard()
    controller = controller_of(
        study, searched, EPOCHS, heard, options=ControllerOptions(pruner=pruner, trials=trials)
    )
    for _ in range(0, trials, 2):
        pair = [controller.start_new(), controller.start_new()]
        for epoch in range(1, EPOCHS + 1):
            for assignment in list(pair):
                rate = float(assignment.params["lr"])  # type: ignore[arg-type]
                if controller.record(
                    assignment.number, EpochResult(epoch, rate * (1 - 0.5**epoch))
                ):
                    controller.release(assignment.number)
                    pair.remove(assignment)
        for assignment in pair:
            controller.release(assignment.number)
    assert (controller.new_trials_left, controller.active, len(controller.queue)) == (0, (), 0)
    assert controller.epochs_recorded == len(heard.reports)
    return heard.ended


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_runs_a_study(sampler: str, make_study: MakeStudy) -> None:
    searched = parse_space(DISCRETE if sampler == "grid" else SPACE, KNOWN)
    # Enough for tpe and gp to leave their random start.
    study = make_study(searched, sampler)
    run(study, searched, 14)
    trials = study.get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 14
    assert all(("heads" in t.params) == (t.params["layers"] > 0) for t in trials)
    if sampler == "grid":
        assert len({tuple(sorted(t.params.items())) for t in trials}) == 14


@pytest.mark.parametrize("pruner", PRUNERS)
def test_every_pruner_decides_with_a_reason(pruner: str, make_study: MakeStudy) -> None:
    searched = parse_space(SPACE, KNOWN)
    study = make_study(searched, "random", pruner, EPOCHS)
    closed = run(study, searched, 30, pruner)
    pruned = [trial for trial in closed if trial.state is TrialState.PRUNED]
    assert bool(pruned) == (pruner != "none")
    assert len(pruned) < 30
    for trial in pruned:
        stored = study.trials[trial.number]
        last = trial.reports[-1]
        assert stored.state is TrialState.PRUNED
        assert stored.intermediate_values == {r.epoch: r.value for r in trial.reports}
        assert stored.user_attrs[REASON] == trial.reason
        assert trial.reason.startswith(f"epoch {last.epoch}: ")
        assert f"value {last.value:.3f}" in trial.reason
        assert pruner in trial.reason
        assert last.epoch < EPOCHS


def test_median_reason_gives_the_median(make_study: MakeStudy) -> None:
    searched = parse_space(SPACE, KNOWN)
    study = make_study(searched, "random", "median", EPOCHS)
    controller = controller_of(study, searched, EPOCHS, options=ControllerOptions(pruner="median"))
    for value in (0.1, 0.2, 0.3, 0.4, 0.5):
        number = controller.start_new().number
        for epoch in range(1, EPOCHS + 1):
            controller.record(number, EpochResult(epoch, value))
        controller.finish(number)
    number = controller.start_new().number
    assert controller.record(number, EpochResult(1, 0.25))
    controller.finish(number)
    reason = study.trials[number].user_attrs[REASON]
    assert reason == "epoch 1: value 0.250 below the median 0.300 of 5 trials"


def test_last_epoch_is_never_pruned(make_study: MakeStudy) -> None:
    searched = parse_space(SPACE, KNOWN)
    study = make_study(searched, "random", "halving", EPOCHS)
    controller = controller_of(study, searched, EPOCHS, options=ControllerOptions(pruner="halving"))
    for value in (0.9, 0.8, 0.7, 0.1):
        number = controller.start_new().number
        assert not controller.record(number, EpochResult(EPOCHS, value))
        controller.finish(number)
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_fails_the_trial(value: float, make_study: MakeStudy) -> None:
    searched = parse_space(SPACE, KNOWN)
    study = make_study(searched)
    controller = controller_of(study, searched, EPOCHS)
    number = controller.start_new().number
    assert not controller.record(number, EpochResult(1, 0.5))
    assert controller.record(number, EpochResult(2, value))
    controller.finish(number)
    trial = study.trials[number]
    assert trial.state is TrialState.FAIL
    assert trial.intermediate_values == {1: 0.5}
    assert trial.user_attrs[REASON] == f"epoch 2: value is {value}"


def test_ending_all_leaves_nothing_running(make_study: MakeStudy) -> None:
    """A spent time budget: what was learnt is kept, and every trial has its reason."""
    searched = parse_space(SPACE, KNOWN)
    study = make_study(searched)
    heard = Heard()
    controller = controller_of(study, searched, EPOCHS, heard)
    numbers = [controller.start_new().number for _ in range(4)]
    for number in numbers[:2]:
        controller.record(number, EpochResult(1, 0.5))
    controller.interrupt(numbers[1], TrialFailed("diverged"))  # before the time was up
    controller.interrupt(numbers[2], WorkerLost("the worker died"))
    controller.release(numbers[2])  # waits for another worker
    controller.stop_all("the time budget is spent")
    controller.release(numbers[0])  # a late word from Tune changes nothing
    controller.finish(numbers[0])
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.PRUNED, *[TrialState.FAIL] * 3]
    spent = "the time budget is spent"
    expected = [f"epoch 1: {spent}", "diverged", spent, spent]
    assert [trial.user_attrs[REASON] for trial in study.trials] == expected
    assert [(trial.number, trial.reason) for trial in heard.ended] == [*enumerate(expected)]
    assert study.trials[0].intermediate_values == {1: 0.5}
    assert (controller.active, len(controller.queue)) == ((), 0)


@pytest.mark.parametrize("end", ["time", "death", "memory", "ray", "trouble"])
def test_one_that_has_done_all_its_epochs_is_complete(end: str, make_study: MakeStudy) -> None:
    """Whatever becomes of the group that it was trained in, whose assignment goes on."""
    searched = parse_space(SPACE, KNOWN)
    study, heard = make_study(searched), Heard()
    controller = controller_of(study, searched, EPOCHS, heard, options=ControllerOptions(gpus=0.5))
    done, under_way = (controller.start_new().number for _ in range(2))
    for epoch in range(1, EPOCHS + 1):
        controller.record(done, EpochResult(epoch, 0.7))
    controller.record(under_way, EpochResult(1, 0.5))
    if end == "time":
        controller.stop_all("the time budget is spent")
    elif end == "ray":
        controller.all_workers_lost("Ray's raylet ended")
    else:
        for number in (done, under_way):
            if end == "death":
                controller.interrupt(number, WorkerLost("the worker died"))
            elif end == "memory":
                controller.interrupt(number, OutOfGpuMemory())
            else:
                controller.interrupt(number, TrialFailed("RuntimeError: a fault"))
            controller.release(number)
    assert study.trials[done].state is TrialState.COMPLETE and study.trials[done].value == 0.7
    assert study.trials[under_way].state is not TrialState.COMPLETE
    assert not [number for number, _ in heard.interruptions if number == done]


def test_what_was_not_begun_when_the_time_is_up_is_asked_for_first(make_study: MakeStudy) -> None:
    """It is nobody's failure. The next driver asks for it, with the settings it was drawn with."""
    searched = parse_space(SPACE, KNOWN)
    study, heard = make_study(searched), Heard()
    controller = controller_of(study, searched, EPOCHS, heard, options=ControllerOptions(trials=5))
    _, second, _ = (controller.enqueue_new() for _ in range(3))
    controller.start(second)
    drawn = [dict(trial.params) for trial in study.trials]
    assert list(heard.asked_for) == [1], "the others have not begun"
    controller.stop_all("the time budget is spent")
    assert [trial.number for trial in heard.ended] == [1]
    waiting, failed = TrialState.WAITING, TrialState.FAIL
    assert [trial.state for trial in study.trials] == [waiting, failed, waiting]
    assert (controller.active, len(controller.queue)) == ((), 0)
    again = controller_of(study, searched, EPOCHS, heard, options=ControllerOptions(trials=3))
    assert [again.start_new().number for _ in range(3)] == [0, 2, 3]
    assert [dict(trial.params) for trial in study.trials[:3]] == drawn
    assert heard.asked_for[2] == drawn[2]


def test_the_first_verdict_stays(make_study: MakeStudy) -> None:
    searched = parse_space(SPACE, KNOWN)
    study = make_study(searched)
    controller = controller_of(study, searched, EPOCHS)
    number = controller.start_new().number
    controller.interrupt(number, TrialFailed("diverged:\nthe loss is inf"))
    controller.interrupt(number, TrialFailed("something else"))
    controller.interrupt(number, WorkerLost("the worker died"))
    controller.release(number)
    assert study.trials[number].state is TrialState.FAIL
    assert study.trials[number].user_attrs[REASON] == "diverged: the loss is inf"


def test_a_trial_that_says_nothing_fails(make_study: MakeStudy) -> None:
    searched = parse_space(SPACE, KNOWN)
    study = make_study(searched)
    controller = controller_of(study, searched, EPOCHS)
    controller.release(controller.start_new().number)
    assert study.trials[0].state is TrialState.FAIL
    assert study.trials[0].user_attrs[REASON] == "ended without a report"


@pytest.mark.parametrize("reached", [3, 4])
def test_a_trial_waits_after_its_turn(reached: int, make_study: MakeStudy) -> None:
    """Also where its checkpoint was further than the driver that died had heard."""
    searched = parse_space(SPACE, KNOWN)
    study, heard = make_study(searched), Heard()
    controller = controller_of(study, searched, EPOCHS, heard, options=ControllerOptions(trials=1))
    assert controller.start(controller.enqueue_new(), 3).stop_epoch == 3
    for epoch in range(1, reached + 1):
        controller.record(0, EpochResult(epoch, 0.5))
    controller.release(0)
    assert not heard.ended and len(controller.queue) == 1
    assignment = controller.start()
    assert (assignment.start_epoch, assignment.stop_epoch) == (reached, EPOCHS)
    for epoch in range(reached + 1, EPOCHS + 1):
        controller.record(0, EpochResult(epoch, 0.5))
    controller.release(0)
    assert [trial.state for trial in heard.ended] == [TrialState.COMPLETE]


@pytest.mark.parametrize("gpus", [0.0, 0.3, 1.0])
def test_a_share_grows_until_there_is_no_more(gpus: float, make_study: MakeStudy) -> None:
    """Then it is the trial's own fault, and does not go on for ever."""
    heard = Heard()
    searched = parse_space(SPACE, KNOWN)
    controller = controller_of(
        make_study(searched),
        searched,
        EPOCHS,
        heard,
        options=ControllerOptions(gpus=gpus, trials=1),
    )
    assignment, shares = controller.start_new(), []
    for _ in range(6):
        shares.append(assignment.gpu_fraction)
        controller.interrupt(assignment.number, OutOfGpuMemory())
        controller.release(assignment.number)
        if not len(controller.queue):
            break
        assignment = controller.start()
    grown = [0.3, 0.6] if gpus == 0.3 else []
    assert shares == [*grown, *[gpus if not grown else 1.0] * MAX_WORKER_DEATHS]
    (ended,) = heard.ended
    assert ended.state is TrialState.FAIL and ended.reason.startswith("out of GPU memory: 3 times")


def test_grid_refuses_continuous_dimensions() -> None:
    with pytest.raises(ConfigError, match="lr is continuous"):
        make_sampler("grid", parse_space(SPACE, KNOWN), 0, 0)


def test_unknown_names() -> None:
    with pytest.raises(ConfigError, match=r"unknown sampler 'rando'.*did you mean 'random'"):
        SearchConfig(sampler="rando")
    with pytest.raises(ConfigError, match=r"unknown pruner 'medain'.*did you mean 'median'"):
        SearchConfig(pruner="medain")


def test_a_continued_study_draws_new_settings(make_study: MakeStudy) -> None:
    searched = parse_space(SPACE, KNOWN)
    run(make_study(searched), searched, 4)
    again = make_study(searched)
    run(again, searched, 4)
    assert len({trial.params["lr"] for trial in again.trials}) == 8
