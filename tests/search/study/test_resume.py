"""A trial changes hands: its worker dies, its driver dies, all of Ray does. The controller without
Ray; a driver that died is one whose study is read from the disk again."""

from __future__ import annotations

import optuna
import pytest
from optuna.trial import TrialState

from search.optimizer.samplers import SAMPLERS
from search.optimizer.space import Space, Value
from search.optimizer.space_file import parse_space
from search.study.active_trials import MAX_WORKER_DEATHS
from search.study.events import REASON
from search.study.status import running_trials
from search.study.trial_controller import FindUnreported, TrialController
from search.worker.messages import EpochResult, TrialAssignment, TrialFailed, WorkerLost
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


def of(epoch: int) -> EpochResult:
    return EpochResult(epoch, 0.1 * epoch, {"loss": 1.0 / epoch}, [[epoch]])


def test_a_trial_of_a_dead_driver_goes_on(make_study: MakeStudy) -> None:
    searched = parse_space(SPACE, KNOWN)
    dead = controller_of(make_study(searched), searched, EPOCHS)
    dead.start_new()
    assignment = dead.start_new()
    for epoch in (1, 2, 3):
        dead.record(assignment.number, of(epoch))

    study = make_study(searched)
    heard = Heard()
    controller = controller_of(study, searched, EPOCHS, heard, options=ControllerOptions(trials=1))
    resting = running_trials(study)
    assert [trial.number for trial in resting] == [0, 1]
    # The worker wrote one epoch down that the driver never heard of: it is yet to be reported.
    for trial in resting:
        controller.resume(trial, {epoch: of(epoch) for epoch in (1, 2, 3, 4)})
    assert heard.asked_for[1] == assignment.params
    assert heard.reports == [(1, of(1)), (1, of(2)), (1, of(3))], "figures and all"
    assert (len(controller.queue), controller.new_trials_left, controller.epochs_recorded) == (
        2,
        1,
        0,
    )
    assert controller.start() == TrialAssignment(0, heard.asked_for[0], 0, EPOCHS, 0.0)
    assert controller.start() == TrialAssignment(1, assignment.params, 3, EPOCHS, 0.0)

    # It comes by two epochs again, which count once, whatever they say now.
    for epoch in (2, 3):
        assert not controller.record(1, EpochResult(epoch, 0.9))
    assert len(heard.reports) == 3
    for epoch in range(4, EPOCHS + 1):
        assert not controller.record(1, of(epoch))
    controller.release(1)
    trial = study.trials[1]
    assert trial.state is TrialState.COMPLETE
    assert trial.value == of(EPOCHS).value
    assert trial.intermediate_values == {e: of(e).value for e in range(1, EPOCHS + 1)}
    assert heard.ended[0].reports == tuple(of(epoch) for epoch in range(1, EPOCHS + 1))
    assert controller.epochs_recorded == EPOCHS - 3
    assert controller.start_new().number == 2, "a new trial is a new one"


def test_without_what_the_worker_wrote_the_values_are_there(make_study: MakeStudy) -> None:
    searched = parse_space(SPACE, KNOWN)
    dead = controller_of(make_study(searched), searched, EPOCHS)
    number = dead.start_new().number
    dead.record(number, of(1))
    study = make_study(searched)
    heard = Heard()
    controller = controller_of(study, searched, EPOCHS, heard)
    controller.resume(running_trials(study)[0], {})
    assert heard.reports == [(number, EpochResult(1, of(1).value))]
    assert controller.start().start_epoch == 1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_settings_that_were_half_drawn_are_drawn_to_the_end(
    sampler: str, make_study: MakeStudy
) -> None:
    searched = parse_space(DISCRETE if sampler == "grid" else SPACE, KNOWN)
    study = make_study(searched, sampler)
    for number in range(11):  # enough for tpe and gp to leave their random start
        trial = study.ask()
        study.tell(trial, float(searched.suggest(trial)["lr"]) + number)  # type: ignore[arg-type]
    half = study.ask()
    drawn = searched.dimensions[0].distribution
    assert isinstance(drawn, optuna.distributions.FloatDistribution)
    rate = half.suggest_float("lr", drawn.low, drawn.high, step=drawn.step)

    again = make_study(searched, sampler)
    controller = controller_of(again, searched, EPOCHS)
    controller.resume(running_trials(again)[0], {})
    assignment = controller.start()
    assert (assignment.number, assignment.params["lr"]) == (half.number, rate)
    assert "layers" in assignment.params
    assert again.trials[half.number].params == assignment.params
    assert len(again.trials) == 12


def test_enqueued_settings_are_not_lost_with_their_driver(make_study: MakeStudy) -> None:
    text = SPACE + "[[enqueue]]\nlr = 0.25\nlayers = 1\n[[enqueue]]\nlr = 0.75\n"
    searched = parse_space(text, KNOWN)
    make_study(searched).ask()  # dies before anything is drawn

    study = make_study(searched)
    controller = controller_of(study, searched, EPOCHS)
    controller.resume(running_trials(study)[0], {})
    taken, fresh, drawn = controller.start(), controller.start_new(), controller.start_new()
    assert (taken.number, taken.params["lr"], taken.params["layers"]) == (0, 0.25, 1)
    assert (fresh.number, fresh.params["lr"]) == (1, 0.75)
    assert drawn.params["lr"] not in (0.25, 0.75)
    assert len(study.trials) == 3


def test_a_trial_whose_last_epoch_was_reported_needs_no_worker(make_study: MakeStudy) -> None:
    searched = parse_space(SPACE, KNOWN)
    dead = controller_of(make_study(searched), searched, EPOCHS)
    number = dead.start_new().number
    for epoch in range(1, EPOCHS + 1):
        dead.record(number, of(epoch))

    study = make_study(searched)
    heard = Heard()
    controller = controller_of(study, searched, EPOCHS, heard)
    controller.resume(running_trials(study)[0], {})
    assert (controller.active, len(controller.queue)) == ((), 0)
    assert study.trials[number].state is TrialState.COMPLETE
    assert study.trials[number].value == of(EPOCHS).value
    assert study.trials[number].user_attrs[REASON] == "epoch 9: value 0.900"
    assert [trial.state for trial in heard.ended] == [TrialState.COMPLETE]


@pytest.mark.parametrize("pruner", ["median", "halving", "hyperband"])
def test_a_trial_that_the_pruner_ends_needs_no_worker(pruner: str, make_study: MakeStudy) -> None:
    """Its driver died between its report and the pruner's word."""
    searched = parse_space(SPACE, KNOWN)
    study = make_study(searched, "random", pruner, EPOCHS)
    first = controller_of(study, searched, EPOCHS, options=ControllerOptions(pruner=pruner))
    for _ in range(9):  # hyperband: some of them are rivals in its bracket
        number = first.start_new().number
        if all(not first.record(number, EpochResult(e, 0.9)) for e in range(1, EPOCHS + 1)):
            first.finish(number)
    left = []
    for _ in range(4):
        trial = study.ask()
        searched.suggest(trial)
        trial.report(0.1, 1)
        left.append(trial.number)

    again = make_study(searched, "random", pruner, EPOCHS)
    controller = controller_of(again, searched, EPOCHS, options=ControllerOptions(pruner=pruner))
    for resting in running_trials(again):
        if resting.number in left:
            controller.resume(resting, {})
    pruned = [again.trials[n] for n in left if again.trials[n].state is TrialState.PRUNED]
    assert pruned
    assert len(pruned) + len(controller.queue) == len(left)
    if pruner != "hyperband":
        assert len(pruned) == len(left)
    for ended in pruned:
        assert ended.user_attrs[REASON].startswith("epoch 1: value 0.100 ")
        assert ended.value == 0.1


@pytest.mark.parametrize("pruner", ["median", "halving", "hyperband"])
def test_a_decision_that_its_driver_died_with_stands(pruner: str, make_study: MakeStudy) -> None:
    """Optuna's pruners decide about an epoch once: asked again, they let the trial go on."""
    searched = parse_space(SPACE, KNOWN)
    first = controller_of(
        make_study(searched, "random", pruner, EPOCHS),
        searched,
        EPOCHS,
        options=ControllerOptions(pruner=pruner),
    )
    pruned = []
    for value in (0.9, 0.9, 0.9, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1):
        number = first.start_new().number
        if any(first.record(number, EpochResult(epoch, value)) for epoch in range(1, EPOCHS + 1)):
            pruned.append(number)
        else:
            first.finish(number)
    assert pruned
    again = make_study(searched, "random", pruner, EPOCHS)
    controller = controller_of(again, searched, EPOCHS, options=ControllerOptions(pruner=pruner))
    for resting in running_trials(again):
        controller.resume(resting, {})
    assert len(controller.queue) == 0
    assert {again.trials[number].state for number in pruned} == {TrialState.PRUNED}


def die(controller: TrialController, number: int) -> None:
    """As the scheduler and then the searcher tell it."""
    controller.interrupt(number, WorkerLost("the worker's\nprocess ended"))
    controller.release(number)


def test_a_trial_that_its_workers_die_of_fails(make_study: MakeStudy) -> None:
    searched = parse_space(SPACE, KNOWN)
    study = make_study(searched)
    heard = Heard()
    controller = controller_of(study, searched, EPOCHS, heard)
    assignment = controller.start_new()
    controller.record(assignment.number, of(1))
    for time in range(1, MAX_WORKER_DEATHS):
        die(controller, assignment.number)
        assert heard.interruptions == [(assignment.number, "the worker's process ended")] * time
        assert len(controller.queue) == 1
        assert controller.start() == TrialAssignment(
            assignment.number, assignment.params, 1, EPOCHS, 0.0
        )
        controller.record(assignment.number, of(1))  # from its checkpoint: nothing new
    assert running_trials(study)
    die(controller, assignment.number)
    trial = study.trials[assignment.number]
    assert trial.state is TrialState.FAIL
    assert trial.user_attrs[REASON] == "the worker's process ended: 3 times in a row in epoch 2"
    assert trial.intermediate_values == {1: of(1).value}
    assert (controller.active, len(controller.queue), len(heard.interruptions)) == (
        (),
        0,
        MAX_WORKER_DEATHS - 1,
    )


def saved(*epochs: int) -> FindUnreported:
    """What workers finished and saved."""
    return lambda trial: [of(epoch) for epoch in epochs if epoch > trial.epoch]


def test_what_a_worker_finished_and_nobody_heard_of_counts(make_study: MakeStudy) -> None:
    searched = parse_space(SPACE, KNOWN)
    study = make_study(searched)
    heard = Heard()
    controller = controller_of(
        study, searched, EPOCHS, heard, options=ControllerOptions(find_unreported=saved(1, 2))
    )
    number = controller.start_new().number
    for again in range(1, MAX_WORKER_DEATHS):
        die(controller, number)
        assert controller.start().start_epoch == 2, f"death {again}"
    die(controller, number)
    trial = study.trials[number]
    assert trial.user_attrs[REASON] == "the worker's process ended: 3 times in a row in epoch 3"
    assert trial.intermediate_values == {epoch: of(epoch).value for epoch in (1, 2)}
    assert heard.reports == [(number, of(1)), (number, of(2))]


def test_a_driver_hears_what_the_one_before_it_did_not(make_study: MakeStudy) -> None:
    searched = parse_space(SPACE, KNOWN)
    controller_of(make_study(searched), searched, EPOCHS).start_new()  # both die
    study = make_study(searched)
    heard = Heard()
    controller = controller_of(
        study, searched, EPOCHS, heard, options=ControllerOptions(find_unreported=saved(1, 2))
    )
    controller.resume(running_trials(study)[0], {1: of(1), 2: of(2)})
    assert heard.reports == [(0, of(1)), (0, of(2))] and controller.start().start_epoch == 2

    study = make_study(searched)
    every = saved(*range(1, EPOCHS + 1))
    controller = controller_of(
        study, searched, EPOCHS, Heard(), options=ControllerOptions(find_unreported=every)
    )
    controller.resume(running_trials(study)[0], {})
    assert (controller.active, len(controller.queue)) == ((), 0)
    assert study.trials[0].state is TrialState.COMPLETE


def test_an_epoch_in_between_gives_a_trial_its_lives_back(make_study: MakeStudy) -> None:
    searched = parse_space(SPACE, KNOWN)
    study = make_study(searched)
    controller = controller_of(study, searched, EPOCHS)
    number = controller.start_new().number
    for epoch in range(1, EPOCHS + 1):
        for _ in range(MAX_WORKER_DEATHS - 1):
            die(controller, number)
            assert controller.start().start_epoch == epoch - 1
        controller.record(number, of(epoch))
    controller.release(number)
    assert study.trials[number].state is TrialState.COMPLETE


def test_trials_go_on_in_the_order_in_which_they_waited(make_study: MakeStudy) -> None:
    searched = parse_space(SPACE, KNOWN)
    controller = controller_of(make_study(searched), searched, EPOCHS)
    numbers = [controller.start_new().number for _ in range(3)]
    for number in (2, 0, 1):
        die(controller, numbers[number])
    assert [controller.start().number for _ in range(3)] == [2, 0, 1]


def test_a_lost_ray_is_no_trials_fault(make_study: MakeStudy) -> None:
    searched = parse_space(SPACE, KNOWN)
    study = make_study(searched)
    heard = Heard()
    controller = controller_of(study, searched, EPOCHS, heard)
    numbers = [controller.start_new().number for _ in range(3)]
    controller.record(numbers[1], of(1))
    controller.interrupt(numbers[2], TrialFailed("diverged"))  # Tune did not come to let go of it
    for time in range(1, 2 * MAX_WORKER_DEATHS):
        controller.all_workers_lost("Ray's raylet ended")
        # One of them was waiting already: it waits once.
        assert heard.interruptions == [(n, "Ray's raylet ended") for n in (0, 1)] * time
        controller.all_workers_lost("Ray's raylet ended")
        assert len(controller.queue) == 2
        assert [controller.start().start_epoch for _ in range(2)] == [0, 1]
    assert [trial.state for trial in study.trials] == [*[TrialState.RUNNING] * 2, TrialState.FAIL]
    for number in numbers[:2]:
        die(controller, number)
    assert len(controller.queue) == 2


def test_resting_trials_stay_running_in_the_storage(make_study: MakeStudy) -> None:
    searched = parse_space(SPACE, KNOWN)
    study = make_study(searched)
    heard = Heard()
    controller = controller_of(study, searched, EPOCHS, heard)
    numbers = [controller.start_new().number for _ in range(3)]
    controller.record(numbers[0], of(1))
    die(controller, numbers[1])
    before = [trial for trial in study.trials if trial.number in numbers]
    controller.pause_all("stopped by the user")
    assert sorted(heard.pauses) == [(number, "stopped by the user") for number in numbers]
    assert heard.ended == []
    assert (controller.active, len(controller.queue)) == ((), 0)
    assert study.trials == before
    controller.release(numbers[0])  # a late word from Tune
    assert [trial.state for trial in study.trials] == [TrialState.RUNNING] * 3


class Broken(Space):
    """Draws one setting, then it is over."""

    def suggest(self, trial: optuna.trial.BaseTrial) -> dict[str, Value]:
        trial.suggest_float("lr", 0.0, 1.0)
        raise RuntimeError("no")


def test_a_sampler_that_raises_loses_no_trial(make_study: MakeStudy) -> None:
    """And whoever never heard of the trial does not hear that it rests."""
    searched = parse_space(SPACE, KNOWN)
    heard = Heard()
    controller = controller_of(make_study(searched), Broken(searched.dimensions), EPOCHS, heard)
    with pytest.raises(RuntimeError):
        controller.start_new()
    controller.pause_all("the driver failed")
    assert heard.asked_for == {}
    assert heard.pauses == []

    study = make_study(searched)
    (resting,) = running_trials(study)
    again = controller_of(study, searched, EPOCHS)
    again.resume(resting, {})
    assert again.start().params["lr"] == resting.params["lr"]
